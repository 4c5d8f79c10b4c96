from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from calib.errors import ImageError
from calib.images import read_npz, write_npz

IMAGE = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    write_npz(path, IMAGE)
    np.testing.assert_array_equal(read_npz(path), IMAGE)
    with np.load(path) as stored:
        assert list(stored) == ["input_0"]
        np.testing.assert_array_equal(stored["input_0"], IMAGE.transpose(2, 0, 1))


def test_the_same_image_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_npz(tmp_path / name, IMAGE)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_other_names_batches_and_grey(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, image=IMAGE.transpose(2, 0, 1)[None])
    np.testing.assert_array_equal(read_npz(path), IMAGE)
    np.savez(path, x=IMAGE[None, :, :, 0])
    np.testing.assert_array_equal(read_npz(path), np.repeat(IMAGE[..., :1], 3, axis=2))


@pytest.mark.parametrize(
    ("contents", "words"),
    [
        ({"x": IMAGE.astype(np.float32).transpose(2, 0, 1)}, "float32"),
        ({"x": IMAGE}, r"uint8 \[5, 7, 3\]"),
        ({"ids": IMAGE, "mask": IMAGE}, "2 arrays"),
        ({}, "0 arrays"),
        ({"x": np.zeros((3, 0, 4), np.uint8)}, r"\[3, 0, 4\]"),
        ({"x": np.array([object()])}, "damaged"),
    ],
)
def test_other_contents_are_refused(tmp_path: Path, contents: dict[str, Any], words: str) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, **contents)
    with pytest.raises(ImageError, match=words) as caught:
        read_npz(path)
    assert "input_0" in caught.value.fix


def test_missing_and_damaged_files(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with pytest.raises(ImageError, match="cannot be read"):
        read_npz(path)
    for data in (b"", b"text", b"PK\x05\x06" + bytes(10)):
        path.write_bytes(data)
        with pytest.raises(ImageError, match="damaged"):
            read_npz(path)


def test_a_bomb_is_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, x=np.zeros((3, 12000, 12000), np.uint8))
    with pytest.raises(ImageError, match="larger than"):
        read_npz(path)


@given(arrays.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(3))))
def test_every_image_survives(image: np.ndarray) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.npz")
        write_npz(path, image)
        np.testing.assert_array_equal(read_npz(path), image)
