"""Builds that are killed, run at the same time, or lose their images: nothing is lost or mixed.

`VACC_KILLS=50 pytest tests/compiler/test_resume.py` (or `make resume N=50`) kills more often.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import shutil
import subprocess
import time
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from calib.errors import ImageError
from calib.images import write_image
from compiler import pipeline, spec, store
from compiler.errors import StorageError
from compiler.progress import silent
from compiler.store import Store
from tests.compiler.conftest import photograph, tiny_spec
from tests.compiler.test_pipeline import files

KILLS = int(os.environ.get("VACC_KILLS", "3"))
SEED = int(os.environ.get("VACC_SEED", "0"))
TIMEOUT_S = 600


def build(path: Path, out: Path, log: Path | None = None) -> None:
    """One build in a process of its own; `log` gets a line for each stage result that it makes."""
    if log is not None:
        make = Store.get

        def logged(self: Store, key: str, suffix: str, produce: object) -> Path:
            def noted(target: Path) -> None:
                with log.open("a") as lines:
                    lines.write(f"{key}{suffix}\n")
                produce(target)  # type: ignore[operator]

            return make(self, key, suffix, noted)

        Store.get = logged  # type: ignore[method-assign, assignment]
    pipeline.run(spec.load(path), silent(), out=out)


def started(*arguments: object) -> BaseProcess:
    """`build` in a process that is forked from one that has imported everything; without
    arguments, a process that does nothing: the imports are made by then.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "compiler.library", "onnxruntime"])
    process = context.Process(target=build if arguments else len, args=arguments or ("",))
    process.start()
    return process


def finished(process: BaseProcess) -> None:
    process.join(TIMEOUT_S)
    assert process.exitcode == 0


def recovering_spec(folder: Path) -> Path:
    """Every stage that keeps a result: equalization, histograms, GPTQ, libraries of two sizes."""
    write_image(folder / "held out" / "0.png", photograph(10, 66, 70))
    return tiny_spec(
        folder,
        verify__hr=str(folder / "held out"),
        backend__quantize__equalize=True,
        backend__quantize__rounding="gptq",
        backend__compile__host={"isa": "portable", "threads": 1},
    )


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes], float]:
    """A spec, the bytes of its bundle, and how long an uninterrupted build takes."""
    folder = tmp_path_factory.mktemp("reference")
    path = recovering_spec(folder)
    finished(started())
    began = time.monotonic()
    finished(started(path, folder / "out"))
    return path, files(folder / "out" / "tiny"), time.monotonic() - began


def test_killed_at_any_moment_a_build_resumes_to_the_same_bytes(
    reference: tuple[Path, dict[str, bytes], float], tmp_path: Path
) -> None:
    path, expected, seconds = reference
    rng = random.Random(SEED)
    killed = 0
    for i in range(KILLS):
        out = tmp_path / f"{i}"
        process = started(path, out)
        process.join(rng.uniform(0, seconds))
        process.kill()
        process.join()
        kept = [p.suffix for p in out.rglob("*") if p.is_file() and p.suffix != ".lock"]
        killed += process.exitcode == -9
        finished(started(path, out))
        assert files(out / "tiny") == expected, f"kill {i} of seed {SEED}"
        assert sorted(p.name for p in out.iterdir()) == [".store", "tiny"]
        shutil.rmtree(out)
        print(f"{i + 1} identical, {killed} killed before their end; {len(kept)} files by then")


def test_two_builds_at_once_share_their_work(
    reference: tuple[Path, dict[str, bytes], float], tmp_path: Path
) -> None:
    path, expected, _ = reference
    logs = [tmp_path / "a.log", tmp_path / "b.log"]
    for log in logs:
        log.touch()
    processes = [started(path, tmp_path / "out", log) for log in logs]
    for process in processes:
        finished(process)
    assert files(tmp_path / "out" / "tiny") == expected
    made = [line for log in logs for line in log.read_text().splitlines()]
    assert len(made) == len(set(made)), "no result is made twice"
    assert {Path(line).suffix for line in made} >= {".onnx", ".observed", ".integer", ".so"}
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [".store", "tiny"]
    again = tmp_path / "again.log"
    again.touch()
    finished(started(path, tmp_path / "out", again))
    assert again.read_text() == "", "a third build finds everything"


def test_an_image_that_vanishes_is_named_and_what_is_done_is_kept(tmp_path: Path) -> None:
    """Listed, and gone when it is read: the network stays simplified, a repaired set goes on."""
    path = recovering_spec(tmp_path)
    image = tmp_path / "calibration" / "1.png"
    held = image.with_suffix(".away")
    identity = pipeline.stages.CalibrationInputs.key
    out = tmp_path / "out"

    def vanish(*arguments: object) -> str:
        key = identity(*arguments)  # type: ignore[arg-type]
        with contextlib.suppress(FileNotFoundError):
            image.rename(held)
        return key

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(pipeline.stages.CalibrationInputs, "key", vanish)
        with pytest.raises(ImageError, match="cannot be read") as caught:
            pipeline.run(spec.load(path), silent(), out=out)
    assert str(image) in caught.value.where
    assert caught.value.fix
    kept = sorted(p.suffix for p in (out / ".store").rglob("*") if p.is_file())
    assert ".onnx" in kept
    assert list(out.iterdir()) == [out / ".store"]
    held.rename(image)
    done = pipeline.run(spec.load(path), silent(), out=out, until="quantize")
    assert done.net is not None


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB in memory; only root may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)]
    if os.getuid() or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.parametrize("trouble", ["full", "read-only"])
def test_a_disk_that_fills_up_or_turns_read_only_during_a_build(
    small_disk: Path, tmp_path: Path, trouble: str
) -> None:
    """One clear error; what is done stays, and the build goes on once there is room again."""
    path, out = recovering_spec(tmp_path), small_disk / "out"
    identity = pipeline.stages.CalibrationInputs.key
    filler = small_disk / "filler"

    def remount(how: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{how}", str(small_disk)], check=True)

    def worsen(*arguments: object) -> str:
        if trouble == "read-only":
            remount("ro")
        else:
            with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
                while file.write(bytes(4096)):
                    pass
        return identity(*arguments)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(pipeline.stages.CalibrationInputs, "key", worsen)
        with pytest.raises(StorageError, match="cannot be written") as caught:
            pipeline.run(spec.load(path), silent(), out=out)
    assert str(out) in caught.value.where
    reason = "No space left" if trouble == "full" else "Read-only"
    assert reason in caught.value.what
    remount("rw")
    filler.unlink(missing_ok=True)
    whole = [p for p in out.rglob("*") if p.is_file() and p.suffix not in (".lock", "")]
    assert [p.suffix for p in whole] == [".onnx"], (
        "the simplified network, and nothing half-written"
    )
    assert pipeline.run(spec.load(path), silent(), out=out, until="quantize").net is not None


def test_scratch_of_the_dead_is_removed_and_that_of_the_living_kept(tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    left = tmp_path / f".bundle.abc{store._SCRATCH}"
    left.mkdir()
    (left / "half").touch()
    with store.atomic(target) as ours:
        assert not left.exists()
        with store.atomic(target) as theirs:
            assert ours.parent.exists()
            theirs.write_text("second")
        ours.write_text("first")
    assert target.read_text() == "first"
    assert list(tmp_path.iterdir()) == [target]
