"""The vendor's spec form, brought to ours: keys without meaning here, and looser spellings.

Names and forms come from a census of the vendor's public specs; anything else that we do not know
is an error. Nothing is dropped in silence: every key that has no effect is listed, every reading
that is not literal is noted.
"""

from __future__ import annotations

from pathlib import PurePath
from typing import Any

from compiler.yaml_source import KeyPath, at

NO_EFFECT: dict[KeyPath, frozenset[str]] = {
    (): frozenset({"log", "version"}),
    ("frontend",): frozenset({"model_kwargs", "quantize"}),
    ("backend",): frozenset({"dynamic_params", "merge_params", "remove_params"}),
    ("backend", "compile"): frozenset(
        {
            "attention_split_num",
            "cluster_mode",
            "data_transport_mode",
            "data_type",
            "dense_special_config",
            "enable_dense_to_matmul",
            "enable_float_to_half",
            "enable_graph_partition",
            "enable_groundingdino_axis_change",
            "enable_groundingdino_cut_layernorm",
            "enable_inputs_align",
            "enable_transform_vision_language_pan",
            "ffn_split_num",
            "fullatt_block_indexes",
            "gather_data_vccl_dsp_enable",
            "llm_build",
            "mem_inplace",
            "nearest_interpol_on_dsp",
            "opt_level",
            "output_ddr",
            "output_layout",
            "real_output_shape",
            "split_convergence_points",
            "stream_mode",
            "switch_lhs_rhs",
        }
    ),
    ("backend", "quantize"): frozenset(
        {
            "calibrate_chunk_by",
            "dense_special_config",
            "nearest_interpol_on_dsp",
            "ops_usingfp",
            "output_ddr",
            "overflow_adaptive",
            "quantize_dsp_ops",
            "quantize_mode",
            "quantize_operators",
            "requant_suppress",
            "skip_matmul_layers",
            "stream_mode",
        }
    ),
    ("dataset",): frozenset({"name", "nsamples", "seqlen"}),
    ("graph", "extra_ops"): frozenset({"extra_ops"}),
    ("workspace",): frozenset(
        {"enable_ir", "env_recheck", "pyenv", "save_log", "work_dir", "workers"}
    ),
}

_TRANSFERS = "insert_odma"  # of graph.extra_ops.type: no head, but transfers of the accelerator's

FRONTENDS: dict[str, str] = {
    ".onnx": "onnx",
    ".pt": "pytorch",
    ".pth": "pytorch",
    ".torchscript": "pytorch",
    ".h5": "keras",
    ".keras": "keras",
    ".pb": "tensorflow",
    ".weights": "darknet",
    ".pdmodel": "paddle",
    ".caffemodel": "caffe",
}
"""Frontends by the suffix of the checkpoint, for specs that name none."""

_PARTS: tuple[KeyPath, ...] = (
    ("backend", "compile"),
    ("backend", "quantize"),
    ("graph", "extra_ops"),
    ("graph",),
    ("dataset", "sampler"),
    ("dataset", "process_ops"),
    ("dataset",),
    ("workspace",),
    ("verify",),
)


def strip(data: dict[str, Any]) -> tuple[KeyPath, ...]:
    """Removes the keys that have no effect from `data`, and returns their paths."""
    found = []
    for path, names in NO_EFFECT.items():
        part = at(data, path)
        if isinstance(part, dict):
            for name in [n for n in part if n in names]:
                del part[name]
                found.append((*path, name))
    head = at(data, ("graph", "extra_ops"))
    if isinstance(head, dict) and head.get("type") == _TRANSFERS:
        del head["type"]
        found.append(("graph", "extra_ops", "type"))
    return tuple(found)


def settle(data: dict[str, Any]) -> tuple[str, ...]:
    """Brings looser forms in `data` to ours, and says in one note each what was read how.

    A part that is null is absent; a missing `frontend.type` follows from the checkpoint's suffix;
    of several sizes of an input the first is built; `div255: null` does not divide.
    """
    for *parent, name in _PARTS:
        holder = at(data, tuple(parent))
        if isinstance(holder, dict) and name in holder and holder[name] is None:
            del holder[name]
    return (*_frontend_type(data), *_first_sizes(data), *_null_div255(data))


def _frontend_type(data: dict[str, Any]) -> tuple[str, ...]:
    frontend = data.get("frontend")
    if not isinstance(frontend, dict) or frontend.get("type") is not None:
        return ()
    frontend.pop("type", None)
    checkpoint = frontend.get("checkpoint")
    suffix = PurePath(checkpoint).suffix.lower() if isinstance(checkpoint, str) else ""
    if suffix not in FRONTENDS:
        return ()
    frontend["type"] = FRONTENDS[suffix]
    return (f"frontend.type is absent: {FRONTENDS[suffix]}, by the suffix {suffix} of checkpoint",)


def _first_sizes(data: dict[str, Any]) -> tuple[str, ...]:
    shapes = at(data, ("frontend", "shape"))
    notes = []
    for name, sizes in shapes.items() if isinstance(shapes, dict) else ():
        if isinstance(sizes, list) and sizes and all(isinstance(s, list) for s in sizes):
            shapes[name] = sizes[0]
            notes.append(
                f"frontend.shape.{name}: the first of {len(sizes)} sizes is built and measured; "
                "a library of another size is compiled when it is first used"
            )
    return tuple(notes)


def _null_div255(data: dict[str, Any]) -> tuple[str, ...]:
    steps = at(data, ("dataset", "process_ops"))
    notes = []
    for i, step in enumerate(steps if isinstance(steps, list) else ()):
        if isinstance(step, dict) and "div255" in step and step["div255"] is None:
            step["div255"] = False
            notes.append(f"dataset.process_ops.{i}.div255: null is read as false")
    return tuple(notes)
