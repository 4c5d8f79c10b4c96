"""`python -m compiler.ablation SPEC --hr DIR ...`: what each step of the recipe is worth.

The recipe of a spec is built up step by step from rounding to nearest, and taken apart one step at
a time, for symmetric and asymmetric activations, beside the int8 networks of other quantizers that
calibrate on the same images. Nothing is compiled: see `compiler.sweep`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.table import Table

from calib.errors import WorkbenchError
from calib.images import apply_ops
from compiler import cli, peers, pipeline, qdq, scaling, spec, stages, verify
from compiler import target as targets
from compiler.data import Pair
from compiler.pipeline import Result
from compiler.progress import Reporter, silent
from compiler.runner import Session
from compiler.schema import Verify
from compiler.spec import SpecFile
from compiler.sweep import Drop, mean_drop

TARGETS = ("vacc", "vacc-asym")
Settings = tuple[str, ...]

_PREFIX = "backend.quantize."
NEAREST = {
    "calibrate_mode": "max",
    "equalize": "false",
    "centre_image": "false",
    "split_residuals": "false",
    "residual_bits": "8",
    "wide_layers": "[]",
    "rounding": "nearest",
    "search": "none",
}
"""The plain build that every step is added to."""


@dataclass(frozen=True)
class Row:
    """One recipe and what it costs on every set, for one target.

    Attributes:
        drops: by set, in the order of the command line; empty where it failed.
    """

    target: str
    recipe: str
    drops: tuple[Drop, ...]
    failure: str = ""

    def to_json(self) -> dict[str, Any]:
        """All fields."""
        return asdict(self)


def recipes(file: SpecFile) -> dict[str, Settings]:
    """Settings of every variant by name: the steps added one by one, and each left out alone."""
    wish = file.spec.backend.quantize
    full = {
        "calibrate_mode": wish.calibrate_mode,
        "equalize": str(wish.equalize).lower(),
        "centre_image": str(wish.centre_image).lower(),
        "split_residuals": str(wish.split_residuals).lower(),
        "residual_bits": str(wish.residual_bits),
        "wide_layers": str(wish.wide_layers),
        "rounding": wish.rounding,
        "search": wish.search,
    }
    used = [key for key, value in full.items() if value != NEAREST[key]]
    found, so_far = {"nearest, max": dict(NEAREST)}, dict(NEAREST)
    for key in used:
        so_far[key] = full[key]
        found[f"+ {key} {full[key]}"] = dict(so_far)
    if len(used) > 1:
        found |= {f"all but {key}": full | {key: NEAREST[key]} for key in used}
    found["all, weight_scale power2"] = full | {"weight_scale": "power2"}
    found["all, one scale a weight"] = full | {"quantize_per_channel": "false"}
    return {
        name: tuple(f"{_PREFIX}{key}={value}" for key, value in settings.items())
        for name, settings in found.items()
    }


def ablate(
    path: Path, overrides: Settings, folders: Sequence[Path], with_peers: bool, reporter: Reporter
) -> tuple[Row, ...]:
    """Measures every recipe, and the peers, on every folder of ground truths."""
    rows: list[Row] = []
    for target in TARGETS:
        chosen = (*overrides, f"backend.target={target}")
        file = spec.load(path, chosen)
        variants = recipes(file)
        for name in reporter.track(list(variants), f"recipes, {target}"):
            ours = partial(_ours, path, (*chosen, *variants[name]), folders)
            rows.append(_row(target, name, ours))
        if with_peers:
            rows += _peers(file, target, folders, reporter)
    return tuple(rows)


def _row(target: str, name: str, measure: Callable[[], list[Drop]]) -> Row:
    try:
        return Row(target, name, tuple(measure()))
    except WorkbenchError as error:
        return Row(target, name, (), error.what)


def _ours(path: Path, settings: Settings, folders: Sequence[Path]) -> list[Drop]:
    file = spec.load(path, settings)
    built = pipeline.run(file, silent(), until="quantize")
    assert built.net is not None
    return _drops(file, built, Session(qdq.write(built.net), optimize=False).run, folders)


def _peers(file: SpecFile, target: str, folders: Sequence[Path], reporter: Reporter) -> list[Row]:
    built = pipeline.run(file, silent(), until="quantize")
    assert built.fp32 is not None
    photos = stages.photo_set(file, _rate(built)).photos
    ops = file.spec.dataset.process_ops if file.spec.dataset else []
    images = [apply_ops(ops, photo.read())[None] for photo in photos]
    makers = peers.quantizers(built.fp32, images, symmetric=targets.load(file).symmetric)

    def theirs(name: str) -> list[Drop]:
        return _drops(file, built, makers[name](), folders)

    return [
        _row(target, name, partial(theirs, name))
        for name in reporter.track(list(makers), f"peers, {target}")
    ]


def _drops(file: SpecFile, built: Result, int8: scaling.Net, folders: Sequence[Path]) -> list[Drop]:
    assert built.fp32 is not None
    assert built.net is not None
    fp32, geometry = Session(built.fp32).run, scaling.scaling(built.net)
    ops = file.spec.dataset.process_ops if file.spec.dataset else []
    return [mean_drop(fp32, int8, _held_out(folder, built), ops, geometry) for folder in folders]


def _held_out(folder: Path, built: Result) -> tuple[Pair, ...]:
    pairs, _, _ = verify.pairs_of(Verify(hr=str(folder)), _rate(built))
    return verify.held_out(pairs, built.calibrated_on)


def _rate(built: Result) -> int:
    assert built.net is not None
    return scaling.scaling(built.net).rate


def show(reporter: Reporter, rows: Sequence[Row], folders: Sequence[Path]) -> None:
    """One table a target: recipes down, sets across, drops in dB and of SSIM."""
    for target in TARGETS:
        table = Table(title=f"{target}: drop against fp32", title_justify="left")
        table.add_column("recipe")
        for folder in folders:
            table.add_column(f"{folder.parent.name}/{folder.name}\n(dB)", justify="right")
            table.add_column("\nSSIM", justify="right")
        for row in rows:
            if row.target == target:
                cells = [f(d) for d in row.drops for f in (_decibels, _ssim)]
                table.add_row(row.recipe, *(cells or [row.failure]))
        reporter.table(table)


def _decibels(drop: Drop) -> str:
    return f"{drop.psnr_db:.3f}"


def _ssim(drop: Drop) -> str:
    return f"{drop.ssim:.4f}"


def parser() -> argparse.ArgumentParser:
    """Arguments of the command."""
    result = cli.command(
        "ablation",
        "What each step of a spec's recipe is worth, on both targets, beside other quantizers.",
        examples=(
            "configs/bpp3x_int8.yaml --hr ../shared/data/set14/HR",
            "configs/bpp2x_int8.yaml --hr SET14 CROPS --peers --json ablation.json",
        ),
    )
    result.add_argument("spec", type=Path, metavar="SPEC", help="a build spec, see configs/")
    result.add_argument(
        "--hr",
        nargs="+",
        type=cli.folder,
        required=True,
        metavar="DIR",
        help="ground truths, by set",
    )
    cli.with_overrides(result, "replace a value of the spec in every variant (repeatable)")
    result.add_argument(
        "--peers", action="store_true", help="NNCF and ONNX Runtime on the same images"
    )
    cli.with_plot(result)
    return cli.with_output(result, "all rows")


def run(args: argparse.Namespace, reporter: Reporter) -> int:
    """Measures and shows all recipes."""
    folders = [Path(folder) for folder in args.hr]
    rows = ablate(args.spec, tuple(args.set), folders, args.peers, reporter)
    show(reporter, rows, folders)
    cli.write_result(args.json, [row.to_json() for row in rows])
    marks = [(f"{r.target}: {r.recipe}", r.drops[0].psnr_db) for r in rows if r.drops]
    cli.write_plot(args.plot, marks, f"drop of PSNR on {args.hr[0]}", "dB")
    return 0


if __name__ == "__main__":
    cli.main(parser(), run)
