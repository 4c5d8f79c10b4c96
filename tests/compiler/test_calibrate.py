"""compiler.calibrate: what is observed, what is chosen, and what is refused."""

from __future__ import annotations

import gc
import itertools
import weakref
from pathlib import Path

import numpy as np
import pytest

from calib.errors import CalibrationError, ImageError
from calib.images import ChannelSplit, Normalize, ToTensor, apply_ops, digest, write_image
from calib.methods import KlDivergence, Max, Mse, Percentile
from compiler import calibrate, float_values, fusion
from compiler.calibrate import Observed, choose, concat_groups, observe
from compiler.dataset import Photo
from compiler.errors import ShapeError, SizeError
from compiler.floatnet import FloatNetwork
from compiler.progress import silent
from compiler.runner import Session
from tests.graphs import GRAPHS, Graph, bicubic_plusplus, branches, residual_groups
from tests.quantized import noise

OPS = (Normalize(), ToTensor())


def photos(folder: Path, *sizes: tuple[int, int]) -> list[Photo]:
    """Smooth pictures of different brightness."""
    made = []
    for i, size in enumerate(sizes or [(16, 20), (12, 12), (9, 15)]):
        image = noise(3, *size, seed=i)[0].transpose(1, 2, 0) * (100 + 70 * i)
        path = folder / f"{i}.png"
        write_image(path, image.astype(np.uint8))
        made.append(Photo(path.name, path))
    return made


def watch(net: FloatNetwork, pictures: list[Photo]) -> Observed:
    return observe(net, pictures, OPS, silent(), threads=1)


def net_of(g: Graph) -> FloatNetwork:
    return fusion.fuse(g.model())


# --- observing


@pytest.mark.parametrize("name", ["bicubic_plusplus", "branches", "residual_groups"])
def test_ranges_and_histograms_are_those_of_the_activations(name: str, tmp_path: Path) -> None:
    """Against the original graph in ONNX Runtime and NumPy's minimum, maximum and histogram."""
    model = GRAPHS[name]().model()
    net = fusion.fuse(model)
    pictures = photos(tmp_path, (16, 20), (12, 12), (8, 16))
    seen = watch(net, pictures)
    assert set(seen.ranges) == set(seen.histograms) == set(net.rounding_points)

    inner = [n for n in net.rounding_points if n != "input_q"]
    session = Session(model, inner, optimize=False)
    values: dict[str, list[np.ndarray]] = {n: [] for n in net.rounding_points}
    for picture in pictures:
        x = apply_ops(OPS, picture.read())[None]
        values["input_q"].append(x)
        for n, value in zip(inner, session.run_all({"input": x})[1:], strict=True):
            values[n].append(value)
    for n, arrays in values.items():
        channels = [
            np.concatenate([a[0, c].ravel() for a in arrays]) for c in range(net.channels[n])
        ]
        np.testing.assert_allclose(seen.ranges[n].min, [c.min() for c in channels], atol=1e-5)
        np.testing.assert_allclose(seen.ranges[n].max, [c.max() for c in channels], atol=1e-5)
        hist = seen.histograms[n]
        flat = np.concatenate(channels)
        assert hist.total == flat.size
        counted, _ = np.histogram(np.clip(flat, -hist.limit, hist.limit), hist.edges)
        moved = np.abs(np.cumsum(counted) - np.cumsum(hist.counts)).max()
        assert moved <= 3, "but for values on an edge, which the sessions round differently"


def test_the_halves_are_the_even_and_the_odd_images(tmp_path: Path) -> None:
    net, pictures = net_of(bicubic_plusplus()), photos(tmp_path)
    seen = watch(net, pictures)
    pixels = [16 * 20, 12 * 12, 9 * 15]
    even, odd = (half["input_q"].total for half in seen.halves)
    assert (even, odd) == (3 * (pixels[0] + pixels[2]), 3 * pixels[1])
    assert seen.digests == tuple(digest(p.read()) for p in pictures)


def test_the_order_of_the_images_changes_nothing_but_the_digests(tmp_path: Path) -> None:
    net, pictures = net_of(branches()), photos(tmp_path, (16, 20), (12, 12), (8, 16))
    first = watch(net, pictures)
    for order in itertools.permutations(pictures):
        other = watch(net, list(order))
        assert sorted(other.digests) == sorted(first.digests)
        for n, expected in first.ranges.items():
            np.testing.assert_array_equal(other.ranges[n].min, expected.min)
            np.testing.assert_array_equal(other.ranges[n].max, expected.max)
        for n, expected in first.histograms.items():
            hist = other.histograms[n]
            assert (hist.low, hist.high) == (expected.low, expected.high)
            np.testing.assert_array_equal(hist.counts, expected.counts)
        tables = [choose(net, o, Percentile(0.999), symmetric=False)[0] for o in (first, other)]
        assert tables[0].to_json() == tables[1].to_json()


def test_one_session_and_one_image_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Session] = []
    alive: list[weakref.ref[np.ndarray]] = []

    class Watched(Session):
        def __init__(self, *args: object, **kwargs: object) -> None:
            super().__init__(*args, **kwargs)
            made.append(self)

        def run_all(self, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
            gc.collect()
            assert sum(r() is not None for r in alive) <= 1, "the loop's last value, at most"
            results = super().run_all(feeds)
            alive[:] = [weakref.ref(r) for r in results]
            return results

    monkeypatch.setattr(float_values, "Session", Watched)
    watch(net_of(residual_groups()), photos(tmp_path, *[(16, 20)] * 4))
    assert len(made) == 1


def test_a_network_that_rounds_its_input_only(tmp_path: Path) -> None:
    g = Graph(3)
    g.conv(12)
    g.depth_to_space(2)
    seen = watch(net_of(g), photos(tmp_path))
    assert set(seen.ranges) == {"input_q"}
    table, _ = choose(net_of(g), seen, Max(), symmetric=True)
    assert list(table) == ["input_q"]


def test_dump_and_load(tmp_path: Path) -> None:
    net = net_of(branches())
    seen = watch(net, photos(tmp_path, (16, 20), (12, 12)))
    data = calibrate.dump(seen)
    again = calibrate.load(data)
    assert calibrate.dump(again) == data
    assert calibrate.dump(watch(net, photos(tmp_path, (16, 20), (12, 12)))) == data
    assert again.digests == seen.digests
    for n in net.rounding_points:
        np.testing.assert_array_equal(again.ranges[n].min, seen.ranges[n].min)
        np.testing.assert_array_equal(again.ranges[n].max, seen.ranges[n].max)
        for ours, theirs in zip(again.halves, seen.halves, strict=True):
            np.testing.assert_array_equal(ours[n].counts, theirs[n].counts)
            assert (ours[n].low, ours[n].high) == (theirs[n].low, theirs[n].high)


@pytest.mark.parametrize("cut", [0, 1, 30, 500, -1, -200])
def test_damaged_observations_are_refused(cut: int, tmp_path: Path) -> None:
    data = calibrate.dump(watch(net_of(bicubic_plusplus()), photos(tmp_path)))
    with pytest.raises(CalibrationError, match="damaged") as caught:
        calibrate.load(data[:cut])
    assert "--fresh" in caught.value.fix


# --- observing what cannot be


def test_no_images() -> None:
    with pytest.raises(CalibrationError, match="no image"):
        watch(net_of(bicubic_plusplus()), [])


@pytest.mark.parametrize(("layer", "tensor"), [(0, "t1"), (1, "t3"), (2, "t6")])
def test_activations_that_are_not_finite_name_the_tensor(
    layer: int, tensor: str, tmp_path: Path
) -> None:
    g = bicubic_plusplus()
    weight = g.constants[layer]
    huge = np.full(tuple(weight.dims), 3e38, np.float32)
    weight.raw_data = huge.tobytes()
    with pytest.raises(CalibrationError, match="infinite or not a number") as caught:
        watch(net_of(g), photos(tmp_path))
    assert caught.value.where == f"tensor {tensor}"


def test_another_number_of_channels(tmp_path: Path) -> None:
    net = net_of(bicubic_plusplus())
    with pytest.raises(ShapeError, match="yields 1 channels, the network takes 3") as caught:
        observe(net, photos(tmp_path), (ChannelSplit(index=0), *OPS), silent(), threads=1)
    assert caught.value.where == "image 0.png"
    assert "process_ops" in caught.value.fix


def test_an_image_too_large_for_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The widest tensor counts: here the one that PixelShuffle reads."""
    net, pictures = net_of(bicubic_plusplus()), photos(tmp_path, (16, 20))
    monkeypatch.setattr(calibrate, "MAX_ELEMENTS", 16 * 3 * 8 * 10)
    assert watch(net, pictures).ranges
    monkeypatch.setattr(calibrate, "MAX_ELEMENTS", 16 * 3 * 8 * 10 - 1)
    with pytest.raises(SizeError, match="16x20 makes tensors of more than 3839 values") as caught:
        watch(net, pictures)
    assert caught.value.where == "image 0.png"
    assert "Resize" in caught.value.fix


def test_an_image_of_a_size_that_does_not_fit(tmp_path: Path) -> None:
    with pytest.raises(SizeError, match="9x15 does not fit") as caught:
        watch(net_of(branches()), photos(tmp_path, (16, 20), (9, 15)))
    assert caught.value.where == "image 1.png"
    assert "process_ops" in caught.value.fix


def test_a_missing_and_a_truncated_image(tmp_path: Path) -> None:
    pictures = photos(tmp_path)
    net = net_of(bicubic_plusplus())
    with pytest.raises(ImageError):
        watch(net, [*pictures, Photo("absent", tmp_path / "absent.png")])
    data = (tmp_path / "1.png").read_bytes()
    (tmp_path / "1.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(ImageError):
        watch(net, pictures)


# --- choosing


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("method", [Max(), Percentile(0.99), KlDivergence(), Mse()])
def test_every_rounding_point_gets_a_scale(method: object, symmetric: bool, tmp_path: Path) -> None:
    net = net_of(residual_groups())
    seen = watch(net, photos(tmp_path))
    table, _ = choose(net, seen, method, symmetric=symmetric)
    assert list(table) == sorted(net.rounding_points)
    for n in table:
        t = table[n]
        assert t.method == method.name
        assert (t.min, t.max) == (seen.ranges[n].low, seen.ranges[n].high)
        assert t.scale > 0
        assert symmetric <= (t.zero_point == 0)
        if method == Max():
            assert t.clipped_fraction == 0
            assert t.threshold == max(-t.min, t.max) or not symmetric


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("method", [Max(), Percentile(0.99), Mse()])
def test_the_inputs_of_a_concat_share_the_widest_range(
    method: object, symmetric: bool, tmp_path: Path
) -> None:
    net = net_of(branches())
    seen = watch(net, photos(tmp_path, (16, 20), (12, 12)))
    table, _ = choose(net, seen, method, symmetric=symmetric)
    shared = [table[n] for n in ("t3", "t5")]
    assert len({(t.scale, t.zero_point, t.low, t.high) for t in shared}) == 1
    own = [method.range(seen.histograms[n], symmetric) for n in ("t3", "t5")]
    assert shared[0].low == np.float32(min(low for low, _ in own))
    assert shared[0].high == np.float32(max(high for _, high in own))
    assert shared[0].min != shared[1].min, "what was seen stays each tensor's own"


def joined(*pairs: tuple[str, ...], read: bool = True) -> FloatNetwork:
    """Convolutions a, b, c, d of the input; each pair is a Concat that a convolution reads."""
    g = Graph(3)
    names = {}
    for letter in "abcd":
        names[letter] = g.conv(2, source="input")
    for i, pair in enumerate(pairs):
        names[str(i)] = g.concat(*(names[p] for p in pair))
    if read:
        g.conv(3)
    return net_of(g)


def groups(net: FloatNetwork) -> set[str]:
    letters = {"input_q": "x"} | {f"t{i}": "abcd"[i] for i in range(4)}
    return {"".join(sorted(letters[n] for n in group)) for group in concat_groups(net)}


def test_concat_groups() -> None:
    assert groups(joined()) == set()
    assert groups(joined("ab")) == {"ab"}
    assert groups(joined("ab", "cd")) == {"ab", "cd"}
    assert groups(joined("ab", "bc")) == {"abc"}
    assert groups(joined("ab", "0c")) == {"abc"}, "a Concat of a Concat"
    assert groups(joined("ab", "cd", "01")) == {"abcd"}
    assert groups(joined("ab", "cd", "bc")) == {"abcd"}, "a later one joins two groups"
    assert groups(joined("ab", read=False)) == set(), "towards the output nothing is rounded"


def test_a_concat_group_through_moves_and_with_the_input() -> None:
    g = Graph(3)
    g.conv(3)
    moved = g.max_pool((1, 1), (1, 1))
    g.concat("input", moved)
    g.conv(3)
    assert groups(net_of(g)) == {"ax"}


def test_doubts(tmp_path: Path) -> None:
    net = net_of(bicubic_plusplus())
    _, doubts = choose(net, watch(net, photos(tmp_path, (16, 20))), Max(), symmetric=True)
    assert doubts == (
        "one image cannot show whether the thresholds have settled; calibrate on more",
    )
    same = photos(tmp_path, (16, 20))
    _, doubts = choose(net, watch(net, same * 2), Max(), symmetric=True)
    assert doubts == ()
    _, doubts = choose(net, watch(net, same * 2), Percentile(0.9), symmetric=True)
    assert all("clips" in doubt for doubt in doubts)
    assert len(doubts) == len(net.rounding_points)
    _, doubts = choose(net, watch(net, photos(tmp_path)), Percentile(0.9), symmetric=True)
    assert any("still moves" in doubt for doubt in doubts)
