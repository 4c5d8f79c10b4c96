"""Stages whose results are kept in the store, under the digest of everything they depend on."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from calib.images import ProcessOp, byte_values
from calib.methods import Method, method
from calib.qparams import F32
from calib.table import CalibrationTable
from compiler import bundle, calibrate, dataset, judges, model, qdq, simplify, store, torchscript
from compiler.calibrate import Observed
from compiler.dataset import PhotoSet
from compiler.errors import SpecError, UnsupportedOperatorError
from compiler.floatnet import FloatNetwork
from compiler.network import Network
from compiler.progress import Reporter
from compiler.recovery import auto, equalize
from compiler.recovery import samples as sampling
from compiler.recovery.equalize import Equalization
from compiler.recovery.recipe import Recipe, equalization, integer_network
from compiler.recovery.samples import Samples
from compiler.schema import AUTO, Frontend, Quantize
from compiler.spec import SpecFile
from compiler.spec_faults import did_you_mean
from compiler.store import Store
from compiler.target import Target


def onnx_file(frontend: Frontend, kept: Store) -> Path:
    """The network as an ONNX file: the checkpoint itself, or its import from the store."""
    checkpoint = Path(frontend.checkpoint)
    if frontend.type != "pytorch":
        return checkpoint
    torchscript.require_archive(checkpoint)
    shapes = frontend.shapes
    key = store.key(
        "torchscript", store.file_sha256(checkpoint), shapes, torchscript.torch_version()
    )
    return kept.get(key, ".onnx", lambda path: torchscript.to_onnx(checkpoint, shapes, path))


def simplified(loaded: model.LoadedModel, kept: Store, reporter: Reporter) -> onnx.ModelProto:
    """The simplified graph, from the store where it is known."""
    key = store.key(
        "simplify", loaded.proto.SerializeToString(deterministic=True), bundle.versions()
    )

    def produce(path: Path) -> None:
        result = simplify.simplify(loaded)
        for warning in result.warnings:
            reporter.warn(warning)
        path.write_bytes(result.proto.SerializeToString(deterministic=True))

    return onnx.load_model_from_string(kept.get(key, ".onnx", produce).read_bytes())


def with_head(fp32: onnx.ModelProto, file: SpecFile) -> onnx.ModelProto:
    """The graph with the head that the spec appends (`graph.extra_ops`), where it has none.

    Raises:
        CapabilityError: the answer is a softmax, and the spec asks for 8-bit output.
    """
    output = fp32.graph.output[0]
    ends_in = next((n.op_type for n in fp32.graph.node if output.name in n.output), "")
    if ends_in != "Softmax" and not judges.appends_softmax(file.spec):
        return fp32
    if refusal := judges.softmax_of_bytes(file):
        raise refusal
    return fp32 if ends_in == "Softmax" else _softmax_behind(fp32)


def _softmax_behind(fp32: onnx.ModelProto) -> onnx.ModelProto:
    result = onnx.ModelProto()
    result.CopyFrom(fp32)
    graph = result.graph
    taken = {name for node in graph.node for name in (*node.input, *node.output, node.name)}
    logits = graph.output[0].name
    name = f"{logits}_softmax"
    while name in taken:
        name += "_"
    if logits not in {info.name for info in graph.value_info}:
        graph.value_info.append(graph.output[0])
    graph.output[0].name = name
    graph.node.append(onnx.helper.make_node("Softmax", [logits], [name], name=name, axis=1))
    return result


def require_operators(fp32: onnx.ModelProto, target: Target) -> None:
    """Raises UnsupportedOperatorError for the first node without an int8 kernel on the target."""
    for operator, node in model.operators(fp32):
        if "int8" not in target.operators.get(operator, []):
            supported = [name for name, dtypes in target.operators.items() if "int8" in dtypes]
            raise UnsupportedOperatorError(
                f"target {target.name} has no int8 kernel for {operator}",
                where=f"node {node} ({operator})",
                fix=f"it supports {', '.join(supported)}",
            )


def photo_set(file: SpecFile, rate: int) -> PhotoSet:
    """The calibration images of a spec that `judges.require` let pass.

    Raises:
        DataError: the folder is absent or empty.
    """
    assert file.spec.dataset is not None
    return dataset.calibration_set(file.spec.dataset, rate)


@dataclass(frozen=True)
class CalibrationInputs:
    """What the stages that look at calibration images share."""

    file: SpecFile
    photos: PhotoSet
    kept: Store
    threads: int
    reporter: Reporter

    @property
    def ops(self) -> list[ProcessOp]:
        """Pre-processing of the images."""
        assert self.file.spec.dataset is not None
        return self.file.spec.dataset.process_ops

    @property
    def byte_values(self) -> F32 | None:
        """What pre-processing makes of every byte: binary32 [C, 256]."""
        return byte_values(self.ops)

    @functools.cached_property
    def samples(self) -> Samples:
        """The pixels that recovery learns from."""
        seed = self.file.spec.backend.quantize.seed
        photos = self.photos.photos
        return sampling.sample(photos, self.ops, seed=seed, threads=self.threads)

    def key(self, stage: str, floats: FloatNetwork, *parts: Any) -> str:
        """Digest of graph, pre-processing, images and tools, and of whatever else matters."""
        return store.key(
            stage,
            qdq.write_float(floats).SerializeToString(deterministic=True),
            [op.model_dump(mode="json") for op in self.ops],
            [photo.identity() for photo in self.photos.photos],
            bundle.versions(),
            *parts,
        )


def require_layers(file: SpecFile, floats: FloatNetwork) -> None:
    """Raises SpecError for the first layer that a spec names and the network does not have."""
    names = [conv.name for conv in floats.convs]
    for i, layer in enumerate(file.spec.backend.quantize.wide_layers):
        if _layer(layer, names) is None:
            raise SpecError(
                f"the network has no convolution {layer!r}{did_you_mean(str(layer), names)}",
                fix=f"name one of {', '.join(names)}, or its number from 0 (-1: the last)",
                **file.at("backend", "quantize", "wide_layers", i),
            )


def _layer(layer: int | str, names: Sequence[str]) -> str | None:
    if isinstance(layer, str):
        return layer if layer in names else None
    return names[layer] if -len(names) <= layer < len(names) else None


def recipe(wish: Quantize, floats: FloatNetwork, *, symmetric: bool) -> Recipe:
    """How float becomes int8, from the spec's wishes and the target's activations.

    Args:
        floats: the network, which has every layer that a wish names (`require_layers`).
    """
    names = [conv.name for conv in floats.convs]
    return Recipe(
        symmetric=symmetric,
        per_channel=wish.quantize_per_channel,
        power2=wish.weight_scale == "power2",
        equalize=wish.equalize,
        split_residuals=wish.split_residuals,
        centre_image=wish.centre_image,
        residual_bits=wish.residual_bits,
        wide_layers=tuple(filter(None, (_layer(layer, names) for layer in wish.wide_layers))),
        rounding=wish.rounding,
        search=wish.search,
        seed=wish.seed,
    )


def channel_scales(inputs: CalibrationInputs, floats: FloatNetwork, recipe: Recipe) -> Equalization:
    """The channel scales of the equalization (none without it), from the store if known."""
    if not recipe.equalize:
        return equalize.NONE
    key = inputs.key("equalize", floats, recipe.symmetric, recipe.rounding, recipe.seed)

    def produce(path: Path) -> None:
        inputs.reporter.detail("equalization: choosing channel scales")
        with inputs.reporter.busy("channel scales"):
            path.write_bytes(equalize.dump(equalization(floats, inputs.samples, recipe)))

    chosen = equalize.load(inputs.kept.get(key, ".equalization", produce).read_bytes())
    inputs.reporter.detail(chosen.describe())
    return chosen


def observe(inputs: CalibrationInputs, floats: FloatNetwork) -> Observed:
    """Ranges and histograms, from the store where images, graph and pre-processing are known."""

    def produce(path: Path) -> None:
        seen = calibrate.observe(
            floats, inputs.photos.photos, inputs.ops, inputs.reporter, threads=inputs.threads
        )
        path.write_bytes(calibrate.dump(seen))

    key = inputs.key("observe", floats)
    return calibrate.load(inputs.kept.get(key, ".observed", produce).read_bytes())


def thresholds(
    inputs: CalibrationInputs, floats: FloatNetwork, observed: Observed, *, symmetric: bool
) -> tuple[CalibrationTable, tuple[str, ...]]:
    """The range of every rounding point by the spec's method, and reasons to doubt them."""
    wish = inputs.file.spec.backend.quantize

    def choose(chosen: Method) -> tuple[CalibrationTable, tuple[str, ...]]:
        known = inputs.byte_values
        return calibrate.choose(floats, observed, chosen, symmetric=symmetric, byte_values=known)

    if wish.calibrate_mode != AUTO:
        return choose(method(wish.calibrate_mode, wish.calibrate_range))

    def produce(path: Path) -> None:
        tables = [choose(candidate)[0] for candidate in auto.CANDIDATES]
        with inputs.reporter.busy("output error of every method"):
            path.write_text(json.dumps(auto.output_errors(floats, tables, inputs.samples)))

    labels = [auto.label(candidate) for candidate in auto.CANDIDATES]
    key = inputs.key("auto", floats, labels, symmetric, wish.seed)
    errors = json.loads(inputs.kept.get(key, ".json", produce).read_bytes())
    for label, error in zip(labels, errors, strict=True):
        inputs.reporter.detail(f"{label}: squared output error {error:.3g}")
    best = int(np.argmin(errors))
    inputs.reporter.detail(f"calibrate_mode auto: {labels[best]}")
    return choose(auto.CANDIDATES[best])


def integer(
    inputs: CalibrationInputs,
    floats: FloatNetwork,
    table: CalibrationTable,
    observed: Observed,
    recipe: Recipe,
) -> tuple[Network, CalibrationTable]:
    """The integer network and its final thresholds, from the store where they are known."""
    logits = replace(floats, softmax=False)  # what thresholds and weights are chosen by
    if not recipe.needs_samples:
        made = integer_network(logits, table, observed.histograms, Samples(()), recipe)
        return replace(made.network, softmax=floats.softmax), made.table

    def produce(path: Path) -> None:
        inputs.reporter.detail(f"weights: {recipe.rounding}; threshold search: {recipe.search}")
        with inputs.reporter.busy("weights and thresholds"):
            made = integer_network(logits, table, observed.histograms, inputs.samples, recipe)
        proto = qdq.write(made.network).SerializeToString(deterministic=True)
        text = made.table.to_json().encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + proto)

    key = inputs.key("integer", floats, table.to_json(), asdict(recipe))
    data = inputs.kept.get(key, ".integer", produce).read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    net = qdq.read(onnx.load_model_from_string(data[end:]))
    final = CalibrationTable.from_json(data[8:end].decode())
    return replace(net, softmax=floats.softmax), final
