"""Upscaling files: videos that the test makes itself, damaged ones, and the order of frames."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from calib.images import read_image, write_image
from compiler import bundle, pipeline, run, video
from compiler.engine import Engine
from compiler.errors import StorageError, VideoError
from compiler.progress import silent
from tests.compiler.conftest import photograph
from tests.compiler.test_commands import command

SIZE = (32, 48)
FPS = 12.5


def make_video(path: Path, codec: str, frames: int = 8, size: tuple[int, int] = SIZE) -> Path:
    """A picture that moves to the right, written by OpenCV alone."""
    fourcc = cv2.VideoWriter.fourcc(*codec)
    writer = cv2.VideoWriter(str(path), fourcc, FPS, (size[1], size[0]))
    assert writer.isOpened()
    picture = photograph(3, *size)
    for i in range(frames):
        writer.write(np.roll(picture, 3 * i, axis=1)[..., ::-1].copy())
    writer.release()
    return path


def read_video(path: Path) -> tuple[float, list[np.ndarray]]:
    """By OpenCV alone: frames per second and RGB frames."""
    capture = cv2.VideoCapture(str(path))
    rate, frames = capture.get(cv2.CAP_PROP_FPS), []
    while (answer := capture.read())[0]:
        frames.append(answer[1][..., ::-1])
    capture.release()
    return rate, frames


@pytest.fixture(scope="module")
def engine(tiny_build: pipeline.Result) -> Engine:
    assert tiny_build.bundle is not None
    return bundle.load(tiny_build.bundle).engine


@pytest.mark.parametrize(
    ("suffix", "codec"), [(".avi", "MJPG"), (".mp4", "mp4v"), (".mkv", "FFV1")]
)
def test_a_video_keeps_its_rate_and_length(
    engine: Engine, tmp_path: Path, suffix: str, codec: str
) -> None:
    source = make_video(tmp_path / f"in{suffix}", codec)
    target = tmp_path / f"out{suffix}"
    speed = run.upscale_video(engine, source, target, codec, silent())
    rate, frames = read_video(target)
    assert rate == pytest.approx(FPS, rel=1e-3)
    assert len(frames) == speed.frames == 8
    assert 0 < speed.library_s <= speed.overall_s
    for frame, original in zip(frames, read_video(source)[1], strict=True):
        wanted = engine.run_frames(np.ascontiguousarray(original))
        assert frame.shape == wanted.shape == (2 * SIZE[0], 2 * SIZE[1], 3)
        if codec == "FFV1":  # lossless; the others blur what random weights make
            np.testing.assert_array_equal(frame, wanted)


def test_the_command_tells_its_rates(tiny_build: pipeline.Result, tmp_path: Path) -> None:
    source = make_video(tmp_path / "in.avi", "MJPG", frames=3)
    done = command("run", tiny_build.bundle, source, tmp_path / "out.mp4", "--json", "-")
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert figures["frames"] == 3
    assert figures["overall_frames_per_s"] == pytest.approx(3 / figures["overall_s"])
    assert "frames/s overall" in done.stderr
    assert "sound is not carried over" in done.stderr


def cut(path: Path, share: float) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    return path


@pytest.mark.parametrize(
    ("suffix", "codec"), [(".avi", "MJPG"), (".mp4", "mp4v"), (".mkv", "mp4v")]
)
def test_a_truncated_video_leaves_nothing(
    engine: Engine, tmp_path: Path, suffix: str, codec: str
) -> None:
    source = cut(make_video(tmp_path / f"in{suffix}", codec, frames=40), 0.5)
    with pytest.raises(VideoError, match="damaged"):
        run.upscale_video(engine, source, tmp_path / "out.mp4", "mp4v", silent())
    assert [p.name for p in tmp_path.iterdir()] == [source.name]


def test_what_is_no_video(tiny_build: pipeline.Result, tmp_path: Path) -> None:
    source = tmp_path / "in.mp4"
    source.write_bytes(b"no video" * 100)
    done = command("run", tiny_build.bundle, source, tmp_path / "out.mp4")
    assert done.returncode == 2
    assert str(source) in done.stderr
    assert "ERROR:" not in done.stderr  # OpenCV's own voice
    assert command("run", tiny_build.bundle, tmp_path / "x.mp4", tmp_path).returncode == 2
    assert [p.name for p in tmp_path.iterdir()] == ["in.mp4"]


@pytest.mark.parametrize(
    ("name", "codec", "words"),
    [("out.gif", None, "no container"), ("out.webm", "MJPG", "MJPG"), ("out.mp4", "x", "no codec")],
)
def test_what_cannot_be_written(
    tiny_build: pipeline.Result, tmp_path: Path, name: str, codec: str | None, words: str
) -> None:
    source = make_video(tmp_path / "in.avi", "MJPG", frames=2)
    more = ["--codec", codec] if codec else []
    done = command("run", tiny_build.bundle, source, tmp_path / name, *more)
    assert done.returncode == 2
    assert words in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["in.avi"]


def test_frames_that_do_not_reach_the_file(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_video(tmp_path / "in.avi", "MJPG")
    real = cv2.VideoWriter

    class Full:
        """A writer on a full disk: says nothing, writes nothing after three frames."""

        fourcc = real.fourcc

        def __init__(self, *args: object) -> None:
            self.real, self.count = real(*args), 0
            self.isOpened, self.release = self.real.isOpened, self.real.release

        def write(self, frame: np.ndarray) -> None:
            self.count += 1
            if self.count <= 3:
                self.real.write(frame)

    monkeypatch.setattr(cv2, "VideoWriter", Full)
    with pytest.raises(VideoError, match="3 of 8"):
        run.upscale_video(engine, source, tmp_path / "out.avi", "MJPG", silent())
    assert not (tmp_path / "out.avi").exists()


def test_a_video_into_a_folder(tiny_build: pipeline.Result, tmp_path: Path) -> None:
    source = make_video(tmp_path / "in.avi", "MJPG", frames=2)
    done = command("run", tiny_build.bundle, source, tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(read_video(tmp_path / "in.mp4")[1]) == 2


def test_images_overlap_in_order(engine: Engine, tmp_path: Path) -> None:
    from calib.images import write_image

    jobs = []
    for i in range(4):
        write_image(tmp_path / f"{i}.png", photograph(i, 16 + 2 * (i % 2), 24))
        jobs.append((tmp_path / f"{i}.png", tmp_path / "out" / f"{i}.png"))
    speed = run.upscale_images(engine, jobs, silent())
    assert speed.frames == 4
    for source, target in jobs:
        np.testing.assert_array_equal(read_image(target), engine.run_frames(read_image(source)))


def frames(count: int) -> list[np.ndarray]:
    return [np.full((1, 1, 3), i, np.uint8) for i in range(count)]


@pytest.mark.parametrize("broken", ["source", "compute", "sink"])
def test_an_error_anywhere_ends_it_and_keeps_what_came_before(broken: str) -> None:
    kept: list[int] = []

    def check(stage: str, frame: np.ndarray) -> np.ndarray:
        if stage == broken and frame.max() == 5:
            raise ValueError(stage)
        return frame

    def sink(frame: np.ndarray) -> None:
        kept.append(int(check("sink", frame).max()))

    source = ((check("source", frame), sink) for frame in frames(9))
    with pytest.raises(ValueError, match=broken):
        list(run.overlapped(source, lambda frame: check("compute", frame)))
    assert kept == [0, 1, 2, 3, 4]


def test_few_frames_are_alive() -> None:
    stored: list[int] = []
    most = 0

    def compute(frame: np.ndarray) -> np.ndarray:
        nonlocal most
        most = max(most, next(ahead) - len(stored))
        return frame

    ahead = itertools.count(1)
    source = ((frame, lambda f: stored.append(int(f.max()))) for frame in frames(50))
    list(run.overlapped(source, compute))
    assert stored == list(range(50))
    assert most <= 3


def test_suffixes_in_capitals(tmp_path: Path) -> None:
    assert video.codec_of(tmp_path / "A.AVI") == "MJPG"


@pytest.mark.parametrize("name", ["mine.png", "mine.avi"])
def test_an_input_is_never_replaced(tiny_build: pipeline.Result, tmp_path: Path, name: str) -> None:
    source = tmp_path / name
    if source.suffix == ".avi":
        make_video(source, "MJPG", frames=1)
    else:
        write_image(source, np.zeros((8, 8, 3), np.uint8))
    before = source.read_bytes()
    parse = run.parser().parse_args
    onto = [[str(source), str(source)], [str(tmp_path)] * 2]
    for files in onto if source.suffix == ".png" else onto[:1]:
        with pytest.raises(StorageError, match="replace an input"):
            run.run(parse([str(tiny_build.bundle), *files]), silent())
    assert source.read_bytes() == before


def test_a_result_is_no_jpeg(tiny_build: pipeline.Result, tmp_path: Path) -> None:
    write_image(tmp_path / "in.png", np.zeros((8, 8, 3), np.uint8))
    args = [str(tiny_build.bundle), str(tmp_path / "in.png"), str(tmp_path / "out.jpg")]
    with pytest.raises(StorageError, match="PNG") as caught:
        run.run(run.parser().parse_args(args), silent())
    assert "out.png" in caught.value.fix
    assert not (tmp_path / "out.jpg").exists()
