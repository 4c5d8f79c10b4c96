"""`python -m compiler.cost SPEC_OR_BUNDLE`: time and traffic of a network on its target."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from calib.errors import WorkbenchError
from compiler import cli, judges, spec, svg, target
from compiler.cost.checks import checks
from compiler.cost.hardware import NEEDED
from compiler.cost.roofline import roofline
from compiler.cost.schedule import of_spec
from compiler.cost.show import show
from compiler.errors import FrontendError, SpecError
from compiler.floatnet import FloatNetwork
from compiler.progress import Reporter
from compiler.spec import SpecFile
from compiler.store import write_text
from compiler.target import Figure

_HARDWARE = "hardware."


def parser() -> argparse.ArgumentParser:
    """Arguments of the command."""
    result = cli.command(
        "cost",
        "Estimate time and memory traffic of a network on its target.",
        examples=(
            "configs/bpp3x_int8.yaml",
            "artifacts/bpp3x_int8 --set hardware.bandwidth_gbs=64",
            "configs/bpp3x_int8.yaml --set backend.output.dtype=uint8 --json cost.json",
        ),
    )
    result.add_argument(
        "path", type=Path, metavar="SPEC_OR_BUNDLE", help="a build spec, or a bundle's directory"
    )
    cli.with_overrides(
        result, "what if: a figure of the target (hardware.NAME=VALUE) or a value of the spec"
    )
    result.add_argument("--svg", type=Path, metavar="FILE", help="draw the roofline")
    return cli.with_output(result, "all figures")


def run(args: argparse.Namespace, reporter: Reporter) -> int:
    """Estimates one network."""
    what_if = [item for item in args.set if item.startswith(_HARDWARE)]
    rest = tuple(item for item in args.set if item not in what_if)
    bundle = args.path if args.path.is_dir() else None
    if bundle:
        _check(bundle)
    file = spec.load(args.path / "spec.yaml" if bundle else args.path, rest)
    built_for = target.load(file)
    hardware = with_figures(built_for.hardware, what_if)
    with reporter.busy("reading the network"):
        net = _from_bundle(bundle) if bundle else _from_spec(file)
    cost = of_spec(net, file.spec, hardware, built_for.name)
    checked = checks(hardware)
    show(cost, checked, reporter)
    cli.write_result(args.json, cost.to_json() | {"checks": [c.to_json() for c in checked]})
    if args.svg:
        write_text(args.svg, svg.standalone(roofline(cost)))
    return 0


def with_figures(hardware: Mapping[str, Figure], changes: Sequence[str]) -> dict[str, Figure]:
    """The target's figures with `hardware.NAME=VALUE` items replaced; those count as assumed.

    Raises:
        SpecError: an unknown figure, or no number.
    """
    changed = dict(hardware)
    for item in changes:
        key, _, raw = item.partition("=")
        name = key.removeprefix(_HARDWARE)
        if name not in {*hardware, *NEEDED}:
            raise SpecError(
                f"there is no figure {key!r}",
                where="--set",
                key=key,
                fix=f"use one of {', '.join(_HARDWARE + n for n in hardware)}",
            )
        value = _number(raw)
        if value is None:
            raise SpecError(
                f"{raw!r} is not a positive number", where="--set", key=key, fix=f"write {key}=64"
            )
        unit = hardware[name].unit if name in hardware else ""
        changed[name] = Figure(value=value, unit=unit, source="--set", assumed=True)
    return changed


def _number(raw: str) -> float | None:
    try:
        value: Any = yaml.safe_load(raw)
    except yaml.YAMLError:
        return None
    good = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e15
    return float(value) if good else None


def _check(path: Path) -> None:
    from compiler import bundle

    bundle.check(path)


def _from_bundle(path: Path) -> FloatNetwork:
    import onnx

    from compiler import fusion

    return fusion.fuse(onnx.load(path / "fp32.onnx"))


def _from_spec(file: SpecFile) -> FloatNetwork:
    from compiler import fusion, model, simplify
    from compiler.canonical import canonical

    judges.require(file, target.load(file))
    if file.spec.frontend.type != "onnx":
        raise FrontendError(
            f"the cost of a {file.spec.frontend.type} checkpoint is read from its bundle",
            where=str(file.path),
            fix=f"build it, then python -m compiler.cost artifacts/{file.spec.name}",
        )
    frontend = file.spec.frontend
    loaded = model.load(Path(frontend.checkpoint), frontend.shapes)
    try:
        return fusion.fuse(canonical(loaded.proto))
    except WorkbenchError:  # shapes computed by the graph: only the simplifier folds those
        return fusion.fuse(simplify.simplify(loaded).proto)


if __name__ == "__main__":
    cli.main(parser(), run)
