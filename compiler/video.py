"""Video files through OpenCV: frames in and out as uint8 [H, W, 3] RGB.

Sound is not read: OpenCV has no notion of it. OpenCV neither reports a frame that it could not
write, nor tells the end of a video from a damaged place in it; both are found by counting frames.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import cv2
from cv2.utils import logging

from compiler import store
from compiler.errors import VideoError
from compiler.network import Size
from compiler.scaling import Rgb

os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # quiet: errors are ours to tell

CODECS: Final = {
    ".mp4": "mp4v",
    ".m4v": "mp4v",
    ".mov": "mp4v",
    ".mkv": "mp4v",
    ".avi": "MJPG",
    ".webm": "VP80",
}
"""The codec of each container that is written, where none is named: those of every OpenCV."""

SUFFIXES: Final = (*CODECS, ".mpg", ".mpeg", ".ts", ".wmv", ".flv", ".y4m")
"""Suffixes (lower case) of what is taken for a video."""

_MISSING: Final = 0.01  # share of the frames that a container may promise too many
_MAX_FPS: Final = 1000.0


@dataclass(frozen=True)
class Video:
    """An open video.

    Attributes:
        size: height and width of its frames.
        frames_per_s: its frame rate.
        count: frames that its container promises; 0 where it does not tell.
        frames: the frames, one after another, once.
    """

    size: Size
    frames_per_s: float
    count: int
    frames: Iterator[Rgb]


@contextmanager
def reading(path: Path) -> Iterator[Video]:
    """Opens a video.

    Raises:
        VideoError: it is no video, or damaged; while its frames are read also that it ends early.
    """
    if not path.is_file():
        raise VideoError("there is no such file", where=str(path), fix="correct the path")
    capture = cv2.VideoCapture(str(path))
    try:
        rate = capture.get(cv2.CAP_PROP_FPS)
        if not capture.isOpened():
            raise _unreadable(path, "OpenCV cannot open it")
        if not 0 < rate < _MAX_FPS:
            raise _unreadable(path, f"its frame rate is {rate:g}")
        size = (
            int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)),
            int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)),
        )
        count = max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT)))
        yield Video(size, rate, count, _frames(capture, path, count))
    finally:
        capture.release()


def _frames(capture: cv2.VideoCapture, path: Path, promised: int) -> Iterator[Rgb]:
    seen = 0
    while True:
        good, bgr = capture.read()
        if not good:
            break
        seen += 1
        yield cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
    if seen == 0 or promised - seen > max(1, _MISSING * promised):
        raise _unreadable(path, f"only {seen} of {promised} frames can be read")


@contextmanager
def writing(
    path: Path, size: Size, frames_per_s: float, codec: str | None = None
) -> Iterator[Callable[[Rgb], None]]:
    """A function that appends a frame, uint8 [*size, 3] RGB or [*size, 1] grey, to a new video.

    The file appears under its name only when it is complete.

    Args:
        codec: four letters; None takes that of the container.
    Raises:
        VideoError: OpenCV lacks the codec for this container, or frames did not reach the file.
        StorageError: the folder cannot be written.
    """
    letters = codec or codec_of(path)
    fourcc = cv2.VideoWriter.fourcc(*letters)
    with store.atomic(path) as temporary:
        level = logging.setLogLevel(logging.LOG_LEVEL_SILENT)  # what is wrong is said below
        writer = cv2.VideoWriter(str(temporary), fourcc, frames_per_s, (size[1], size[0]))
        logging.setLogLevel(level)
        if not writer.isOpened():
            raise VideoError(
                f"OpenCV cannot write codec {letters} into {path.suffix} at {size[1]}x{size[0]}",
                where=str(path),
                fix="name another --codec or container: mp4v in .mp4, MJPG in .avi, or FFV1 "
                "(lossless) in .mkv",
            )
        written = 0

        def append(frame: Rgb) -> None:
            nonlocal written
            grey = frame.shape[2] == 1
            writer.write(cv2.cvtColor(frame, cv2.COLOR_GRAY2BGR if grey else cv2.COLOR_RGB2BGR))
            written += 1

        try:
            yield append
        finally:
            writer.release()
        _require_complete(temporary, path, written)


def codec_of(path: Path) -> str:
    """The codec of a container.

    Raises:
        VideoError: the suffix is none of `CODECS`.
    """
    suffix = path.suffix.lower()
    if suffix not in CODECS:
        raise VideoError(
            f"{path.suffix or 'no suffix'} names no container that videos are written to",
            where=str(path),
            fix=f"use one of {', '.join(CODECS)}",
        )
    return CODECS[suffix]


def check_codec(letters: str) -> str:
    """Four printable ASCII letters, as a codec is named.

    Raises:
        VideoError: not such a name.
    """
    if len(letters) != 4 or not letters.isascii() or not letters.isprintable():
        raise VideoError(
            f"{letters!r} is no codec", where="--codec", fix="write four letters: mp4v, MJPG, FFV1"
        )
    return letters


def _require_complete(temporary: Path, path: Path, written: int) -> None:
    """Counts the frames in the finished file: OpenCV does not tell when the disk is full."""
    capture = cv2.VideoCapture(str(temporary))
    stored = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    capture.release()
    if stored < written:
        raise VideoError(
            f"only {max(stored, 0)} of {written} frames reached the file",
            where=str(path),
            fix="free some space, or name another --codec",
        )


def _unreadable(path: Path, why: str) -> VideoError:
    return VideoError(
        f"the video is damaged or of an unknown kind: {why}",
        where=str(path),
        fix="play it to see where it breaks, and export or fetch it again",
    )
