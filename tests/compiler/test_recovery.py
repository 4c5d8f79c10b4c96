"""compiler.recovery: what must not change, what must be optimal, and what must get better."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calib import qparams
from calib.histogram import Histogram, Range
from calib.images import Normalize, ToTensor, write_image
from calib.methods import KlDivergence, Max, Method, Mse, Percentile
from calib.qparams import QParams
from calib.table import CalibrationTable, calibrate, from_range, of_bytes
from compiler import fusion, qdq, reference
from compiler.calibrate import ranges_by_method
from compiler.dataset import Photo
from compiler.float_values import FloatValues
from compiler.floatnet import FloatNetwork
from compiler.lowparts import low_parts
from compiler.network import Network
from compiler.recovery import auto, equalize, gptq, scales, sensitivity, wide
from compiler.recovery import recipe as recipe_module
from compiler.recovery.adjoint import Adjoint
from compiler.recovery.centre import centred
from compiler.recovery.channels import FIXED, channel_classes, groups
from compiler.recovery.recipe import Recipe, equalization, integer_network
from compiler.recovery.samples import Samples, sample
from compiler.recovery.search import FIRST, Landscape
from compiler.recovery.split import split_residuals
from compiler.recovery.wanted import Wanted, unrounded
from compiler.recovery.weightcost import weight_costs
from tests.graphs import GRAPHS, Graph, bicubic_plusplus, espcn, random_graph
from tests.quantized import noise

EVERY_GRAPH = pytest.mark.parametrize("name", sorted(GRAPHS))


def network(name: str) -> FloatNetwork:
    return fusion.fuse(GRAPHS[name]().model())


def samples(net: FloatNetwork, count: int = 3, size: tuple[int, int] = (24, 20)) -> Samples:
    channels = net.channels[net.input]
    return Samples(tuple(noise(channels, *size, seed=i) for i in range(count)))


def histograms(net: FloatNetwork, data: Samples) -> dict[str, Histogram]:
    values = [FloatValues(net, net.rounding_points).of(t) for t in data.tiles]
    found = {}
    for p in net.rounding_points:
        seen = Range.of(values[0][p])
        for v in values[1:]:
            seen = seen.merge(Range.of(v[p]))
        found[p] = Histogram.empty(seen)
        for v in values:
            found[p] = found[p].add(v[p])
    return found


def table(net: FloatNetwork, data: Samples, symmetric: bool = True) -> CalibrationTable:
    tensors = {p: calibrate(h, Max(), symmetric) for p, h in histograms(net, data).items()}
    return CalibrationTable(tensors)


def output(net: FloatNetwork, x: np.ndarray) -> np.ndarray:
    return FloatValues(net, [net.output]).of(x)[net.output]


def error(net: Network, floats: FloatNetwork, data: Samples) -> float:
    pairs = [(reference.run(net, t)[0], output(floats, t)) for t in data.tiles]
    return float(np.mean([np.mean((a - b) ** 2) for a, b in pairs]))


@EVERY_GRAPH
def test_equalization_keeps_the_function(name):
    """Random scales of every class, four octaves wide, on every kind of operator."""
    net = network(name)
    classes = channel_classes(net)
    rng = np.random.default_rng(0)
    scale = np.exp2(rng.uniform(-2, 2, max(int(c.max()) for c in classes.values()) + 1))
    scale[FIXED] = 1
    factors = {n: scale[c].astype(np.float32) for n, c in classes.items()}
    x = noise(net.channels[net.input], 16, 16, seed=3)
    before, after = output(net, x), output(equalize.equalize(net, factors), x)
    assert np.abs(after - before).max() <= 1e-5 * np.abs(before).max()
    if any((c != FIXED).any() for c in classes.values()):
        scaled = equalize.equalize(net, factors)
        assert any(
            (a.weight != b.weight).any() for a, b in zip(net.convs, scaled.convs, strict=True)
        )


def test_the_ends_are_fixed_and_a_residual_shares_its_classes():
    net = fusion.fuse(bicubic_plusplus().model())
    classes = channel_classes(net)
    assert (classes[net.input] == FIXED).all()
    assert (classes[net.output] == FIXED).all()
    assert (classes[net.convs[-1].output] == FIXED).all()  # through the pixel shuffle
    first, middle, last = (c.output for c in net.convs[:3])
    assert (classes[first] == classes[last]).all()
    assert not set(classes[first]) & set(classes[middle])
    points = [first, middle, last]
    assert groups(points, classes) == [[middle], [first, last]]


@pytest.mark.parametrize(("outputs", "rtol"), [(1, 1e-6), (4, 0.05)])  # of 17,280 random signs
def test_sensitivity_of_the_last_layer_is_the_energy_of_its_weights(outputs, rtol):
    """Sum of squares over outputs / outputs; exact for one, whose signs the square takes away."""
    g = Graph(2)
    g.conv(3)
    g.leaky()
    g.conv(outputs, 1)
    net = fusion.fuse(g.model())
    (point,) = (p for p in net.rounding_points if p != net.ops[0].output)
    found = sensitivity.measure(net, samples(net), seed=0)[point]
    expected = (net.convs[1].weight[:, :, 0, 0] ** 2).sum(axis=0) / outputs
    np.testing.assert_allclose(found, expected, rtol=rtol)


@EVERY_GRAPH
@pytest.mark.parametrize("seed", range(4))
def test_the_adjoint_is_the_transposed_derivative(name, seed):
    """<J^T v, u> = <v, J u> for v = J u by central differences, from the image to the output."""
    net = network(name)
    image, rng = net.ops[0].output, np.random.default_rng(seed)
    floats = FloatValues(net, [net.input, *(op.output for op in net.ops)])
    x = noise(net.channels[net.input], 16, 16, seed=seed)
    u = rng.choice(np.array([-1, 1], np.float32), x.shape)
    before, at, after = (floats.of(x + e * np.float32(1e-4) * u) for e in (-1, 0, 1))
    moved = (after[net.output].astype(float) - before[net.output]) / 2e-4
    turned = (after[image].astype(float) - before[image]) / 2e-4
    found = Adjoint(net, at).of(moved)
    assert (found[image] * turned).sum() == pytest.approx((moved**2).sum(), rel=0.02)


def test_equalization_of_one_tensor_gives_each_channel_its_own_best_step():
    g = Graph(1)
    g.conv(3, weight=np.array([0.01, 1, 30]).reshape(3, 1, 1, 1), kernel=1)
    g.relu()
    g.conv(2, 1)
    net = fusion.fuse(g.model())
    data = samples(net)
    shown = sensitivity.measure(net, data, seed=0)
    found = scales.choose(net, data, shown, symmetric=True, weight_error_share=0)
    t = found.factors[net.convs[0].output]
    np.testing.assert_allclose(t / t[1], [100, 1, 1 / 30], rtol=0.2)
    assert found.error <= found.errors[1.0] < found.errors[0.0]


def test_scales_of_a_tensor_of_16_bits_suit_the_weights_that_read_it():
    """Its own rounding does not show: the weights of its channels take the same range."""
    g = Graph(3)
    g.conv(4)
    g.leaky()
    sizes = np.array([0.5, 1, 16, 1]).reshape(1, 4, 1, 1)
    g.conv(5, 1, weight=np.random.default_rng(0).uniform(0.5, 1, (5, 4, 1, 1)) * sizes, name="last")
    net = wide.with_wide_layers(fusion.fuse(g.model()), ["last"])
    found = equalization(net, samples(net), Recipe(symmetric=True, equalize=True, rounding="gptq"))
    scaled = equalize.equalize(net, found.factors)
    peaks = np.abs(scaled.convs[-1].weight).max(axis=(0, 2, 3))
    assert peaks.max() < 2 * peaks.min()
    assert found.error < 0.5 * found.errors[0.0]


def test_sensitivity_of_a_low_part_is_what_its_tensor_would_show_alone():
    g = Graph(2)
    g.conv(3)
    g.leaky()
    g.conv(4, 1, name="last")
    plain = fusion.fuse(g.model())
    net = wide.with_wide_layers(plain, ["last"])
    alone = sensitivity.measure(plain, samples(plain), seed=0)
    found = sensitivity.measure(net, samples(net), seed=0)
    ((low, high),) = low_parts(net).items()
    np.testing.assert_allclose(found[low], alone[high])
    assert not found[high].any()


@given(st.integers(0, 2**32 - 1))
def test_the_cost_of_weights_is_the_error_of_rounding_them_to_nearest(seed):
    """The formula, on a convolution whose weights are scaled by hand, two groups of channels."""
    rng = np.random.default_rng(seed)
    g = Graph(4)
    g.conv(6)
    g.conv(4, 3, groups=2)
    net = fusion.fuse(g.model())
    conv = net.convs[1]
    power, shown = rng.uniform(0, 2, 6), rng.uniform(0, 2, 4)
    costs = weight_costs(net, {conv.input: power}, {conv.output: shown}, share=0.5)
    log_t = rng.integers(-3, 4, 6).astype(float)
    t = np.exp2(log_t)
    expected = 0.0
    for o in range(4):
        read = slice(0, 3) if o < 2 else slice(3, 6)
        weight = conv.weight[o].astype(np.float64) / t[read, None, None]
        step = np.abs(weight).max() / 127
        expected += 0.5 * shown[o] * step**2 / 12 * 9 * (power[read] * t[read] ** 2).sum()
    assert sum(c.error(log_t) for c in costs) == pytest.approx(expected)
    moved, to = rng.random(6) < 0.5, rng.uniform(-2, 2, 5)
    for k, e in enumerate(to):
        there = np.where(moved, e, log_t)
        for c in costs:
            assert c.errors(log_t, moved, to)[k] == pytest.approx(c.error(there))


@EVERY_GRAPH
def test_equalization_never_predicts_more_than_its_start(name):
    net = network(name)
    recipe = Recipe(symmetric=False, equalize=True, rounding="gptq")
    found = equalization(net, samples(net), recipe)
    assert found.error <= min(found.errors.values()) * (1 + 1e-9)


def test_an_equalization_survives_its_bytes():
    net = fusion.fuse(bicubic_plusplus().model())
    found = equalization(net, samples(net), Recipe(symmetric=True, equalize=True))
    loaded = equalize.load(equalize.dump(found))
    assert equalize.dump(loaded) == equalize.dump(found)
    assert loaded.describe() == found.describe()
    for name in net.channels:
        np.testing.assert_array_equal(loaded.factors[name], found.factors[name])


def test_many_scales_at_once_have_the_errors_of_each():
    x = np.random.default_rng(0).normal(size=(1, 500)).astype(np.float32)
    hist = Histogram.empty(Range.of(x)).add(x)
    scales = np.array([0.003, 0.01, 0.03])
    single = [Mse.error(hist, QParams(s, -40)) for s in scales]
    np.testing.assert_allclose(Mse.errors(hist, scales, -40), single, rtol=1e-6)


def test_obq_is_never_worse_than_rounding_to_nearest_and_exact_without_correlation():
    rng = np.random.default_rng(0)
    wanted = rng.uniform(-6, 6, (20, 5))
    diagonal = np.diag(rng.uniform(1, 2, 5))
    np.testing.assert_array_equal(gptq.obq(wanted, diagonal), np.rint(wanted))
    factor = rng.normal(size=(5, 5))
    h = factor @ factor.T + 0.1 * np.eye(5)

    def cost(q: np.ndarray) -> np.ndarray:
        return np.einsum("ri,ij,rj->r", wanted - q, h, wanted - q)

    assert cost(gptq.obq(wanted, h)).sum() < cost(np.rint(wanted)).sum()


def test_obq_comes_close_to_exhaustive_search():
    rng = np.random.default_rng(1)
    wanted = rng.uniform(-3, 3, (10, 3))
    factor = rng.normal(size=(3, 3))
    h = factor @ factor.T + 0.05 * np.eye(3)
    offsets = np.array(list(itertools.product(range(-3, 4), repeat=3)))
    for row in wanted:
        d = row - (np.rint(row) + offsets)
        best = np.einsum("ki,ij,kj->k", d, h, d).min()
        found = row - gptq.obq(row[None], h)[0]
        assert found @ h @ found <= 3 * best + 1e-9


@EVERY_GRAPH
@pytest.mark.parametrize("symmetric", [True, False])
def test_gptq_serves_the_samples_better_than_nearest(name, symmetric):
    net = network(name)
    data = samples(net, size=(32, 32))
    if any(len(h.counts) == 0 for h in histograms(net, data).values()):
        pytest.skip("no rounding points")
    ranges = table(net, data, symmetric)
    try:
        plain = gptq.nearest(net, per_channel=True, power2=False).network(ranges)
    except (
        Exception
    ) as shared:  # scales of a Concat differ: calibrate.choose would have joined them
        pytest.skip(str(shared))
    better = gptq.gptq(net, ranges, data, per_channel=True, power2=False).network(ranges)
    assert error(better, net, data) <= 1.02 * error(plain, net, data)


def test_gptq_gives_the_same_bytes_every_time():
    net = fusion.fuse(bicubic_plusplus().model())
    data = samples(net)
    ranges = table(net, data)
    first, second = (gptq.gptq(net, ranges, data, per_channel=True, power2=False) for _ in range(2))
    for conv in net.convs:
        a, b = first.weights[conv.name], second.weights[conv.name]
        assert a.weight.tobytes() == b.weight.tobytes()
        assert a.scale.tobytes() == b.scale.tobytes()


@pytest.mark.parametrize(("per_channel", "power2"), [(False, False), (True, True), (False, True)])
def test_gptq_keeps_to_the_kind_of_scale(per_channel, power2):
    net = fusion.fuse(bicubic_plusplus().model())
    data = samples(net)
    found = gptq.gptq(net, table(net, data), data, per_channel=per_channel, power2=power2)
    for rounded in found.weights.values():
        if not per_channel:
            assert len(set(rounded.scale)) == 1
        if power2:
            assert (np.frexp(rounded.scale)[0] == 0.5).all()


def test_bias_correction_removes_the_mean_error():
    """Nearest rounding shifts the mean; GPTQ's bias takes it back, that of flat areas above all."""
    g = Graph(3)
    g.conv(4, bias=True)
    net = fusion.fuse(g.model())
    data = samples(net, size=(40, 40))
    kind = {"per_channel": True, "power2": False}

    def shift(rounded):
        integer = rounded.network(table(net, data))
        off = [reference.run(integer, t)[0] - output(net, t) for t in data.tiles]
        return np.abs(np.mean(off, axis=(0, 2, 3))).max()

    corrected = shift(gptq.gptq(net, table(net, data), data, **kind))
    assert corrected < 0.1 * shift(gptq.nearest(net, **kind))
    assert corrected < 2e-4


def test_search_finds_the_threshold_that_was_spoiled():
    net = fusion.fuse(bicubic_plusplus().model())
    data = samples(net)
    hists = histograms(net, data)
    start = table(net, data)
    rounded = gptq.nearest(net, per_channel=True, power2=False)
    name = net.convs[0].output
    narrow = start[name].high / 4
    spoiled = CalibrationTable(
        {**start.tensors, name: from_range(hists[name], -narrow, narrow, "max", True)}
    )
    land = Landscape.of(net, hists, data, symmetric=True)
    found, least = land.descend(lambda t: qdq.write(rounded.network(t)), spoiled, FIRST)
    assert least < land.error(lambda t: qdq.write(rounded.network(t)), spoiled)
    assert found[name].high > 2 * narrow
    assert found[net.ops[0].output] == start[net.ops[0].output]
    assert error(rounded.network(found), net, data) < 0.5 * error(
        rounded.network(spoiled), net, data
    )


def test_the_whole_recipe_beats_its_start():
    net = fusion.fuse(bicubic_plusplus().model())
    data = samples(net, size=(32, 32))
    plain = integer_network(
        net, table(net, data), histograms(net, data), data, Recipe(symmetric=True)
    )
    recipe = Recipe(symmetric=True, equalize=True, rounding="gptq", search="output")
    equal = equalize.equalize(net, equalization(net, data, recipe).factors)
    best = integer_network(equal, table(equal, data), histograms(equal, data), data, recipe)
    assert error(best.network, net, data) < 0.7 * error(plain.network, net, data)


@pytest.mark.parametrize("name", ["bicubic_plusplus", "espcn"])
def test_no_result_depends_on_the_threads(name: str) -> None:
    net, recipe = network(name), Recipe(symmetric=False, rounding="gptq", search="output")
    data = samples(net, count=5)
    start, seen = table(net, data, symmetric=False), histograms(net, data)
    one, many = (
        integer_network(net, start, seen, Samples(data.tiles, threads), recipe)
        for threads in (1, 3)
    )
    assert qdq.write(one.network) == qdq.write(many.network)
    assert one.table == many.table


@given(st.integers(1, 4), st.integers(0, 9), st.one_of(st.none(), st.integers(0, 5)))
def test_tiles_come_in_order(threads: int, count: int, at_once: int | None) -> None:
    data = Samples(tuple(np.full((1, 1, 1, 1), i, np.float32) for i in range(count)), threads)
    found = list(data.each(lambda i, tile: (i, tile.item()), at_once=at_once))
    assert found == [(i, i) for i in range(count)]


def test_the_error_of_a_tile_reaches_the_caller() -> None:
    data = Samples(tuple(np.zeros((1, 1, 1, 1), np.float32) for _ in range(5)), threads=2)
    with pytest.raises(ZeroDivisionError):
        list(data.each(lambda i, _: 1 // (3 - i)))


def test_samples_depend_on_the_content_of_the_images_alone(tmp_path: Path):
    photos = []
    for i, size in enumerate([(40, 30), (300, 310), (50, 50)]):
        image = (noise(3, *size, seed=i)[0].transpose(1, 2, 0) * 250).astype(np.uint8)
        path = tmp_path / f"{i}.png"
        write_image(path, image)
        photos.append(Photo(path.name, path))
    ops = (Normalize(), ToTensor())
    first = sample(photos, ops, seed=0, pixels=3 * 2**15)
    again = sample([*reversed(photos), photos[0]], ops, seed=0, pixels=4 * 2**15)
    assert [t.tobytes() for t in first.tiles] == [t.tobytes() for t in again.tiles]
    other = sample(photos, ops, seed=1, pixels=3 * 2**15)
    assert [t.tobytes() for t in first.tiles] != [t.tobytes() for t in other.tiles]
    assert max(t.max() for t in first.tiles) <= 1
    assert max(t.shape[2] for t in first.tiles) == 128


def test_split_residuals_keep_the_function_and_free_the_scales():
    net = fusion.fuse(bicubic_plusplus(channels=8).model())
    split = split_residuals(net, max_share=0.5)
    assert len(split.convs) == len(net.convs) + 1
    x = noise(3, 16, 16, seed=4)
    np.testing.assert_array_equal(output(split, x), output(net, x))
    first, copy = split.convs[0], split.convs[1]
    classes = channel_classes(split)
    assert not set(classes[first.output]) & set(classes[copy.output])
    assert len(split_residuals(net, max_share=0.0).convs) == len(net.convs)
    data = samples(split)
    integer = gptq.nearest(split, per_channel=True, power2=False).network(table(split, data))
    assert reference.run(integer, x).shape == (1, *output(net, x).shape)


def test_auto_ranks_thresholds_by_the_output() -> None:
    """Exactly the error of quantizing the activations alone; clipping half of them is the worst."""
    net = network("bicubic_plusplus")
    data = samples(net)
    wide = table(net, data)
    seen = histograms(net, data)
    half = CalibrationTable(
        {p: from_range(seen[p], -wide[p].high / 2, wide[p].high / 2, "half", True) for p in wide}
    )
    free, clipped = auto.output_errors(net, [wide, half], data)
    assert 0 < free < clipped
    rounded = gptq.nearest(net, per_channel=True, power2=False)
    both = error(rounded.network(wide), net, data)
    assert free < both < 20 * free


def beside_the_image() -> Graph:
    """A Concat of the graph input and what a convolution makes of it."""
    g = Graph()
    g.conv(4)
    g.concat("input", g.relu())
    g.conv(12)
    g.node("DepthToSpace", channels=3, blocksize=2)
    return g


@pytest.mark.parametrize("method", [Percentile(0.9), Percentile(0.999), KlDivergence(), Mse()])
@pytest.mark.parametrize("build", [bicubic_plusplus, espcn, beside_the_image])
def test_no_method_ends_worse_than_max(
    build: Callable[[], Graph], method: Method, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipe_module, "_DEEPER", np.inf)  # both valleys, however deep
    net = fusion.fuse(build().model())
    data = samples(net)
    seen, recipe = histograms(net, data), Recipe(symmetric=True, search="output")
    best, found = (
        integer_network(net, ranges_by_method(net, seen, m, symmetric=True), seen, data, recipe)
        for m in (Max(), method)
    )
    assert error(found.network, net, data) <= 1.000001 * error(best.network, net, data)


def test_a_valley_that_only_the_method_leads_to_is_taken() -> None:
    net = fusion.fuse(random_graph(12).model())
    data = samples(net)
    seen, recipe = histograms(net, data), Recipe(symmetric=True, search="output")
    best, found = (
        integer_network(net, ranges_by_method(net, seen, m, symmetric=True), seen, data, recipe)
        for m in (Max(), Mse())
    )
    assert error(found.network, net, data) < 0.95 * error(best.network, net, data)
    assert {found.table[p].method for p in net.rounding_points[1:]} == {Mse.name}


def test_of_ranges_alike_in_error_the_wider_is_taken() -> None:
    net = network("bicubic_plusplus")
    data = samples(net)
    seen, wide = histograms(net, data), table(net, data)
    land = Landscape.of(net, seen, data, symmetric=True)
    name, low, high = land.units[0][0], wide[land.units[0][0]].low, wide[land.units[0][0]].high
    half = CalibrationTable(
        {**wide.tensors, name: from_range(seen[name], low / 2, high / 2, "half", True)}
    )
    t = wide[name]
    kept = (min(high / 2, t.max) - max(low / 2, t.min)) / (t.max - t.min)
    same = unrounded(net, wide)
    ratio = land.error(lambda _: same, half) / land.error(lambda _: same, wide)
    assert ratio == pytest.approx(kept**-0.1)


def test_a_descent_ends_at_twice_what_was_seen() -> None:
    net = network("bicubic_plusplus")
    data = samples(net)
    seen, wide = histograms(net, data), table(net, data)
    land = replace(Landscape.of(net, seen, data, symmetric=True), wanted=_Fewer())
    found, _ = land.descend(lambda t: unrounded(net, t), wide, FIRST)
    for names in land.units:
        assert 2 / 2 ** (1 / 8) < found[names[0]].high / wide[names[0]].high <= 2


class _Fewer(Wanted):
    """An error that falls with every call: each step seems to be one downhill."""

    def __init__(self) -> None:
        super().__init__(Samples(()), ())
        self.calls: list[onnx.ModelProto] = []

    def error(self, model: onnx.ModelProto) -> float:
        self.calls.append(model)
        return 1 / len(self.calls)


def test_saturated_positions_weigh_nothing_and_others_one_on_average() -> None:
    rng = np.random.default_rng(0)
    columns = np.concatenate([rng.normal(size=(9, 40)), np.ones((1, 40))])
    columns[:9, 7] = 2.0  # flat
    kept = rng.random(40) < 0.8
    kept[7] = True
    weight = gptq._importance(columns, (3, 3), kept)
    assert (weight[~kept] == 0).all()
    assert weight[kept].mean() == pytest.approx(1)
    assert weight.argmax() == 7
    np.testing.assert_array_equal(gptq._importance(np.ones((10, 4)), (3, 3), np.ones(4, bool)), 1)


def test_the_error_is_a_mean_over_values_not_over_samples() -> None:
    """A large sample weighs as much as its values, and the float network itself has no error."""
    net = network("bicubic_plusplus")
    small, large = samples(net, 1).tiles[0], samples(net, 1, size=(48, 40)).tiles[0]
    coarse = unrounded(net, table(net, samples(net)))
    sizes = (small.size, large.size)
    single = [Wanted.of(net, Samples((tile,))).error(coarse) for tile in (small, large)]
    both = Wanted.of(net, Samples((small, large)))
    assert both.error(coarse) == pytest.approx(np.average(single, weights=sizes), rel=1e-12)
    assert both.error(qdq.write_float(net)) < 1e-12


BYTES = np.repeat(np.arange(256, dtype=np.float32)[None] / np.float32(255), 3, axis=0)


@pytest.mark.parametrize("name", ["bicubic_plusplus", "two_chains", "padded"])
def test_centred_images_lose_nothing_and_keep_the_function(name: str) -> None:
    """Random bytes, borders and all; the first rounding gives them back one by one."""
    net = network(name)
    moved = centred(net, BYTES, symmetric=True)
    first = moved.quantize_input
    values = first.normalized(BYTES)[:, None]
    seen = Histogram.empty(Range.of(values, "x")).add(values, "x")
    table = of_bytes(seen, values[:, 0], True)
    assert table.method == "lossless"
    np.testing.assert_array_equal(
        qparams.quantize(first.normalized(BYTES), table.qparams)[0], np.arange(-128, 128)
    )
    rng = np.random.default_rng(0)
    x = (rng.integers(0, 256, (1, 3, 16, 20)) / 255).astype(np.float32)
    a, b = (FloatValues(n, [n.output]).of(x)[n.output] for n in (net, moved))
    np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-5 * np.abs(a).max())
    assert centred(moved, BYTES, symmetric=True) is moved


def test_an_image_is_centred_only_where_that_helps_and_can_be() -> None:
    net = network("bicubic_plusplus")
    assert centred(net, BYTES, symmetric=False) is net  # a zero point does the same
    assert centred(net, None, symmetric=True) is net
    assert centred(net, BYTES**2, symmetric=True) is net  # no equal steps
    assert centred(net, BYTES * [[1], [2], [1]], symmetric=True) is net
    g = Graph(3)
    g.conv(3)
    g.add("input")
    g.conv(2)
    added = fusion.fuse(g.model())
    assert centred(added, BYTES, symmetric=True) is added
