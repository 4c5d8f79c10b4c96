"""`python -m compiler.diff BUNDLE_A BUNDLE_B`: what changed, and whether it is a regression."""

from __future__ import annotations

import argparse
from pathlib import Path

from compiler import cli
from compiler.progress import Reporter


def parser() -> argparse.ArgumentParser:
    """Arguments of the command."""
    result = cli.command(
        "diff",
        "What changed between two bundles: spec, scales, weights, accuracy, latency, digests.",
        examples=(
            "main/bpp3x_int8 artifacts/bpp3x_int8",
            "main/bpp3x_int8 artifacts/bpp3x_int8 --max-drop-db 0.01 --max-slowdown-percent 5",
        ),
        status="0 ok, 1 a stated limit is passed, 2 bad input, or a limit that cannot be judged",
    )
    result.add_argument("a", type=Path, metavar="BUNDLE_A", help="the bundle before")
    result.add_argument("b", type=Path, metavar="BUNDLE_B", help="the bundle after")
    result.add_argument(
        "--max-drop-db", type=cli.number, metavar="X", help="int8 may lose so much mean RGB PSNR"
    )
    result.add_argument(
        "--max-ssim-drop", type=cli.number, metavar="X", help="int8 may lose so much mean RGB SSIM"
    )
    result.add_argument(
        "--max-slowdown-percent",
        type=cli.number,
        metavar="P",
        help="a frame may take so much longer",
    )
    return cli.with_output(result, "all changes")


def run(args: argparse.Namespace, reporter: Reporter) -> int:
    """Compares; 1 where a limit is passed."""
    from compiler.diff import Limits, compare, read
    from compiler.diff.show import show

    limits = Limits(args.max_drop_db, args.max_ssim_drop, args.max_slowdown_percent)
    found = compare(read(args.a), read(args.b), limits)
    show(found, reporter)
    cli.write_result(args.json, found.to_json())
    return 1 if found.regressions else 0


if __name__ == "__main__":
    cli.main(parser(), run)
