"""`python -m compiler.sweep SPEC --grid KEY=A,B ...`: the accuracy of many variants of one spec.

Variants share every stage that they have in common through the store, and nothing is compiled:
the drop is that of the QDQ network in ONNX Runtime, unoptimized, which stays within one step of
the library.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from calib.errors import DataError, WorkbenchError
from calib.images import ProcessOp
from compiler import accuracy, bundle, cli, pipeline, qdq, scaling, spec
from compiler.data import Pair
from compiler.progress import Reporter
from compiler.runner import Session
from compiler.scaling import Net, Scaling
from compiler.spec import SpecFile
from compiler.store import write_text
from compiler.verify import held_out, pairs_of

IMAGES = 10


@dataclass(frozen=True)
class Variant:
    """One point of the grid and what it costs against fp32.

    Attributes:
        settings: key.path=value, as `--set` takes them.
        failure: why it could not be built, else empty.
    """

    settings: tuple[str, ...]
    psnr_drop_db: float = float("nan")
    ssim_drop: float = float("nan")
    failure: str = ""

    def to_json(self) -> dict[str, Any]:
        """All fields; the drops are null where there is a failure."""
        drops = {"psnr_drop_db": None, "ssim_drop": None} if self.failure else {}
        return asdict(self) | drops


@dataclass(frozen=True)
class Grid:
    """Keys and the values to try, in the order of the command line."""

    axes: tuple[tuple[str, tuple[str, ...]], ...]

    @classmethod
    def parse(cls, texts: Sequence[str]) -> Grid:
        """From `key=a,b,c`; a key without a dot belongs to `backend.quantize`.

        Raises:
            DataError: not of this form.
        """
        axes = []
        for text in texts:
            key, equals, values = text.partition("=")
            options = tuple(v for v in values.split(",") if v)
            if not key or not equals or not options:
                raise DataError(
                    f"--grid {text!r} is not key=value,value",
                    fix="write for example --grid calibrate_mode=max,mse equalize=true,false",
                )
            axes.append((key if "." in key else f"backend.quantize.{key}", options))
        return cls(tuple(axes))

    @property
    def points(self) -> list[tuple[str, ...]]:
        """Every combination, as overrides of the spec."""
        columns = [[f"{key}={value}" for value in values] for key, values in self.axes]
        return list(itertools.product(*columns))


def sweep(
    path: Path, overrides: tuple[str, ...], grid: Grid, images: int, reporter: Reporter
) -> tuple[Variant, ...]:
    """Measures every variant; the best first, those that failed last."""
    found, inner = [], Reporter(reporter.console, quiet=True)
    for i, settings in enumerate(reporter.track(points := grid.points, "variants")):
        reporter.stage(f"variant {i + 1} of {len(points)}: {_label(settings)}")
        try:
            file = spec.load(path, (*overrides, *settings))
            found.append(_measure(file, settings, images, inner))
        except WorkbenchError as error:
            reporter.warn(str(error))
            found.append(Variant(settings, failure=error.what))
    return tuple(sorted(found, key=lambda v: (bool(v.failure), v.psnr_drop_db)))


def _label(settings: tuple[str, ...]) -> str:
    return " ".join(s.removeprefix("backend.quantize.") for s in settings)


def _measure(file: SpecFile, settings: tuple[str, ...], images: int, reporter: Reporter) -> Variant:
    built = pipeline.run(file, reporter, until="quantize")
    assert built.net is not None
    assert built.fp32 is not None
    ops = file.spec.dataset.process_ops if file.spec.dataset else []
    geometry = scaling.scaling(built.net)
    pairs, _, _ = pairs_of(file.spec.verify, geometry.rate)
    kept = held_out(pairs, built.calibrated_on)[:images]
    fp32, int8 = Session(built.fp32), Session(qdq.write(built.net), optimize=False)
    drop = mean_drop(fp32.run, int8.run, kept, ops, geometry)
    return Variant(settings, drop.psnr_db, drop.ssim)


@dataclass(frozen=True)
class Drop:
    """What int8 costs against fp32 over all channels, the mean over images."""

    psnr_db: float
    ssim: float


def mean_drop(
    fp32: Net, int8: Net, pairs: Sequence[Pair], ops: Sequence[ProcessOp], geometry: Scaling
) -> Drop:
    """The cost of `int8` against `fp32` by protocol `standard`."""

    def drop(pair: Pair) -> tuple[float, float]:
        lr, hr = pair.read()
        size = (lr.shape[0] * geometry.rate, lr.shape[1] * geometry.rate)
        truth = scaling.reference(ops, hr)[: size[0], : size[1]]
        x = scaling.to_input(ops, lr, geometry)
        finished = (scaling.to_uint8(scaling.from_output(run(x), size)) for run in (fp32, int8))
        exact, rounded = (accuracy.score(truth, y, geometry.rate, with_y=False) for y in finished)
        return exact.psnr_rgb_db - rounded.psnr_rgb_db, exact.ssim_rgb - rounded.ssim_rgb

    psnr, ssim = np.mean([drop(pair) for pair in pairs], axis=0)
    return Drop(float(psnr), float(ssim))


def show(reporter: Reporter, variants: Sequence[Variant]) -> None:
    """A table, the best first, with a bar for each drop."""
    table = Table(title="drop against fp32", title_justify="left")
    for column in ("variant", "PSNR (dB)", "SSIM", ""):
        table.add_column(column, justify="right" if column in ("PSNR (dB)", "SSIM") else "left")
    longest = max((v.psnr_drop_db for v in variants if not v.failure), default=0.0)
    for v in variants:
        label = "\n".join(s.removeprefix("backend.quantize.") for s in v.settings)
        if v.failure:
            table.add_row(label, "-", "-", v.failure)
            continue
        table.add_row(
            label, f"{v.psnr_drop_db:.4f}", f"{v.ssim_drop:.5f}", cli.bar(v.psnr_drop_db, longest)
        )
    reporter.table(table)


def parser() -> argparse.ArgumentParser:
    """Arguments of the command."""
    result = cli.command(
        "sweep",
        "Accuracy of many variants of a spec, sharing all stages in common.",
        examples=(
            "configs/bpp3x_int8.yaml --grid calibrate_mode=max,mse equalize=true,false",
            "configs/bpp3x_int8.yaml --grid calibrate_mode=max,mse --winner best.yaml",
        ),
    )
    result.add_argument("spec", type=Path, metavar="SPEC", help="a build spec, see configs/")
    result.add_argument(
        "--grid",
        nargs="+",
        required=True,
        metavar="KEY=A,B",
        help="values to try; a key without a dot belongs to backend.quantize",
    )
    cli.with_overrides(result, "replace a value of the spec in every variant (repeatable)")
    result.add_argument(
        "--images", type=cli.count, default=IMAGES, metavar="N", help=f"at most N, default {IMAGES}"
    )
    result.add_argument("--winner", type=Path, metavar="FILE", help="write the best one's spec")
    cli.with_plot(result)
    return cli.with_output(result, "all variants, the best first,")


def run(args: argparse.Namespace, reporter: Reporter) -> int:
    """Measures every variant of the grid."""
    overrides = tuple(args.set)
    grid = Grid.parse(args.grid)
    variants = sweep(args.spec, overrides, grid, args.images, reporter)
    show(reporter, variants)
    cli.write_result(args.json, [v.to_json() for v in variants])
    rows = [(_label(v.settings), v.psnr_drop_db) for v in variants if not v.failure]
    cli.write_plot(args.plot, rows, "drop of PSNR against fp32", "dB")
    if variants[0].failure:
        raise DataError(f"no variant can be built: {variants[0].failure}", where=str(args.spec))
    if args.winner:
        best = spec.load(args.spec, (*overrides, *variants[0].settings))
        write_text(args.winner, bundle.dump_spec(best.spec))
        reporter.stage(f"winner's spec written to {args.winner}")
    return 0


if __name__ == "__main__":
    cli.main(parser(), run)
