"""compiler.data: samples without a network, and pairs of LR and HR images."""

import re
import socket
from pathlib import Path

import numpy as np
import pytest

from calib.bicubic import downscale
from calib.errors import DataError, ImageError
from calib.images import digest, write_image
from compiler.data import SAMPLES, SUBSET_48, Pair, pair, sample_pairs, samples

SHARED = Path(__file__).parents[2].parent / "shared"


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def write(folder: Path, sizes: dict[str, tuple[int, int]]) -> Path:
    for seed, (name, size) in enumerate(sizes.items()):
        write_image(folder / f"{name}.png", photo(*size, seed))
    return folder


def test_samples_are_colour_photographs_of_disjoint_halves(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*_: object) -> None:
        raise AssertionError("samples must not touch the network")

    monkeypatch.setattr(socket.socket, "connect", no_network)
    digests = {}
    for half in SAMPLES:
        images = {sample.name: sample.read() for sample in samples(half)}
        assert list(images) == sorted(images)
        for image in images.values():
            assert image.dtype == np.uint8
            assert image.shape[2] == 3
            assert not np.array_equal(image[..., 0], image[..., 1])
        digests[half] = {digest(image) for image in images.values()}
        assert len(digests[half]) == len(images)
    assert not digests["calibration"] & digests["verification"]
    assert len(digests["calibration"]) + len(digests["verification"]) == 9


def test_one_scene_stays_in_one_half() -> None:
    halves = {half for half, names in SAMPLES.items() for n in names if n.startswith("motorcycle")}
    assert len(halves) == 1


def test_sample_pairs_are_made_by_bicubic_reduction() -> None:
    pairs = sample_pairs(3)
    assert [p.name for p in pairs] == ["astronaut", "chelsea", "coffee", "rocket"]
    lr, hr = pairs[0].read()
    assert (hr.shape, lr.shape) == ((510, 510, 3), (170, 170, 3))
    np.testing.assert_array_equal(lr, downscale(hr, 3))
    np.testing.assert_array_equal(pairs[0].read_lr(), lr)


@pytest.mark.parametrize("ending", ["x3", ""])
def test_pairs_by_name(tmp_path: Path, ending: str) -> None:
    hr = write(tmp_path / "hr", {"b": (12, 16), "a": (13, 17), "c": (9, 9)})
    lr = write(
        tmp_path / "lr",
        {f"{n}{ending}": s for n, s in {"a": (4, 5), "b": (4, 5), "c": (3, 3)}.items()},
    )
    pairs = pair(lr, hr, 3)
    assert [p.name for p in pairs] == ["a", "b", "c"]
    assert pairs[0] == Pair("a", hr / "a.png", lr / f"a{ending}.png", 3)
    low, high = pairs[0].read()
    np.testing.assert_array_equal(low, photo(4, 5, 0))
    np.testing.assert_array_equal(high, photo(13, 17, 1)[:12, :15])
    np.testing.assert_array_equal(pairs[0].read_lr(), low)
    assert [p.name for p in pair(lr, hr, 3, subset=["c", "a"])] == ["a", "c"]


def test_names_that_end_like_a_rate_are_paired_as_they_are(tmp_path: Path) -> None:
    hr = write(tmp_path / "hr", {"boxx2": (4, 4)})
    lr = write(tmp_path / "lr", {"boxx2": (2, 2)})
    assert [p.name for p in pair(lr, hr, 2)] == ["boxx2"]
    lr = write(tmp_path / "suffixed", {"boxx2x2": (2, 2)})
    assert [p.name for p in pair(lr, hr, 2)] == ["boxx2"]


def test_without_lr_it_is_made(tmp_path: Path) -> None:
    hr = write(tmp_path, {"a": (13, 17)})
    (made,) = pair(None, hr, 2)
    lr, truth = made.read()
    assert truth.shape == (12, 16, 3)
    np.testing.assert_array_equal(lr, downscale(truth, 2))


def test_grey_is_read_as_three_channels(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", photo(8, 8)[..., :1])
    lr, hr = pair(None, tmp_path, 2)[0].read()
    assert hr.shape == (8, 8, 3)
    assert lr.shape == (4, 4, 3)
    np.testing.assert_array_equal(lr[..., 0], lr[..., 2])


def test_every_misfit_is_listed(tmp_path: Path) -> None:
    hr = write(tmp_path / "hr", {"a": (6, 6), "b": (6, 6), "c": (6, 6)})
    lr = write(tmp_path / "lr", {"ax3": (2, 2), "dx3": (2, 2), "bx2": (3, 3)})
    told = "no x3 partner for: b.png, c.png; no ground truth for: bx2.png, dx3.png"
    with pytest.raises(DataError, match=re.escape(told)) as caught:
        pair(lr, hr, 3)
    assert caught.value.where == str(lr)
    assert [p.name for p in pair(lr, hr, 3, subset=["a"])] == ["a"]

    sizes = write(tmp_path / "sizes", {"ax3": (2, 3), "bx3": (2, 2), "cx3": (1, 2)})
    told = "not 1/3 of the ground truth: ax3.png (2x3 for 2x2), cx3.png (1x2 for 2x2)"
    with pytest.raises(DataError, match=re.escape(told)):
        pair(sizes, hr, 3)

    with pytest.raises(DataError, match=r"not there: 0801, 0802, .*, 0889"):
        pair(None, hr, 3, subset=SUBSET_48)


def test_two_files_for_one_image(tmp_path: Path) -> None:
    hr = write(tmp_path / "hr", {"a": (6, 6)})
    lr = write(tmp_path / "lr", {"ax3": (2, 2)})
    (lr / "ax3.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=r"more than one file for one image: ax3\.jpg, ax3\.png"):
        pair(lr, hr, 3)


def test_folders_and_images_that_are_not_there(tmp_path: Path) -> None:
    hr = write(tmp_path / "hr", {"a": (6, 6)})
    with pytest.raises(DataError, match="does not exist"):
        pair(None, tmp_path / "none", 3)
    with pytest.raises(DataError, match="does not exist"):
        pair(tmp_path / "none", hr, 3)
    (tmp_path / "lr").mkdir()
    with pytest.raises(DataError, match="no files at all"):
        pair(tmp_path / "lr", hr, 3)
    (tmp_path / "lr" / "ax3.png").write_bytes(b"no image")
    with pytest.raises(ImageError, match="not an image"):
        pair(tmp_path / "lr", hr, 3)
    with pytest.raises(ImageError, match="smaller than the rate"):
        pair(None, write(tmp_path / "tiny", {"a": (2, 9)}), 3)[0].read()


def test_the_authors_subset() -> None:
    assert len(SUBSET_48) == len(set(SUBSET_48)) == 48
    assert SUBSET_48[0] == "0801"
    assert SUBSET_48[-1] == "0889"
    assert all(re.fullmatch(r"08\d\d", name) for name in SUBSET_48)


@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared is absent")
@pytest.mark.parametrize("rate", [2, 3, 4])
def test_set5_pairs_are_what_bicubic_reduction_makes(rate: int) -> None:
    root = SHARED / "data/set5"
    given = pair(root / f"LR_bicubic/X{rate}", root / "HR", rate)
    made = pair(None, root / "HR", rate)
    assert [p.name for p in given] == ["baby", "bird", "butterfly", "head", "woman"]
    for a, b in zip(given[1:4], made[1:4], strict=True):
        np.testing.assert_array_equal(a.read_lr(), b.read_lr())
