"""`python -m compiler.run BUNDLE INPUT OUTPUT`: upscales an image, a folder of images, or a video.

Frames are decoded one ahead and encoded one behind, each in a thread of its own, while the library
computes.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from calib.images import list_images, read_image, write_image
from compiler import cli
from compiler.engine import Engine
from compiler.errors import StorageError
from compiler.progress import Reporter
from compiler.scaling import Rgb

Sink = Callable[[Rgb], None]
VIDEO_SUFFIX = ".mp4"  # where OUTPUT is a folder


@dataclass(frozen=True)
class Speed:
    """How fast frames passed.

    Attributes:
        library_s: spent in the library, its input and output conversions included.
        overall_s: from the first byte read to the last one written, compilation left out.
        compile_s: spent on libraries for sizes not seen before, and on loading.
    """

    frames: int
    library_s: float
    overall_s: float
    compile_s: float

    @property
    def library_frames_per_s(self) -> float:
        """Frames a second of the library alone."""
        return self.frames / self.library_s

    @property
    def overall_frames_per_s(self) -> float:
        """Frames a second with decoding and encoding."""
        return self.frames / self.overall_s


def parser() -> argparse.ArgumentParser:
    """Arguments of the command."""
    result = cli.command(
        "run",
        "Upscale an image, every image of a folder, or a video, with the library of a bundle.",
        examples=(
            "artifacts/bpp3x_int8 photo.png photo_3x.png",
            "artifacts/bpp3x_int8 photos/ photos_3x/",
            "artifacts/bpp3x_int8 clip.mp4 clip_3x.mkv --codec FFV1",
        ),
    )
    result.add_argument("bundle", type=Path, metavar="BUNDLE", help="a bundle's directory")
    result.add_argument("input", type=Path, metavar="INPUT", help="an image, a folder, or a video")
    result.add_argument(
        "output", type=Path, metavar="OUTPUT", help="a PNG file, a folder, or a video"
    )
    result.add_argument(
        "--codec",
        metavar="FOURCC",
        help="of a video; default: mp4v, MJPG in .avi, VP80 in .webm; FFV1 in .mkv loses nothing",
    )
    return cli.with_output(result, "frames a second")


def run(args: argparse.Namespace, reporter: Reporter) -> int:
    """Upscales; sizes other than the spec's are compiled at first use."""
    from compiler import bundle, video

    is_video = args.input.suffix.lower() in video.SUFFIXES and not args.input.is_dir()
    if is_video:
        target = _inside(args.output, args.input, VIDEO_SUFFIX)
        _keep_originals([(args.input, target)])
        codec = video.check_codec(args.codec or video.codec_of(target))
        engine = bundle.load(args.bundle).engine
        speed = upscale_video(engine, args.input, target, codec, reporter)
    else:
        jobs = _jobs(args.input, args.output)
        _keep_originals(jobs)
        engine = bundle.load(args.bundle).engine
        speed = upscale_images(engine, jobs, reporter)
    reporter.stage(
        f"{speed.frames} {'frame' if is_video else 'image'}{'s' if speed.frames > 1 else ''} "
        f"x{engine.scaling.rate} to {args.output}: {speed.library_frames_per_s:.1f} frames/s in "
        f"the library, {speed.overall_frames_per_s:.1f} frames/s overall"
    )
    reporter.detail(f"{speed.compile_s:.1f} s to load and compile are not in these figures")
    if is_video:
        reporter.detail(
            f"sound is not carried over: ffmpeg -i {target} -i {args.input} -map 0:v -map 1:a "
            "-c copy WITH_SOUND"
        )
    rates = {
        "library_frames_per_s": speed.library_frames_per_s,
        "overall_frames_per_s": speed.overall_frames_per_s,
    }
    cli.write_result(args.json, asdict(speed) | rates)
    return 0


def upscale_images(engine: Engine, jobs: list[tuple[Path, Path]], reporter: Reporter) -> Speed:
    """Upscales files, each to a PNG file.

    Args:
        jobs: (input, output) of each.
    Raises:
        ImageError: a file is no image, or cannot be written; those before it are finished.
    """
    images = ((read_image(source), partial(write_image, target)) for source, target in jobs)
    return _upscale(engine, images, len(jobs), reporter)


def upscale_video(
    engine: Engine, source: Path, target: Path, codec: str, reporter: Reporter
) -> Speed:
    """Upscales a video, frame by frame, at its own frame rate.

    Raises:
        VideoError: the video is damaged, or cannot be written; nothing is left under `target`.
    """
    from compiler import video

    with video.reading(source) as clip:
        rate = engine.scaling.rate
        size = (clip.size[0] * rate, clip.size[1] * rate)
        with video.writing(target, size, clip.frames_per_s, codec) as append:
            frames = ((frame, append) for frame in clip.frames)
            return _upscale(engine, frames, clip.count or None, reporter)


def _upscale(
    engine: Engine, frames: Iterator[tuple[Rgb, Sink]], total: int | None, reporter: Reporter
) -> Speed:
    upscaler = _Upscaler(engine)
    start = time.perf_counter()
    count = 0
    for _ in reporter.track(overlapped(frames, upscaler), "upscaling", total=total):
        count += 1
    overall_s = time.perf_counter() - start - upscaler.compile_s
    return Speed(count, upscaler.library_s, overall_s, upscaler.compile_s)


class _Upscaler:
    """The library on frames; what the first frame of a size costs is kept apart."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.library_s = self.compile_s = 0.0
        self.sizes: set[tuple[int, ...]] = set()

    def __call__(self, frame: Rgb) -> Rgb:
        if frame.shape not in self.sizes:
            start = time.perf_counter()
            self.engine.run_frames(frame)
            self.compile_s += time.perf_counter() - start
            self.sizes.add(frame.shape)
        start = time.perf_counter()
        result = self.engine.run_frames(frame)
        self.library_s += time.perf_counter() - start
        return result


def overlapped(frames: Iterator[tuple[Rgb, Sink]], compute: Callable[[Rgb], Rgb]) -> Iterable[None]:
    """Passes every frame through `compute` to its sink, in order; yields after each.

    The next frame is fetched, and the last one stored, in threads while `compute` runs. At most
    three frames are alive. An error of any of the three ends it; frames before it are stored.
    """
    with ThreadPoolExecutor(1) as fetching, ThreadPoolExecutor(1) as storing:
        coming = fetching.submit(next, frames, None)
        stored: Future[None] | None = None
        while (item := coming.result()) is not None:
            frame, sink = item
            coming = fetching.submit(next, frames, None)
            result = compute(frame)
            if stored is not None:
                stored.result()
            stored = storing.submit(sink, result)
            yield
        if stored is not None:
            stored.result()


def _jobs(source: Path, target: Path) -> list[tuple[Path, Path]]:
    """(input, output) files; a folder becomes a folder of PNG files of the same names."""
    if not source.is_dir():
        file = _inside(target, source, ".png")
        if file.suffix.lower() not in ("", ".png"):
            raise StorageError(
                "results are PNG files", where=str(file), fix=f"name it {file.with_suffix('.png')}"
            )
        return [(source, file)]
    if target.is_file():
        raise StorageError(
            "the output is a file, the input a folder", where=str(target), fix="name a folder"
        )
    return [(path, target / f"{path.stem}.png") for path in list_images(source, None, None)]


def _keep_originals(jobs: list[tuple[Path, Path]]) -> None:
    originals = {source.resolve() for source, _ in jobs}
    for _, target in jobs:
        if target.resolve() in originals:
            raise StorageError(
                "the output would replace an input",
                where=str(target),
                fix="name another file or folder for the output",
            )


def _inside(target: Path, source: Path, suffix: str) -> Path:
    """The output file: `target`, or one of the source's name in it where it is a folder."""
    return target / f"{source.stem}{suffix}" if target.is_dir() else target


if __name__ == "__main__":
    cli.main(parser(), run)
