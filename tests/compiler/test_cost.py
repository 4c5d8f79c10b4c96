"""The cost model against hand calculations, published counts, and its own invariants."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from compiler import cost, fusion, pipeline, stats, svg
from compiler.cost.__main__ import parser, run, with_figures
from compiler.cost.checks import rcan, rcan_vendor, resnet50
from compiler.cost.model import Cost
from compiler.cost.roofline import roofline
from compiler.cost.schedule import estimate
from compiler.cost.show import notes, saving, verdicts
from compiler.cost.workload import Layers, Workload, workload
from compiler.errors import BundleError, SpecError
from compiler.progress import silent
from compiler.target import Figure, Target
from tests import graphs
from tests.compiler.conftest import tiny_spec

ROOT = Path(__file__).parents[2]
TARGET = Target.model_validate(
    yaml.safe_load((ROOT / "configs/targets/vacc.yaml").read_text("utf-8"))
)


def hardware(tops: float = 4, gbs: float = 2, mb: float = 10, dies: float = 2) -> dict[str, Figure]:
    """By default a die of 1 TMAC/s, 1 GB/s and 5 MB; bandwidth and memory are assumed."""
    return {
        "int8_tops": Figure(value=tops, unit="TOPS", source="x"),
        "dies": Figure(value=dies, unit="", source="x"),
        "bandwidth_gbs": Figure(value=gbs, unit="GB/s", source="none", assumed=True),
        "on_chip_mb": Figure(value=mb, unit="MB", source="none", assumed=True),
    }


def chain() -> Workload:
    """3x10x20 -> conv 3x3 to 8 -> conv 3x3 to 8, residual of the first -> shuffle to 2x20x40."""
    net = Layers("chain", 3, (10, 20))
    first = net.conv(8, 3)
    net.conv(8, 3, residual=first)
    net.move("shuffle", (2, 20, 40))
    return net.workload()


def test_layer_by_layer_by_hand() -> None:
    c = estimate(chain(), hardware(), "t")
    first, second, shuffle = c.layer_by_layer.parts
    assert (first.macs, second.macs, shuffle.macs) == (200 * 8 * 27, 200 * 8 * 72, 0)
    assert (first.in_bytes, first.out_bytes, first.weight_bytes) == (600, 1600, 216 + 64)
    assert (second.in_bytes, second.out_bytes) == (1600, 1600)  # its residual is its input
    assert (shuffle.in_bytes, shuffle.out_bytes, shuffle.weight_bytes) == (1600, 1600, 0)
    assert first.compute_ms == pytest.approx(43_200 / 1e12 * 1e3)
    assert first.memory_ms == pytest.approx(2480 / 1e9 * 1e3)
    assert first.bound == "memory"
    assert first.utilization == pytest.approx(43_200 / 1e12 / (2480 / 1e9))
    assert shuffle.utilization == 0
    assert c.layer_by_layer.ms == pytest.approx(sum(p.memory_ms for p in c.layer_by_layer.parts))
    assert c.frames_per_s(c.layer_by_layer) == pytest.approx(2e3 / c.layer_by_layer.ms)


def test_fused_by_hand() -> None:
    (whole,) = estimate(chain(), hardware(), "t").fused.parts
    weights = 216 + 64 + 576 + 64
    assert (whole.in_bytes, whole.out_bytes, whole.weight_bytes) == (600, 1600, weights)
    # rows: 3 of the input, 3 of the first output, 1 of the second, 1 of the output
    assert whole.on_chip_bytes == weights + 3 * 60 + 3 * 160 + 160 + 80
    assert whole.name == "conv0 .. shuffle2"


def test_totals_and_what_fusing_saves() -> None:
    c = estimate(chain(), hardware(), "t")
    layers = c.layer_by_layer
    assert layers.macs == c.macs == c.fused.macs == 200 * 8 * 99
    assert (layers.in_bytes, layers.out_bytes) == (600 + 1600 + 1600, 3 * 1600)
    assert layers.weight_bytes == c.fused.weight_bytes == 216 + 64 + 576 + 64
    assert layers.bytes == layers.in_bytes + layers.out_bytes + layers.weight_bytes
    assert layers.on_chip_bytes == max(p.on_chip_bytes for p in layers.parts)
    traffic = (3800 + 4800 + 920) / (600 + 1600 + 920)
    assert saving(c) == (
        f"fused in 1 of 3 parts: {traffic:.1f} times as fast, {traffic:.1f} times less traffic "
        "(assumed)"
    )


def test_a_residual_waits_for_the_path_beside_it() -> None:
    net = Layers("skip", 4, (100, 10))
    first = net.conv(4, 1)
    net.conv(4, 5, source=first)  # looks 2 rows ahead
    net.conv(4, 5, residual=first)  # and 2 more: the residual is 4 rows back
    (whole,) = estimate(net.workload(), hardware(), "t").fused.parts
    weights = sum(w.weight_bytes for w in net.workload().works)
    assert whole.on_chip_bytes == weights + 40 * (1 + 5 + 5 + 1)


def test_a_small_on_chip_memory_cuts_the_chain() -> None:
    load = chain()
    need = [p.on_chip_bytes for p in estimate(load, hardware(), "t").layer_by_layer.parts]
    just = 2 * max(need) / 1e6
    parts = estimate(load, hardware(mb=just), "t").fused.parts
    assert 1 < len(parts) <= 3
    assert all(p.on_chip_bytes <= just * 1e6 / 2 for p in parts)
    none = estimate(load, hardware(mb=1e-6), "t")
    assert none.fused == none.layer_by_layer


@settings(max_examples=15, deadline=None)
@given(st.floats(1e-4, 20), st.floats(0.1, 500), st.integers(1, 8))
def test_fusing_never_costs_more(mb: float, gbs: float, batch: int) -> None:
    for load in (chain(), resnet50()):
        c = estimate(load, hardware(mb=mb, gbs=gbs), "t", batch)
        assert c.fused.bytes <= c.layer_by_layer.bytes * (1 + 1e-9)
        assert c.fused.ms <= c.layer_by_layer.ms * (1 + 1e-9)
        assert c.fused.compute_ms == pytest.approx(c.layer_by_layer.compute_ms)
        assert [n for p in c.fused.parts for n in p.layers] == [w.name for w in load.works]
        for part in (*c.fused.parts, *c.layer_by_layer.parts):
            assert 0 <= part.utilization <= 1
            assert (part.bound == "compute") == (part.macs > 0 and part.intensity >= c.die.ridge)


def test_published_networks_have_their_published_counts() -> None:
    assert resnet50().macs == 4_089_184_256  # torchvision's 4.09 G
    assert resnet50(stride_in_3x3=False).macs / 1e9 == pytest.approx(3.858, abs=5e-4)  # the paper's
    parameters = sum(w.weight_bytes for w in resnet50().works)  # 25.557 M, biases of 8 bytes
    assert parameters == 25_502_912 + 8 * (26_560 + 1000)
    assert 2 * rcan_vendor().macs / 0.9e9 == pytest.approx(356.659, abs=5e-4)  # the vendor's zoo
    assert rcan(groups=1, blocks=1, channels=16).macs < rcan().macs
    body = 10 * (20 * 2 + 1) + 1  # convolutions of 64 to 64 channels
    per_pixel = 9 * (3 * 64 + body * 64 * 64 + 64 * 256 + 4 * 64 * 3)
    attention = 10 * 20 * 2 * 64 * 4  # of the whole image
    assert rcan().macs == 1080 * 1920 * per_pixel + attention


def test_the_errors_against_published_rates_are_stated() -> None:
    resnet, reduced, full = cost.checks(TARGET.hardware)
    assert resnet.needed_tops == pytest.approx(2 * 4.089184256e9 * 3231 / 1e12)
    assert resnet.layer_by_layer_per_s < resnet.published_per_s < resnet.fused_per_s
    assert resnet.layer_by_layer_error < 0 < resnet.fused_error
    assert reduced.layer_by_layer_error == pytest.approx(reduced.layer_by_layer_per_s / 21.6 - 1)
    assert (resnet.possible, reduced.possible, full.possible) == (True, True, False)
    assert set(resnet.assumed) == {"bandwidth_gbs", "on_chip_mb"}


def test_what_rests_on_assumptions_says_so() -> None:
    c = estimate(chain(), hardware(), "t")
    assert c.assumed == ("bandwidth_gbs", "on_chip_mb")
    assert not c.is_assumed("macs")
    assert not c.is_assumed("in_bytes")
    assert not c.is_assumed("compute_ms")
    assert all(c.is_assumed(f) for f in ("memory_ms", "ms", "bound", "utilization"))
    assert c.is_assumed("in_bytes", fused=True)
    assert not c.is_assumed("compute_ms", fused=True)
    data = c.to_json()
    assert "memory_ms" in data["layer_by_layer"]["assumed"]
    assert "compute_ms" not in data["layer_by_layer"]["parts"][0]["assumed"]
    assert "in_bytes" in data["fused"]["parts"][0]["assumed"]
    assert all("(assumed)" in line for line in verdicts(c))
    assert "bandwidth_gbs 2 GB/s (assumed)" in notes(c)[0]
    assert "memory 1 GB/s (assumed)" in roofline(c)
    known = {k: f.model_copy(update={"assumed": False}) for k, f in hardware().items()}
    sure = estimate(chain(), known, "t")
    assert "assumed" not in roofline(sure) + "".join(verdicts(sure))
    assert sure.to_json()["fused"]["assumed"] == []


def test_a_float_network_is_counted_as_stats_count_it() -> None:
    net = fusion.fuse(graphs.bicubic_plusplus(2).model())
    load = workload(net, (16, 24), output_kind="uint8")
    assert load.macs == stats.network_stats(net, (16, 24)).macs
    assert load.features[net.input].bytes == 4 * 3 * 16 * 24
    assert load.features[net.output].bytes == 3 * 32 * 48
    assert load.output == net.output
    first = load.works[1]
    assert (first.before, first.ahead) == (1, 1)
    conv = net.convs[0]
    assert first.weight_bytes == conv.weight.size + 8 * len(conv.weight)


@pytest.mark.parametrize("name", ["int8_tops", "dies", "bandwidth_gbs", "on_chip_mb"])
def test_a_missing_or_zero_figure_is_refused(name: str) -> None:
    without = {k: f for k, f in hardware().items() if k != name}
    zero = hardware() | {name: hardware()[name].model_copy(update={"value": 0.0})}
    for bad in (without, zero):
        with pytest.raises(SpecError, match=name):
            cost.die(bad)


def test_what_if_figures() -> None:
    changed = with_figures(hardware(), ["hardware.int8_tops=8"])
    assert changed["int8_tops"].value == 8
    assert changed["int8_tops"].assumed
    assert changed["dies"] == hardware()["dies"]
    for bad in ("hardware.nothing=1", "hardware.dies=two", "hardware.dies=-1", "hardware.dies="):
        with pytest.raises(SpecError):
            with_figures(hardware(), [bad])


def the_cost(tiny_build: pipeline.Result, tmp_path: Path, *extra: str) -> dict:
    out = tmp_path / "cost.json"
    run(parser().parse_args([str(tiny_build.bundle), "--json", str(out), *extra]), silent())
    return json.loads(out.read_text())


def test_the_command_on_a_bundle_and_on_its_spec(
    tiny_build: pipeline.Result, tiny_folder: Path, tmp_path: Path
) -> None:
    data = the_cost(tiny_build, tmp_path)
    assert data["macs"] == tiny_build.stats.macs
    assert data["target"] == "vacc"
    half = the_cost(tiny_build, tmp_path, "--set", "hardware.bandwidth_gbs=64")
    for one, two in zip(
        data["layer_by_layer"]["parts"], half["layer_by_layer"]["parts"], strict=True
    ):
        assert two["memory_ms"] == pytest.approx(2 * one["memory_ms"])
    out = tmp_path / "spec.json"
    run(parser().parse_args([str(tiny_spec(tiny_folder)), "--json", str(out)]), silent())
    from_spec = json.loads(out.read_text())
    assert from_spec["layer_by_layer"]["ms"] == data["layer_by_layer"]["ms"]
    assert len(data["checks"]) == 3


def test_what_is_no_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError):
        run(parser().parse_args([str(tmp_path)]), silent())


def test_the_command_prints_and_draws(tiny_build: pipeline.Result, tmp_path: Path) -> None:
    picture = tmp_path / "roofline.svg"
    command = [sys.executable, "-m", "compiler.cost", str(tiny_build.bundle), "--svg", str(picture)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert "assumed" in done.stdout
    assert "ResNet-50" in done.stdout
    root = ElementTree.fromstring(picture.read_text())
    assert root.tag.endswith("svg")


def test_a_batch_shares_the_weights() -> None:
    one, eight = (estimate(resnet50(), hardware(), "t", batch=b) for b in (1, 8))
    weights = sum(p.weight_bytes for p in one.layer_by_layer.parts)
    assert sum(p.weight_bytes for p in eight.layer_by_layer.parts) == pytest.approx(weights / 8)


def test_equal_costs_are_equal_pictures() -> None:
    a: Cost = estimate(chain(), hardware(), "t")
    assert roofline(a) == roofline(replace(a))


@given(st.floats(0.01, 1e6), st.floats(1.01, 1e6), st.booleans())
def test_axes_reach_their_ends(low: float, factor: float, log: bool) -> None:
    axis = svg.Axis(low, low * factor, 10, 200, log=log)
    assert axis(low) == pytest.approx(10)
    assert axis(low * factor) == pytest.approx(200)
    assert axis(low / 2) == pytest.approx(10)
    ticks = axis.ticks()
    assert all(low * (1 - 1e-6) <= t <= low * factor * (1 + 1e-6) for t in ticks)
    assert list(ticks) == sorted(set(ticks))
    assert len(ticks) <= 12
