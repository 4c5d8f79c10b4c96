"""`python -m compiler.run BUNDLE INPUT OUTPUT`: upscales an image, or every image of a folder."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from calib.images import list_images, read_image, write_image
from compiler import cli
from compiler.errors import StorageError
from compiler.progress import Reporter


def parser() -> argparse.ArgumentParser:
    """Arguments of the command."""
    result = argparse.ArgumentParser(
        prog="python -m compiler.run",
        description="Upscale an image, or every image of a folder, with the library of a bundle.",
        epilog="example: python -m compiler.run artifacts/bpp3x_int8 photo.png photo_3x.png",
    )
    result.add_argument("bundle", type=Path, metavar="BUNDLE")
    result.add_argument("input", type=Path, metavar="INPUT", help="an image, or a folder")
    result.add_argument("output", type=Path, metavar="OUTPUT", help="a PNG file, or a folder")
    result.add_argument("--quiet", action="store_true", help="errors only")
    return result


def run(args: argparse.Namespace, reporter: Reporter) -> int:
    """Upscales; sizes other than the spec's are compiled at first use."""
    jobs = _jobs(args.input, args.output)
    from compiler import bundle

    engine = bundle.load(args.bundle).engine
    spent_s = 0.0
    for source, target in reporter.track(jobs, "upscaling"):
        frame = read_image(source)
        start = time.perf_counter()
        result = engine.run_frames(frame)
        spent_s += time.perf_counter() - start
        write_image(target, result)
    reporter.stage(
        f"{len(jobs)} image{'s' if len(jobs) > 1 else ''} x{engine.scaling.rate} "
        f"to {args.output} ({1e3 * spent_s / len(jobs):.0f} ms an image, compilation included)"
    )
    return 0


def _jobs(source: Path, target: Path) -> list[tuple[Path, Path]]:
    """(input, output) files; a folder becomes a folder of PNG files of the same names."""
    if not source.is_dir():
        return [(source, target / f"{source.stem}.png" if target.is_dir() else target)]
    if target.is_file():
        raise StorageError(
            "the output is a file, the input a folder", where=str(target), fix="name a folder"
        )
    return [(path, target / f"{path.stem}.png") for path in list_images(source, None, None)]


if __name__ == "__main__":
    cli.main(parser(), run)
