"""compiler.recovery.wide: layers that read 16 bits, from the float network to the library."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from compiler import fusion, pipeline, qdq, reference, spec
from compiler.errors import SpecError, UnsupportedOperatorError
from compiler.floatnet import FloatNetwork
from compiler.host import FEATURES, Host, cpu_features
from compiler.library import build_library, load_library
from compiler.lowparts import CORRECTION, completed, corrections, low_input, low_parts
from compiler.network import Residual
from compiler.progress import silent
from compiler.recovery.channels import channel_classes
from compiler.recovery.split import split_residuals, with_low_parts
from compiler.recovery.wide import with_wide_layers
from tests.compiler.conftest import tiny_spec
from tests.compiler.test_lowparts import integer
from tests.compiler.test_recovery import error, histograms, output, samples, table
from tests.graphs import Graph, bicubic_plusplus
from tests.quantized import noise

ISAS = [isa for isa, features in FEATURES.items() if features <= cpu_features()]


def plain() -> FloatNetwork:
    return fusion.fuse(bicubic_plusplus(channels=8).model())


def wide(*layers: int) -> FloatNetwork:
    net = plain()
    return with_wide_layers(net, [net.convs[i].name for i in layers])


def test_the_function_stays_and_the_correction_is_zero() -> None:
    net = wide(-1)
    *_, before, low, correction, last = net.convs
    assert low_parts(net) == {low.output: before.output}
    assert corrections(net) == {correction.output: low.output}
    assert last.steps == (Residual(correction.output),)
    assert low_input(net, last) == low.output
    assert not any(low_input(net, conv) for conv in net.convs[:-1])
    x = noise(3, 16, 16, seed=4)
    np.testing.assert_array_equal(output(net, x), output(plain(), x))
    classes = channel_classes(net)
    assert (classes[low.output] == classes[before.output]).all()


def test_neighbours_may_both_be_wide_and_share_low_parts_with_residuals() -> None:
    """The low part of a wide layer takes the same correction as the layer does."""
    later = [conv.name for conv in plain().convs[1:]]
    net = with_wide_layers(with_low_parts(plain(), max_share=0.5), later)
    assert len(low_parts(net)) == len(corrections(net)) == 3
    x = noise(3, 16, 16, seed=4)
    np.testing.assert_allclose(output(net, x), output(plain(), x), atol=1e-6)


def test_layers_behind_data_movement() -> None:
    g = Graph(3)
    g.conv(16)
    g.depth_to_space(2)
    g.resize_nearest()
    g.conv(3, name="last")
    before = fusion.fuse(g.model())
    net = with_wide_layers(before, ["last"])
    assert len(corrections(net)) == 1
    data = samples(before)
    a, b = (integer(n, symmetric=True, rounding="gptq") for n in (before, net))
    assert error(b, net, data) < 0.9 * error(a, before, data)


def test_copies_take_names_that_the_graph_leaves_free() -> None:
    """Tensors and nodes called as the copies would be, the pixel shuffle's low part among them."""
    g = Graph(3)
    g.conv(16, name="head", output="x")
    g.conv(16, name="head_low", output="x_residual")
    g.add("x")
    shuffled = g.depth_to_space(2)
    g.conv(4, name="head_residual", output=f"{shuffled}_low")
    g.conv(4, name="last", output="last_correction")
    g.conv(3, name="end")
    before = fusion.fuse(g.model())
    net = with_wide_layers(with_low_parts(split_residuals(before, 1), 1), ["last", "end"])
    assert len(low_parts(net)) == 3
    for names in ([op.name for op in net.ops], [op.output for op in net.ops]):
        assert len(set(names)) == len(names)
    x = noise(3, 16, 16, seed=4)
    np.testing.assert_allclose(output(net, x), output(before, x), atol=1e-6)


def test_what_no_convolution_rounds_has_no_low_part() -> None:
    net = plain()
    with pytest.raises(UnsupportedOperatorError, match="no low part") as caught:
        with_wide_layers(net, [net.convs[0].name])
    assert "wide_layers" in caught.value.fix


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("rounding", ["nearest", "gptq"])
def test_the_sum_of_both_passes_is_that_of_the_unrounded_input(
    symmetric: bool, rounding: str
) -> None:
    """Against binary64: conv(y) + correction is conv(v) within the steps of low and correction."""
    net = wide(-1)
    result = integer(net, symmetric=symmetric, rounding=rounding)
    low, correction = result.convs[-3:-1]
    values = dict(reference.trace(result, noise(3, 16, 16, seed=5)))
    x, y = (result.tensors[name].q for name in (low.output, correction.output))
    weight = correction.weight * correction.weight_scale[:, None, None, None].astype(np.float64)
    columns = reference.columns(correction, values[low.output], x.zero_point, x.zero_point)
    exact = weight.reshape(len(weight), -1) @ columns * x.scale
    found = (values[correction.output].astype(np.float64) - y.zero_point) * y.scale
    assert np.abs(found.reshape(exact.shape) - exact).max() <= 0.501 * y.scale
    assert np.abs(values[correction.output].astype(int)).max() <= 126  # no sum reaches the bound


def test_the_range_is_what_the_low_part_can_make_of_it() -> None:
    net = wide(-1)
    data = samples(net)
    seen = histograms(net, data)
    found = completed(net, table(net, data, symmetric=True), seen, symmetric=True)
    ((name, low),) = corrections(net).items()
    weight = next(c.weight for c in net.convs if c.output == name)
    bound = np.abs(weight).sum(axis=(1, 2, 3)).max() * found[low].high
    assert (found[name].method, found[name].high) == (CORRECTION, pytest.approx(bound, rel=1e-6))


@pytest.mark.parametrize("search", ["none", "output"])
def test_the_output_error_falls(search: str) -> None:
    before, net = plain(), wide(-1)
    data = samples(before)
    a, b = (integer(n, symmetric=True, rounding="gptq", search=search) for n in (before, net))
    assert error(b, net, data) < 0.8 * error(a, before, data)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("layers", [(-1,), (1, 2, 3)])
def test_the_library_gives_the_golden_answer(
    isa: str, layers: tuple[int, ...], tmp_path: Path
) -> None:
    result = integer(wide(*layers), symmetric=False, rounding="nearest")
    assert qdq.write(qdq.read(qdq.write(result))) == qdq.write(result)
    host, x = Host(isa, 2), noise(3, 18, 46, seed=6)
    build_library(result, (18, 46), host, tmp_path / "mod.so")
    y = load_library(tmp_path / "mod.so", host)(x)
    np.testing.assert_array_equal(y, reference.run(result, x))


def test_a_build_and_a_layer_that_does_not_exist(tmp_path: Path) -> None:
    path = tiny_spec(tmp_path, backend__quantize__wide_layers=[-1])
    result = pipeline.run(spec.load(path), silent(), until="quantize")
    assert result.net is not None
    assert len(corrections(result.net)) == 1
    for layer, hint in (("convv", ""), (9, "")):
        path = tiny_spec(tmp_path, backend__quantize__wide_layers=[layer])
        with pytest.raises(SpecError, match=f"no convolution {layer!r}{hint}") as caught:
            pipeline.run(spec.load(path), silent(), until="quantize")
        assert caught.value.where.startswith(f"{path}:")
