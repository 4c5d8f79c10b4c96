"""`python -m compiler.analyze BUNDLE`: where the accuracy goes, tensor by tensor, layer by layer.

A part of the network is quantized, the rest computed in float, and the drop against fp32 measured:
each part alone, and everything but it. Parts are the activations of one rounding point, the
weights of one convolution, and both of one layer.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from calib import qparams
from calib.images import byte_values
from calib.qparams import F32, QParams
from compiler import bundle as bundle_module
from compiler import cli, fusion, metrics, mixed, qdq, scaling, stages
from compiler.bundle import Bundle
from compiler.data import Pair
from compiler.engine import Engine
from compiler.errors import BundleError
from compiler.float_values import FloatValues
from compiler.floatnet import FloatNetwork
from compiler.network import Network
from compiler.progress import Reporter
from compiler.recovery import equalize
from compiler.recovery.recipe import rewritten
from compiler.runner import Session
from compiler.verify import held_out, on_images_of, pairs_of

IMAGES = 6


@dataclass(frozen=True)
class TensorQuality:
    """One rounding point, its integer values against the float network's, over the images.

    Attributes:
        sqnr_db: signal to quantization noise, everything before it quantized too.
        cosine: of the two tensors, flattened.
        clipped_fraction: share of the values at the ends of int8.
    """

    tensor: str
    sqnr_db: float
    cosine: float
    clipped_fraction: float


@dataclass(frozen=True)
class Cost:
    """What a part of the quantization costs, in dB of PSNR over all channels against fp32.

    Attributes:
        alone_db: drop with only this part quantized.
        without_db: drop with all but this part quantized.
    """

    part: str
    kind: str  # weights, activations, layer
    alone_db: float
    without_db: float


@dataclass(frozen=True)
class Analysis:
    """The whole answer; costs are ranked, dearest first."""

    images: int
    drop_db: float
    tensors: tuple[TensorQuality, ...]
    costs: tuple[Cost, ...]


def analyze(bundle: Bundle, pairs: Sequence[Pair], reporter: Reporter) -> Analysis:
    """Measures every part of a bundle's quantization on the given images."""
    engine = bundle.engine
    floats = float_network(bundle)
    images = [_Image.of(engine, pair) for pair in pairs]
    weights = frozenset(c.name for c in floats.convs)

    def drop(activations: frozenset[str], layers: frozenset[str]) -> float:
        session = mixed.session(floats, engine.net, activations, layers, engine.host.threads)
        answers = (engine.net.on_host(session.run(image.x)) for image in images)
        return float(np.mean([i.drop_db(y) for i, y in zip(images, answers, strict=True)]))

    everything = frozenset(floats.rounding_points)
    parts = _parts(floats)
    costs = []
    for kind, name, activations, layers in reporter.track(parts, "parts of the quantization"):
        alone = drop(activations, layers)
        without = drop(everything - activations, weights - layers)
        costs.append(Cost(name, kind, alone, without))
    return Analysis(
        images=len(images),
        drop_db=drop(everything, weights),
        tensors=_qualities(floats, engine.net, [image.x for image in images]),
        costs=tuple(sorted(costs, key=lambda c: -c.alone_db)),
    )


def float_network(bundle: Bundle) -> FloatNetwork:
    """The float network that the bundle's integers stand for: split and equalized like it."""
    net = fusion.fuse(bundle.engine.fp32)
    engine, wish = bundle.engine, bundle.spec.backend.quantize
    chosen = stages.recipe(wish, net, symmetric=engine.net.symmetric)
    net = rewritten(net, chosen, byte_values(engine.ops))
    path = bundle.path / "equalization.json"
    if not path.is_file():
        raise BundleError(
            "the bundle does not tell its channel scales", where=str(path), fix="build it again"
        )
    return equalize.equalize(net, equalize.from_json(path.read_text(encoding="utf-8")))


@dataclass(frozen=True, eq=False)
class _Image:
    x: F32
    truth: scaling.Rgb
    fp32_db: float
    rate: int

    @classmethod
    def of(cls, engine: Engine, pair: Pair) -> _Image:
        lr, hr = pair.read()
        rate = engine.scaling.rate
        truth = scaling.reference(engine.ops, hr)[: lr.shape[0] * rate, : lr.shape[1] * rate]
        x = scaling.to_input(engine.ops, lr, engine.scaling)
        blank = cls(x, truth, 0.0, rate)
        return replace(blank, fp32_db=-blank.drop_db(engine.run_fp32(x)))

    def drop_db(self, y: F32) -> float:
        image = scaling.to_uint8(scaling.from_output(y, self.truth.shape[:2]))
        return self.fp32_db - metrics.psnr_db(self.truth, image, self.rate)


_Part = tuple[str, str, frozenset[str], frozenset[str]]


def _parts(net: FloatNetwork) -> list[_Part]:
    """(kind, name, rounding points, convolutions): everything of a kind, then one by one."""
    points, none = frozenset(net.rounding_points), frozenset[str]()
    convs = frozenset(c.name for c in net.convs)
    parts: list[_Part] = [("activations", "all", points, none), ("weights", "all", none, convs)]
    parts += [("activations", p, frozenset({p}), none) for p in net.rounding_points]
    parts += [("weights", c.name, none, frozenset({c.name})) for c in net.convs]
    for conv in net.convs:
        own = frozenset({conv.output}) & points
        parts.append(("layer", conv.name, own, frozenset({conv.name})))
    return parts


def _qualities(
    floats: FloatNetwork, integer: Network, images: Sequence[F32]
) -> tuple[TensorQuality, ...]:
    points = {p: integer.tensors[p].q for p in floats.rounding_points}
    real = mixed.with_weights(floats, integer, [c.name for c in floats.convs])
    computed = [p for p in points if p != floats.ops[0].output]
    session = Session(qdq.write_mixed(real, points), computed, optimize=False)
    exact = FloatValues(floats, points)
    sums = {p: np.zeros(5) for p in points}
    for x in images:
        wanted = exact.of(x)
        values = dict(
            zip(computed, (y[0] for y in session.run_all({floats.input: x})[1:]), strict=True)
        )
        first = floats.quantize_input
        values[first.output] = first.normalized(x[0])
        for p, q in points.items():
            sums[p] += _sums(values[p], wanted[p], q)
    return tuple(
        TensorQuality(
            tensor=p,
            sqnr_db=float(10 * np.log10(signal / noise)) if noise and signal else float("inf"),
            cosine=float(product / np.sqrt(signal * found)) if signal and found else 1.0,
            clipped_fraction=float(clipped),
        )
        for p, (signal, noise, product, found, clipped) in (
            (p, s / (1, 1, 1, 1, len(images))) for p, s in sums.items()
        )
    )


def _sums(value: F32, wanted: F32, q: QParams) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Sums over one image: signal, noise, product, result, and the clipped share."""
    integers = qparams.quantize(value, q)
    found, signal = qparams.dequantize(integers, q).astype(np.float64), wanted.astype(np.float64)
    clipped = np.abs(value.astype(np.float64) - found) > q.scale
    noise = ((found - signal) ** 2).sum()
    totals = [(signal**2).sum(), noise, (signal * found).sum(), (found**2).sum(), clipped.mean()]
    return np.array(totals)


def to_json(result: Analysis) -> dict[str, Any]:
    """The answer as plain values; an SQNR is null where nothing is lost."""
    plain = asdict(result)
    for tensor in plain["tensors"]:
        tensor["sqnr_db"] = tensor["sqnr_db"] if np.isfinite(tensor["sqnr_db"]) else None
    return plain


def show(reporter: Reporter, name: str, result: Analysis) -> None:
    """Two tables: what costs most, with bars, and the quality of every tensor."""
    title = f"{name}: a drop of {result.drop_db:.3f} dB on {result.images} images"
    table = Table(title=title, title_justify="left")
    for column in ("part", "kind", "alone (dB)", "all but it (dB)", ""):
        table.add_column(column, justify="right" if "dB" in column else "left")
    longest = max((c.alone_db for c in result.costs), default=0.0)
    for c in result.costs:
        table.add_row(
            c.part, c.kind, f"{c.alone_db:.4f}", f"{c.without_db:.4f}", cli.bar(c.alone_db, longest)
        )
    reporter.table(table)
    table = Table(title="tensors", title_justify="left")
    for column in ("tensor", "SQNR (dB)", "cosine", "clipped"):
        table.add_column(column, justify="left" if column == "tensor" else "right")
    for t in result.tensors:
        clipped = f"{100 * t.clipped_fraction:.3f} %"
        table.add_row(t.tensor, f"{t.sqnr_db:.1f}", f"{t.cosine:.6f}", clipped)
    reporter.table(table)


def parser() -> argparse.ArgumentParser:
    """Arguments of the command."""
    result = cli.command(
        "analyze",
        "Where a bundle's accuracy goes: per tensor, and per part of the quantization the drop\n"
        "with it quantized alone, and with all but it. Parts with much in the first column and\n"
        "little in the second cost most; some errors make up for others.",
        examples=("artifacts/bpp3x_int8", "artifacts/bpp3x_int8 --hr Set5/HR --images 2 --json -"),
    )
    result.add_argument("bundle", type=Path, metavar="BUNDLE", help="a bundle's directory")
    cli.with_ground_truth(result)
    result.add_argument(
        "--images", type=cli.count, default=IMAGES, metavar="N", help=f"at most N, default {IMAGES}"
    )
    cli.with_plot(result)
    return cli.with_output(result, "all figures")


def run(args: argparse.Namespace, reporter: Reporter) -> int:
    """Measures one bundle."""
    bundle = bundle_module.load(args.bundle)
    options = on_images_of(args, bundle.spec.verify)
    pairs, _, warnings = pairs_of(options, bundle.engine.scaling.rate)
    for warning in warnings:
        reporter.warn(warning)
    kept = held_out(pairs, bundle.engine.calibrated_on)[: args.images]
    result = analyze(bundle, kept, reporter)
    show(reporter, bundle.name, result)
    cli.write_result(args.json, to_json(result))
    rows = [(f"{c.part}, {c.kind}", c.alone_db) for c in result.costs]
    cli.write_plot(args.plot, rows, f"{bundle.name}: what each part costs alone", "dB")
    return 0


if __name__ == "__main__":
    cli.main(parser(), run)
