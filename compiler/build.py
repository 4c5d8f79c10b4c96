"""`python -m compiler.build SPEC`: builds and verifies the bundle of one spec."""

from __future__ import annotations

import argparse
from pathlib import Path

from compiler import cli, spec
from compiler.progress import Reporter


def parser() -> argparse.ArgumentParser:
    """Arguments of the command."""
    result = cli.command(
        "build",
        "Build a spec: model, calibration, quantization, library, verification.",
        examples=(
            "configs/bpp3x_int8.yaml",
            "configs/bpp3x_int8.yaml --set backend.quantize.calibrate_mode=mse",
            "configs/bpp3x_int8.yaml --until quantize --quiet",
        ),
        status="0 ok, 1 gate missed (the bundle is complete all the same), 2 bad input,\n"
        "3 internal (the library differs from the golden model)",
    )
    stages = ("model", "calibrate", "quantize", "compile", "verify", "bundle")
    result.add_argument("spec", type=Path, metavar="SPEC", help="a build spec, see configs/")
    result.add_argument("--out", type=Path, metavar="DIR", help="parent of the bundle's directory")
    cli.with_overrides(result, "replace a value of the spec (repeatable)")
    result.add_argument("--fresh", action="store_true", help="ignore results of earlier builds")
    result.add_argument("--until", choices=stages, default=stages[-1], help="stop after a stage")
    return cli.with_output(result, "what was built and measured")


def run(args: argparse.Namespace, reporter: Reporter) -> int:
    """Builds; 1 where the gate is missed."""
    file = spec.load(args.spec, tuple(args.set))
    from compiler import pipeline, summary  # tvm and onnxruntime: slow to import, not for --help

    result = pipeline.run(file, reporter, out=args.out, fresh=args.fresh, until=args.until)
    summary.show_build(reporter, file.spec, result)
    cli.write_result(args.json, summary.build_json(file.spec, result))
    return 0 if result.accuracy is None or result.accuracy.gate.passed else 1


if __name__ == "__main__":
    cli.main(parser(), run)
