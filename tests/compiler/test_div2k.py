"""compiler.div2k with small generated archives, from disk and from a server on this machine."""

import functools
import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from calib.errors import DataError
from compiler.data import SUBSET_48, pair
from compiler.div2k import HR, LR, Archive, install, parser, run
from compiler.errors import FetchError, StorageError
from compiler.progress import silent
from tests.file_server import serving

ARCHIVES = [HR, *LR.values()]
Edit = Callable[[dict[str, bytes]], None]


@functools.cache
def png(height: int, width: int, number: int) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return cv2.imencode(".png", pixels)[1].tobytes()


def members(archive: Archive) -> dict[str, bytes]:
    rate = int(archive.ending[1:] or 1)
    size = 12 // rate, 18 // rate
    return {f"{archive.folder}/{n}": png(*size, i) for i, n in enumerate(archive.images())}


def write_zip(path: Path, content: dict[str, bytes]) -> None:
    path.parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(path, "w") as file:
        for name, data in content.items():
            file.writestr(zipfile.ZipInfo(name), data)


@pytest.fixture
def zips(tmp_path: Path) -> Path:
    for archive in ARCHIVES:
        write_zip(tmp_path / "zips" / archive.file, members(archive))
    return tmp_path / "zips"


@pytest.fixture
def url(zips: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("no_proxy", "*")
    with serving(zips) as address:
        yield address


def files(root: Path) -> list[str]:
    return sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file())


EXPECTED = sorted(f"{a.folder}/{name}" for a in ARCHIVES for name in a.images())


def test_download_to_the_usual_layout(url: str, tmp_path: Path) -> None:
    out = tmp_path / "data" / "DIV2K"
    install(out, [], silent(), url)
    assert files(out) == EXPECTED
    assert {"DIV2K_valid_HR/0801.png", "DIV2K_valid_LR_bicubic/X3/0900x3.png"} < set(EXPECTED)
    assert files(tmp_path / "data") == sorted(
        [f"DIV2K/{n}" for n in EXPECTED] + ["DIV2K.lock.json"]
    )
    assert set(json.loads((tmp_path / "data/DIV2K.lock.json").read_text())) == {
        archive.file for archive in ARCHIVES
    }
    pairs = pair(out / "DIV2K_valid_LR_bicubic/X3", out / "DIV2K_valid_HR", 3, SUBSET_48)
    assert tuple(p.name for p in pairs) == SUBSET_48
    install(out, [], silent(), "http://127.0.0.1:9/")  # all there: nothing is fetched


def test_a_later_archive_must_equal_the_recorded_one(url: str, zips: Path, tmp_path: Path) -> None:
    install(tmp_path / "DIV2K", [zips], silent())
    changed = members(HR)
    changed["DIV2K_valid_HR/0850.png"] = png(12, 18, 999)
    write_zip(zips / HR.file, changed)
    (tmp_path / "DIV2K" / HR.folder / "0801.png").unlink()
    for sources in ([], [zips]):
        with pytest.raises(FetchError, match="sha256 is"):
            install(tmp_path / "DIV2K", sources, silent(), url)
    assert not (tmp_path / "DIV2K" / HR.folder / "0801.png").exists()
    assert not (tmp_path / "DIV2K" / HR.file).exists()


def test_from_zips_and_from_unpacked_folders(zips: Path, tmp_path: Path) -> None:
    install(tmp_path / "a", [zips / archive.file for archive in ARCHIVES], silent())
    assert files(tmp_path / "a") == EXPECTED
    install(tmp_path / "b", [tmp_path / "a"], silent())
    assert files(tmp_path / "b") == EXPECTED
    assert not (tmp_path / "b.lock.json").exists()


def test_the_command(zips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (zips / LR[2].file).unlink()
    args = parser().parse_args(["--from", str(zips), "--out", str(tmp_path / "out")])
    assert run(args, silent()) == 0
    assert files(tmp_path / "out") == [n for n in EXPECTED if "/X2/" not in n]


def test_sources_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        install(tmp_path / "out", [tmp_path / "none"], silent())
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"none of DIV2K_valid_HR\.zip, .* is there"):
        install(tmp_path / "out", [tmp_path / "empty"], silent())


def drop(content: dict[str, bytes]) -> None:
    del content["DIV2K_valid_HR/0817.png"]


def truncate(content: dict[str, bytes]) -> None:
    content["DIV2K_valid_HR/0817.png"] = content["DIV2K_valid_HR/0817.png"][:-30]


def inflate(content: dict[str, bytes]) -> None:
    content["DIV2K_valid_HR/0817.png"] = bytes(2**26 + 1)


@pytest.mark.parametrize(
    ("edit", "what"),
    [
        (drop, r"it lacks 0817\.png"),
        (truncate, r"0817\.png: the image is truncated or damaged"),
        (inflate, r"0817\.png is larger than"),
    ],
)
def test_a_bad_archive_leaves_nothing(zips: Path, tmp_path: Path, edit: Edit, what: str) -> None:
    content = members(HR)
    edit(content)
    write_zip(zips / HR.file, content)
    with pytest.raises(DataError, match=what) as caught:
        install(tmp_path / "out", [zips], silent())
    assert caught.value.where == str(zips / HR.file)
    assert files(tmp_path / "out") == []
    assert not (tmp_path / "out.lock.json").exists()


@pytest.mark.parametrize("damage", ["no zip", "cut", "flipped"])
def test_a_damaged_zip_is_refused_and_not_kept(
    url: str, zips: Path, tmp_path: Path, damage: str
) -> None:
    path = zips / HR.file
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    path.write_bytes(
        {"no zip": b"hello", "cut": bytes(data[:-100]), "flipped": bytes(data)}[damage]
    )
    with pytest.raises(DataError, match="damaged or incomplete"):
        install(tmp_path / "out", [], silent(), url)
    assert files(tmp_path / "out") == []
    write_zip(path, members(HR))
    install(tmp_path / "out", [], silent(), url)
    assert files(tmp_path / "out") == EXPECTED


def test_paths_in_a_zip_never_leave_the_folder(zips: Path, tmp_path: Path) -> None:
    evil = {"../../evil.png": png(4, 4, 0), "/tmp/evil.png": png(4, 4, 0), "a/../../0801.png": b""}
    write_zip(zips / HR.file, evil | members(HR))
    install(tmp_path / "out", [zips], silent())
    assert files(tmp_path / "out") == EXPECTED
    assert not list(tmp_path.rglob("*evil*"))


def test_lr_that_does_not_fit_hr(zips: Path, tmp_path: Path) -> None:
    content = members(LR[3])
    content["DIV2K_valid_LR_bicubic/X3/0803x3.png"] = png(5, 6, 0)
    write_zip(zips / LR[3].file, content)
    with pytest.raises(DataError, match=r"not 1/3 of the ground truth: 0803x3\.png"):
        install(tmp_path / "out", [zips], silent())


def test_a_bad_lock_file_and_a_bad_folder(zips: Path, tmp_path: Path) -> None:
    for text in ("{", "[]"):
        (tmp_path / "out.lock.json").write_text(text)
        with pytest.raises(DataError, match="lock file"):
            install(tmp_path / "out", [zips], silent())
    (tmp_path / "file").touch()
    with pytest.raises(StorageError):
        install(tmp_path / "file" / "out", [zips], silent())
