"""Verdicts on specs as the vendor's users write them: each key, each form, each way to refuse.

`CASES` is a compact table: a base spec, the lines that a case changes (dotted key: YAML value, or
`...` to leave the key out), and the expected verdict: buildable, or the code, key and words of each
reason.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from calib.images import apply_ops
from compiler import check, spec
from compiler.vendor_keys import NO_EFFECT

GONE: Any = ...

SR = {
    "name": "sr_int8",
    "frontend": {
        "shape": {"input": [1, 3, 64, 96]},
        "type": "onnx",
        "checkpoint": "/absent/net.onnx",
        "dtype": "fp32",
    },
    "backend": {
        "type": "tvm_vacc",
        "dtype": "int8",
        "quantize": {"calibrate_mode": "percentile", "quantize_per_channel": True},
    },
    "dataset": {
        "type": "tvm",
        "path": "/absent/images",
        "sampler": {"suffix": "png", "get_data_num": 50},
        "process_ops": [
            {"type": "DecodeImage"},
            {"type": "Resize", "size": [64, 96]},
            {"type": "Normalize", "norm_type": None},
            {"type": "ToTensor"},
        ],
    },
    "workspace": {"path": "./out"},
}
TEXT = {"ids": [1, 384], "mask": [1, 384], "types": [1, 384]}
LLM = {"frontend.type": "huggingface", "frontend.checkpoint": "/absent/llm", "dataset": GONE}
DECODE, TENSOR = {"type": "DecodeImage"}, {"type": "ToTensor"}
SWAP = "COLOR_RGB2BGR"


@dataclass(frozen=True)
class Case:
    """One spec: changes to `SR`, and its verdict.

    Attributes:
        reasons: (code, key, words of the message) of each, in file order; none: buildable.
        no_effect: the keys that are listed so.
    """

    changes: dict[str, Any] = field(default_factory=dict)
    reasons: tuple[tuple[str, str, str], ...] = ()
    no_effect: tuple[str, ...] = ()
    note: str = ""


def ops(*steps: object) -> dict[str, Any]:
    return {"dataset.process_ops": list(steps)}


def compile_(**keys: Any) -> Case:
    return Case(
        {"backend.compile": keys}, no_effect=tuple(f"backend.compile.{key}" for key in keys)
    )


def quantize(**keys: Any) -> Case:
    return Case(
        {f"backend.quantize.{key}": value for key, value in keys.items()},
        no_effect=tuple(f"backend.quantize.{key}" for key in keys),
    )


def head(kind: str, words: str, **params: Any) -> Case:
    return Case(
        {"graph": {"extra_ops": {"type": kind, "params": params}}},
        (("capability", "graph.extra_ops.type", words),),
    )


def step_fault(step: object, words: str, code: str = "spec", key: str = "") -> Case:
    at = f"dataset.process_ops.1{key}"
    return Case(ops(DECODE, step, TENSOR), ((code, at, words),))


def frontend(kind: str, checkpoint: str) -> Case:
    changes = {"frontend.type": kind, "frontend.checkpoint": checkpoint}
    return Case(changes, (("frontend", "frontend.type", kind),))


FP16 = ("capability", "backend.dtype", "builds int8 only, not fp16")
HUGGINGFACE = ("frontend", "frontend.type", "huggingface")

CASES: dict[str, Case] = {
    # what is built
    "plain": Case(),
    "kl_divergence": Case({"backend.quantize.calibrate_mode": "kl_divergence"}),
    "max": Case({"backend.quantize.calibrate_mode": "max"}),
    "mse": Case({"backend.quantize.calibrate_mode": "mse"}),
    "calibrate_range": Case({"backend.quantize.calibrate_range": 0.999}),
    "calibrate_range_1": Case({"backend.quantize.calibrate_range": 1}),
    "calibrate_range_of_max": Case(
        {"backend.quantize": {"calibrate_mode": "max", "calibrate_range": 0.99}},
        no_effect=("backend.quantize.calibrate_range",),
    ),
    "per_tensor": Case({"backend.quantize.quantize_per_channel": False}),
    "weight_scale_power2": Case({"backend.quantize.weight_scale": "power2"}),
    "weight_scale_max": Case({"backend.quantize.weight_scale": "max"}),
    "no_quantize": Case({"backend.quantize": GONE}),
    "null_parts": Case({"backend.compile": None, "graph": None, "dataset.sampler": None}),
    "no_layers_to_keep": Case(
        {"backend.quantize.exclude_layers": [], "backend.quantize.skip_conv_layers": None}
    ),
    "grey": Case(
        {"frontend.shape": {"x": [1, 1, 64, 64]}}
        | ops(
            DECODE,
            {"type": "CvtColor", "code": "COLOR_RGB2YCrCb"},
            {"type": "Resize", "size": [64, 64]},
            {"type": "ChannelSplit", "index": 0},
            {"type": "Normalize", "norm_type": "None"},
            TENSOR,
        )
    ),
    "mean_std": Case(
        ops(
            DECODE,
            {"type": "Resize", "size": 64, "interpolation": "bicubic", "backend": "pillow"},
            {"type": "CenterCrop", "crop_size": [56, 56]},
            {"type": "Normalize", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
            TENSOR,
        )
    ),
    "mean_std_bgr": Case(
        ops(
            {"type": "DecodeImage", "backend": "opencv", "cv2_flags": 1},
            {"type": "CvtColor", "code": "COLOR_RGB2BGR"},
            {"type": "Normalize", "div255": False, "mean": [104, 117, 123], "std": [1, 1, 1]},
            TENSOR,
        )
    ),
    "letterbox": Case(
        ops(
            DECODE,
            {"type": "CvtColor", "code": "COLOR_BGR2RGB"},
            {"type": "Resize", "size": [640, -1], "adaptive_side": "long"},
            {"type": "Pad", "pad_to_square": True},
            {"type": "Normalize", "div255": True, "norm_type": None},
            TENSOR,
        )
    ),
    "null_div255": Case(
        ops(DECODE, {"type": "Normalize", "div255": None, "mean": [127.5], "std": [128]}, TENSOR),
        note="div255: null is read as false",
    ),
    "pillow_chain": Case(
        ops(
            {"type": "DecodeImage", "backend": "pillow"},
            {"type": "CenterCrop", "crop_size": [178, 178], "backend": "pillow"},
            {"type": "Resize", "size": [64, 64], "backend": "pillow"},
            {"type": "Resize", "size": [16, 16], "backend": "pillow"},
            {"type": "Normalize", "mean": [0.5] * 3, "std": [0.5] * 3},
            TENSOR,
        )
    ),
    "grey_decoding": Case(
        {"frontend.shape": {"input": [1, 1, 32, 96]}}
        | ops(
            {"type": "DecodeImage", "cv2_flags": 0},
            {"type": "Normalize", "mean": [0.5], "std": [0.5]},
            TENSOR,
        )
    ),
    "no_steps": Case({"dataset.process_ops": GONE}),
    "null_steps": Case({"dataset.process_ops": None}),
    **{
        f"suffix_{suffix}": Case({"dataset.sampler.suffix": suffix})
        for suffix in ("png", "jpg", "JPEG", "bmp", "npz", "NPZ", None)
    },
    "fallback_only": Case({"dataset": {"fallback": "samples"}}),
    "torchscript": Case({"frontend.type": "pytorch", "frontend.checkpoint": "/x/n.torchscript.pt"}),
    "several_sizes": Case(
        {"frontend.shape": {"input": [[1, 3, 64, 96], [1, 3, 128, 192]]}}, note="first of 2 sizes"
    ),
    # keys without effect
    "transport": compile_(data_transport_mode=3, data_type=2, cluster_mode=0, opt_level=2),
    "layout": compile_(output_layout=["0:YX"], output_ddr=[-1, 1], mem_inplace=True),
    "stream": compile_(stream_mode=True, switch_lhs_rhs=True, enable_float_to_half=True),
    "partition": compile_(enable_graph_partition=True, split_convergence_points=["0,11,2,5"]),
    "mixed": quantize(
        overflow_adaptive=1,
        quantize_dsp_ops=["vacc_pixelshuffle"],
        quantize_operators=["!nn.vacc_matmul"],
        ops_usingfp=["concatenate"],
    ),
    "manual": quantize(quantize_mode="manual", output_ddr=[-1], requant_suppress=True),
    "chunks": quantize(calibrate_chunk_by=-1, skip_matmul_layers=[0, 1]),
    "params": Case(
        {
            "backend.merge_params": True,
            "backend.remove_params": False,
            "backend.dynamic_params": {},
        },
        no_effect=("backend.merge_params", "backend.remove_params", "backend.dynamic_params"),
    ),
    "workspace": Case(
        {
            "workspace": {
                "work_dir": "./w",
                "enable_ir": False,
                "save_log": True,
                "env_recheck": False,
                "workers": 4,
                "pyenv": {"transformers": "4.51.3"},
            }
        },
        no_effect=tuple(
            f"workspace.{k}"
            for k in ("work_dir", "enable_ir", "save_log", "env_recheck", "workers", "pyenv")
        ),
    ),
    "frontend_keys": Case(
        {"frontend.model_kwargs": {"tp": 4}, "frontend.quantize": {"type": "w8a16_gptq"}},
        no_effect=("frontend.model_kwargs", "frontend.quantize"),
    ),
    "transfers": Case(
        {"graph": {"extra_ops": {"type": "insert_odma"}}}, no_effect=("graph.extra_ops.type",)
    ),
    "no_head": Case(
        {"graph": {"extra_ops": {"extra_ops": None, "type": None, "params": {"num_classes": 80}}}},
        no_effect=("graph.extra_ops.extra_ops", "graph.extra_ops.params"),
    ),
    "runmodel": Case({"backend.type": "tvm_runmodel"}, no_effect=("backend.type",)),
    # a frontend that is not named
    "absent_onnx": Case(
        {"frontend.type": GONE, "frontend.dtype": GONE}, note="onnx, by the suffix"
    ),
    "null_onnx": Case({"frontend.type": None}, note="onnx, by the suffix"),
    **{
        f"absent{suffix}": Case(
            {"frontend.type": GONE, "frontend.checkpoint": f"/x/net{suffix}"},
            note="pytorch, by the suffix",
        )
        for suffix in (".pt", ".pth", ".torchscript")
    },
    "absent_keras": Case(
        {"frontend.type": GONE, "frontend.checkpoint": "/x/net.h5"},
        (("frontend", "frontend.checkpoint", "keras"),),
        note="keras, by the suffix",
    ),
    "absent_unknown": Case(
        {"frontend.type": GONE, "frontend.checkpoint": "/x/folder"},
        (("frontend", "frontend.checkpoint", "does not tell it"),),
    ),
    # frontends
    "huggingface": frontend("huggingface", "/x/llm"),
    "keras": frontend("keras", "/x/net.h5"),
    "tensorflow": frontend("tensorflow", "/x/net.pb"),
    "darknet": frontend("darknet", "/x/net.weights"),
    "llm": Case(
        LLM
        | {
            "frontend.shape": {"input_ids": [[1024], [2048]]},
            "frontend.dtype": GONE,
            "backend": {"type": "tvm_vacc", "dtype": "int8", "merge_params": True},
        },
        (HUGGINGFACE,),
        ("backend.merge_params",),
        "first of 2 sizes",
    ),
    "llm_fp16": Case(
        LLM | {"frontend.shape": {"input_ids": [[512], [1024]]}, "backend.dtype": "fp16"},
        (HUGGINGFACE, FP16),
        note="first of 2 sizes",
    ),
    "llm_data": Case(
        LLM
        | {
            "frontend.shape": {"input_ids": [[512], [1024]]},
            "dataset": {"type": "huggingface", "nsamples": 8, "name": "a", "seqlen": 512},
        },
        (HUGGINGFACE,),
        ("dataset.nsamples", "dataset.name", "dataset.seqlen"),
        "first of 2 sizes",
    ),
    "text": Case(
        {"frontend.type": "tensorflow", "frontend.shape": TEXT, "frontend.dtype": "int64"},
        (("frontend", "frontend.type", "tensorflow"),),
    ),
    # precision
    "fp16": Case({"backend.dtype": "fp16", "dataset": GONE, "backend.quantize": GONE}, (FP16,)),
    "fp16_with_data": Case({"backend.dtype": "fp16"}, (FP16,)),
    "exclude_layers": Case(
        {"backend.quantize.exclude_layers": [15, 16]},
        (("capability", "backend.quantize.exclude_layers", "every layer in int8"),),
    ),
    "skip_conv_layers": Case(
        {"backend.quantize.skip_conv_layers": [0, 1]},
        (("capability", "backend.quantize.skip_conv_layers", "every layer in int8"),),
    ),
    "data_type_fp16": Case(
        {"backend.compile": {"data_type": "fp16", "enable_float_to_half": True}},
        (("capability", "backend.compile.data_type", "builds int8 only, not fp16"),),
        no_effect=("backend.compile.enable_float_to_half",),
    ),
    "data_type_int8": Case(
        {"backend.compile": {"data_type": "INT8"}}, no_effect=("backend.compile.data_type",)
    ),
    "data_type_0": Case(  # of int8 builds as well, in the vendor's own files
        {"backend.compile": {"data_type": 0}}, no_effect=("backend.compile.data_type",)
    ),
    "capitals": Case(
        {"frontend.type": "ONNX", "backend.dtype": "INT8", "backend.type": "TVM_VACC"},
        (
            ("frontend", "frontend.type", "'ONNX' is not imported here - did you mean 'onnx'?"),
            ("capability", "backend.type", "did you mean 'tvm_vacc'?"),
            ("capability", "backend.dtype", "not INT8 - did you mean 'int8'?"),
        ),
    ),
    # heads
    "softmax": Case({"graph": {"extra_ops": {"type": "softmax"}}}),
    "softmax_params": Case(
        {"graph": {"extra_ops": {"type": "softmax", "params": {"axis": 1}}}},
        no_effect=("graph.extra_ops.params",),
    ),
    "softmax_of_bytes": Case(
        {
            "graph": {"extra_ops": {"type": "softmax"}},
            "backend.output": {"dtype": "uint8"},
        },
        (("capability", "backend.output.dtype", "ends in a softmax"),),
    ),
    "yolov5_nms": head("yolov5_nms", "'yolov5_nms'", num_classes=80, anchor=[10, 13], strides=[8]),
    "retinaface_nms": head("retinaface_nms", "non-maximum suppression", nms_threshold=0.4),
    # inputs
    "several_inputs": Case(
        {"frontend.shape": TEXT}, (("capability", "frontend.shape", "3 inputs (ids, mask, types)"),)
    ),
    "no_input": Case({"frontend.shape": {}}, (("capability", "frontend.shape", "0 inputs"),)),
    "tokens": Case(
        {"frontend.shape": {"text": [1, 77]}},
        (("capability", "frontend.shape.text", "2 dimensions"),),
    ),
    "batch": Case(
        {"frontend.shape": {"input": [4, 3, 64, 96]}},
        (("capability", "frontend.shape.input", "batch size is 4"),),
    ),
    "int64_input": Case(
        {"frontend.dtype": "int64"}, (("capability", "frontend.dtype", "input is int64"),)
    ),
    "bad_side": Case(
        {"frontend.shape": {"input": [1, 3, -1, 96]}},
        (("spec", "frontend.shape.input.2", "greater than or equal to 1"),),
    ),
    # images
    "no_dataset": Case({"dataset": GONE}, (("spec", "dataset", "no `dataset:`"),)),
    "no_path": Case({"dataset.path": GONE}, (("spec", "dataset.path", "missing"),)),
    "other_dataset": Case(
        {"dataset.type": "huggingface"}, (("capability", "dataset.type", "'huggingface'"),)
    ),
    # faults
    "alibrate_mode": Case(
        {"backend.quantize": {"alibrate_mode": "kl_divergence"}},
        (("unknown-key", "backend.quantize.alibrate_mode", "did you mean 'calibrate_mode'"),),
    ),
    "alibrate_mode_and_more": Case(
        {
            "backend.quantize": {"alibrate_mode": "max"},
            "graph": {"extra_ops": {"type": "yolov5_nms"}},
            "frontend.type": "keras",
        },
        (
            ("frontend", "frontend.type", "keras"),
            ("unknown-key", "backend.quantize.alibrate_mode", "did you mean 'calibrate_mode'"),
            ("capability", "graph.extra_ops.type", "'yolov5_nms'"),
        ),
    ),
    "unknown_mode": Case(
        {"backend.quantize.calibrate_mode": "percentil"},
        (("spec", "backend.quantize.calibrate_mode", "did you mean 'percentile'"),),
    ),
    "unknown_compile_key": Case(
        {"backend.compile": {"data_transport_mod": 1}},
        (("unknown-key", "backend.compile.data_transport_mod", "'data_transport_mode'"),),
    ),
    "misspelt_key_without_effect_and_more": Case(
        {"backend.compile": {"clusterMode": 1}, "graph": {"extra_ops": {"type": "yolov5_nms"}}},
        (
            ("unknown-key", "backend.compile.clusterMode", "did you mean 'cluster_mode'"),
            ("capability", "graph.extra_ops.type", "'yolov5_nms'"),
        ),
    ),
    "misspelt_part_and_more": Case(
        {
            "backend": GONE,
            "Backend": {"dtype": "fp16", "quantize": {"exclude_layers": [1]}},
        },
        (
            ("unknown-key", "Backend", "did you mean 'backend'"),
            ("capability", "backend.dtype", "not fp16"),
            ("capability", "backend.quantize.exclude_layers", "every layer in int8"),
        ),
    ),
    "head_as_list": Case(
        {"graph": {"extra_ops": [{"type": "softmax"}]}},
        (("spec", "graph.extra_ops", "a list: a mapping of keys to values is expected"),),
    ),
    "null_for_number": Case(
        {"dataset.sampler.get_data_num": None},
        (("spec", "dataset.sampler.get_data_num", "null: Input should be a valid integer"),),
    ),
    "unknown_part": Case(
        {"optimizer": {"lr": 1}}, (("unknown-key", "optimizer", "unknown key 'optimizer'"),)
    ),
    "no_checkpoint": Case(
        {"frontend.checkpoint": GONE}, (("spec", "frontend.checkpoint", "is missing"),)
    ),
    "no_dtype": Case({"backend.dtype": GONE}, (("spec", "backend.dtype", "is missing"),)),
    "range_of_percent": Case(
        {"backend.quantize.calibrate_range": 99.9},
        (("spec", "backend.quantize.calibrate_range", "less than or equal to 1"),),
    ),
    "path_too_long": Case(
        {"frontend.checkpoint": "/x/" + "n" * 300},
        (("spec", "frontend.checkpoint", "no file can have this name"),),
    ),
    "one_metric": Case({"verify": {"metrics": ["psnr"]}}, no_effect=("verify.metrics",)),
    "word_for_bool": Case(
        {"backend.quantize.quantize_per_channel": "ja"},
        (("spec", "backend.quantize.quantize_per_channel", "valid boolean"),),
    ),
    "other_backend": Case(
        {"backend.type": "tensorrt"}, (("capability", "backend.type", "'tensorrt'"),)
    ),
    "older_form": Case(
        {"model": {"name": "r"}, "engine": {"type": "vacc"}, "frontend": GONE, "backend": GONE},
        (("spec", "engine", "older form"),),
    ),
    # steps
    "custom_code": step_fault(
        {"type": "CustomFunc", "module_path": "p.py", "func_name": "f"}, "runs Python code"
    ),
    "colours_of_one_channel": Case(
        ops(DECODE, {"type": "ChannelSplit", "index": 0}, {"type": "CvtColor", "code": SWAP}),
        (("spec", "dataset.process_ops", "takes 3 channels, got 1"),),
    ),
    "crop_larger_than_the_image": Case(
        ops({"type": "Resize", "size": 64}, {"type": "CenterCrop", "crop_size": 65}),
        (("spec", "dataset.process_ops", "CenterCrop to 65 x 65 of an image of 64 x 64"),),
    ),
    "means_of_other_channels": Case(
        {"frontend.shape": {"x": [1, 1, 64, 64]}}
        | ops(
            {"type": "ChannelSplit", "index": 0},
            {"type": "Normalize", "mean": [0] * 3, "std": [1] * 3},
        ),
        (("spec", "dataset.process_ops", "3 values for 1 channels"),),
    ),
    "pillow_after_float": Case(
        ops({"type": "Normalize"}, {"type": "Resize", "size": 9, "backend": "pillow"}),
        (("spec", "dataset.process_ops", "takes 8-bit images"),),
    ),
    "three_channels_for_one": Case(
        {"frontend.shape": {"x": [1, 1, 64, 64]}},
        (("spec", "dataset.process_ops", "make 3 channels, the network takes 1"),),
    ),
    "channels_last": Case(
        {"frontend.shape": {"x": [1, 64, 64, 3]}, "dataset.process_ops": GONE},
        (("spec", "dataset.process_ops", "make 3 channels, the network takes 64"),),
    ),
    "unread_suffix": Case(
        {"dataset.sampler.suffix": "gif"},
        (("capability", "dataset.sampler.suffix", "'gif'"),),
    ),
    "head_in_capitals": head("Softmax", "did you mean 'softmax'?"),
    "unknown_step": step_fault({"type": "Resise", "size": 8}, "did you mean 'Resize'"),
    "step_without_type": step_fault({"size": 8}, "has no `type`"),
    "unknown_step_key": step_fault(
        {"type": "Resize", "size": 8, "siez": 1}, "did you mean 'size'", "unknown-key", ".siez"
    ),
    "unknown_colour": step_fault({"type": "CvtColor", "code": "COLOR_RGB2XYZ"}, "", key=".code"),
    "unknown_norm_type": step_fault({"type": "Normalize", "norm_type": "L2"}, "", key=".norm_type"),
    "zero_std": step_fault(
        {"type": "Normalize", "mean": [0, 0, 0], "std": [0, 1, 1]}, "std must not be zero"
    ),
    "step_that_is_a_word": step_fault("ToTensor", "'ToTensor': a mapping"),
    "size_of_nothing": step_fault({"type": "Resize", "size": 0}, "0: ", key=".size"),
    "size_below_minus_one": step_fault({"type": "Resize", "size": [8, -2]}, "-2: ", key=".size.1"),
    "half_a_normalization": step_fault(
        {"type": "Normalize", "mean": [1]}, "mean and std belong together"
    ),
    "crop_without_size": step_fault({"type": "CenterCrop"}, "'crop_size'", key=".crop_size"),
}


def data_of(case: Case) -> dict[str, Any]:
    data = copy.deepcopy(SR)
    for key, value in case.changes.items():
        *parents, last = key.split(".")
        node: Any = data
        for part in parents:
            node = node.setdefault(part, {})
        if value is GONE:
            node.pop(last, None)
        else:
            node[last] = value
    return data


def written(case: Case, folder: Path) -> Path:
    path = folder / "spec.yaml"
    path.write_text(yaml.safe_dump(data_of(case), sort_keys=False), encoding="utf-8")
    return path


def test_the_sample_is_large_enough() -> None:
    assert len(CASES) >= 60


@pytest.mark.parametrize("name", CASES)
def test_verdict(name: str, tmp_path: Path) -> None:
    case, path = CASES[name], written(CASES[name], tmp_path)
    verdict = check.judge(path)
    assert [(r.code, r.key) for r in verdict.reasons] == [(c, k) for c, k, _ in case.reasons]
    assert verdict.verdict == ("refused" if case.reasons else "buildable")
    assert verdict.no_effect == case.no_effect
    lines = path.read_text().splitlines()
    for reason, (_, key, words) in zip(verdict.reasons, case.reasons, strict=True):
        assert words in reason.message
        assert reason.fix
        if reason.line is not None:  # the line of the key, or of the part that lacks it
            names = [part for part in key.split(".") if not part.isdigit()]
            here = lines[reason.line - 1].strip(" -")
            assert (
                here.partition(":")[0] in {*names, "type", "size", "ToTensor"} or here[:1].isdigit()
            )
    if case.note:
        assert any(case.note in note for note in verdict.notes)
    else:
        assert verdict.notes == ()


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if not case.reasons])
def test_what_is_buildable_loads_and_misses_only_files(name: str, tmp_path: Path) -> None:
    path = written(CASES[name], tmp_path)
    file = spec.load(path)
    missing = [file.spec.frontend.checkpoint]
    if file.spec.dataset and file.spec.dataset.path:
        missing.append(file.spec.dataset.path)
    assert list(check.judge(path).missing) == missing


@pytest.mark.parametrize(
    ("path", "name"), [(path, name) for path, names in NO_EFFECT.items() for name in sorted(names)]
)
def test_every_key_without_effect_is_listed(
    path: tuple[str, ...], name: str, tmp_path: Path
) -> None:
    changes = {".".join((*path, name)): {"any": [1, "value"]}}
    verdict = check.judge(written(Case(changes), tmp_path))
    assert verdict.verdict == "buildable"
    assert verdict.no_effect == (".".join((*path, name)),)


def test_null_div255_does_not_divide(tmp_path: Path) -> None:
    file = spec.load(written(CASES["null_div255"], tmp_path))
    assert file.spec.dataset is not None
    image = np.full((2, 2, 3), 255, np.uint8)
    (value,) = set(apply_ops(file.spec.dataset.process_ops, image).ravel().tolist())
    assert value == np.float32((255 - 127.5) / 128)


def test_a_key_that_stands_twice(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text("name: a\nfrontend:\n  shape: {x: [1, 3], x: [1, 4]}\n", encoding="utf-8")
    (reason,) = check.judge(path).reasons
    assert (reason.line, "twice" in reason.message) == (3, True)


def test_the_vendors_layout_without_quotes(tmp_path: Path) -> None:
    path = written(Case(), tmp_path)
    text = path.read_text().replace(
        "  dtype: int8", '  dtype: int8\n  compile: {output_layout: [0:"YX",1:"YX"]}'
    )
    path.write_text(text, encoding="utf-8")
    assert check.judge(path).no_effect == ("backend.compile.output_layout",)
