"""The report: its figures against the build's, and the page in a real browser."""

from __future__ import annotations

import base64
import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from calib.histogram import Histogram
from calib.methods import Max
from calib.table import calibrate
from compiler import bundle, fusion, pipeline, qdq, reference, report, spec
from compiler.accuracy import Verdict
from compiler.errors import BundleError
from compiler.latency import Latency
from compiler.progress import silent
from compiler.report import Build, ReportData, graph, layers, plots, speed
from compiler.report.page import page
from compiler.report.speed import Speed
from compiler.runner import Session
from tests import graphs, quantized
from tests.browser import chromium
from tests.compiler.conftest import tiny_spec
from tests.compiler.test_commands import command

LIMIT = 5_000_000


@pytest.fixture(scope="module")
def data(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> ReportData:
    """What the tiny build's report shows, caught on its way to the page."""
    with caught_builds() as builds:
        out = tmp_path_factory.mktemp("report")
        pipeline.run(spec.load(tiny_spec(tiny_folder)), silent(), out=out)
    return report.collect(builds[0])


@contextmanager
def caught_builds() -> Iterator[list[Build]]:
    """What builds hand to the report meanwhile."""
    caught: list[Build] = []
    collect = report.collect

    def keep(build: Build) -> ReportData:
        caught.append(build)
        return collect(build)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "collect", keep)
        yield caught


class Links(HTMLParser):
    """Every address that a page would load or lead to."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [v or "" for k, v in attrs if k in ("src", "href", "srcset", "action")]


def test_the_page_is_in_the_bundle_sealed_and_alone(tiny_build: pipeline.Result) -> None:
    assert tiny_build.bundle is not None
    path = tiny_build.bundle / "measured" / "report.html"
    text = path.read_text("utf-8")
    assert len(text) < LIMIT
    bundle.check(tiny_build.bundle)
    links = Links()
    links.feed(text)
    assert all(link.startswith(("#", "data:")) for link in links.found)
    assert "url(" not in text
    assert "@import" not in text


def test_the_same_data_gives_the_same_page(data: ReportData) -> None:
    assert page(data) == page(data)


def test_it_opens_with_the_verdict(data: ReportData) -> None:
    start = page(data).partition("<nav")[0]
    drop = data.accuracy.drop("psnr_rgb_db")
    assert drop is not None
    assert "Gate passed" in start
    assert f"{drop:.3f} dB".replace("-", "\u2212") in start
    assert f"{data.accuracy.bit_exact.values:,} values" in start
    assert f"{data.speed.library.median_ms:.1f} ms" in start


def test_a_missed_gate_says_why(data: ReportData) -> None:
    why = "PSNR drops by 9 dB <script>"
    missed = replace(data.accuracy, gate=Verdict(False, (why,)))
    text = page(replace(data, accuracy=missed))
    assert "Gate missed" in text
    assert "PSNR drops by 9 dB &lt;script&gt;" in text


def test_crops_hold_exact_pixels(data: ReportData) -> None:
    crops = data.accuracy.crops
    assert crops
    uris = re.findall(r"data:image/webp;base64,([A-Za-z0-9+/=]+)", page(data))
    assert len(uris) == 4 * len(crops)
    decoded = cv2.imdecode(np.frombuffer(base64.b64decode(uris[1]), np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(decoded[..., ::-1], crops[0].int8)


def test_peers_stand_beside_the_library(data: ReportData) -> None:
    assert "Peers were not measured" in page(data)
    peers = {"onnxruntime_fp32": Latency(123.4, 120, 130, 5)}
    text = page(replace(data, speed=replace(data.speed, peers=peers)))
    assert "onnxruntime_fp32" in text
    assert "123.4 ms" in text
    assert "Peers were not measured" not in text


FIGURES = {
    "machine": {"processor": "<b>fast</b>", "system": "Linux", "isa": "avx2", "threads": 3},
    "input_shape": [1, 3, 32, 48],
    "library": {"median_ms": 7.5, "p10_ms": 7.1, "p90_ms": 8.2, "runs": 9, "memory_bytes": 1},
    "peers": {"openvino_int8": {"median_ms": 15.0, "p10_ms": 14, "p90_ms": 16, "runs": 9}},
    "layers": [{"name": "c", "kernel": "F(4,3)", "median_ms": 1.25, "gmacs_per_s": 99.0}],
}


def test_later_latencies_replace_the_speed_and_nothing_else(data: ReportData) -> None:
    new = Speed.of(FIGURES, {"isa": "vnni", "threads": 2})
    assert (new.isa, new.threads, new.shape) == ("avx2", 3, "1x3x32x48")
    refreshed = speed.refresh(page(data), new)
    assert refreshed == page(replace(data, speed=new))
    assert speed.refresh(refreshed, data.speed) == page(data)
    assert "&lt;b&gt;fast" in refreshed
    for words in ("7.5 ms", "openvino_int8", "15.0 ms", "2.00", "F(4,3)", "3 threads"):
        assert words in refreshed
    with pytest.raises(BundleError, match="another version"):
        speed.refresh("<html></html>", new)


def test_the_command_writes_the_report_again(tiny_build: pipeline.Result, tmp_path: Path) -> None:
    assert tiny_build.bundle is not None
    copy = tmp_path / "tiny"
    shutil.copytree(tiny_build.bundle, copy)
    figures = tmp_path / "bench.json"
    figures.write_text(json.dumps(FIGURES))
    done = command("report", copy, "--latency", figures)
    assert done.returncode == 0, done.stderr
    bundle.check(copy)
    assert "openvino_int8" in (copy / "measured" / "report.html").read_text("utf-8")
    assert json.loads((copy / "measured" / "latency.json").read_text()) == FIGURES
    assert (copy / "measured" / "timing.json").is_file()
    before = (copy / "measured" / "report.html").read_bytes()
    assert command("report", copy).returncode == 0
    assert (copy / "measured" / "report.html").read_bytes() == before
    for bad in ("[]", "{}", '{"machine": 1}', "no json"):
        figures.write_text(bad)
        assert command("report", copy, "--latency", figures).returncode == 2
        assert (copy / "measured" / "report.html").read_bytes() == before


def test_bench_saves_into_the_bundle(tiny_build: pipeline.Result, tmp_path: Path) -> None:
    assert tiny_build.bundle is not None
    copy = tmp_path / "tiny"
    shutil.copytree(tiny_build.bundle, copy)
    done = command("bench", copy, "--runs", 2, "--layers", "--save", "--json", "-")
    assert done.returncode == 0, done.stderr
    bundle.check(copy)
    figures = json.loads((copy / "measured" / "latency.json").read_text())
    assert figures == json.loads(done.stdout)
    text = (copy / "measured" / "report.html").read_text("utf-8")
    assert "median of 2 runs" in text
    assert all(layer["kernel"] in text for layer in figures["layers"])


def test_channels_before_and_after_equalization(tiny_folder: Path, tmp_path: Path) -> None:
    """Against plain scaling: weights of c, times t_c, over t of what they read; activations t_c."""
    path = tiny_spec(tiny_folder, backend__quantize={"calibrate_mode": "max", "equalize": True})
    with caught_builds() as builds:
        pipeline.run(spec.load(path), silent(), out=tmp_path)
    (build,) = builds
    shown = report.collect(build)
    assert shown.equalized
    for row in (t.channels for t in shown.tensors):
        t = build.factors.get(row.name, np.ones(len(row.low), np.float32))
        np.testing.assert_allclose(row.low_before * t, row.low, rtol=1e-6)
        np.testing.assert_allclose(row.high_before * t, row.high, rtol=1e-6)
    plain = fusion.fuse(build.engine.fp32).convs
    for row, conv in zip(shown.weights, plain, strict=True):
        np.testing.assert_array_equal(row.high_before, conv.weight.max(axis=(1, 2, 3)))
    text = page(shown)
    assert "before it as pale ones" in text
    assert "before equalization:" in text


def test_sensitivity_of_every_layer(data: ReportData) -> None:
    """Each layer alone is less wrong than all of them together, and no layer is free."""
    assert all(row.sensitivity > 0 for row in data.layers)
    floats, net = quantized.integer_network(graphs.bicubic_plusplus(2).model())
    x = quantized.noise(3, 24, 32, seed=7)
    found = layers.sensitivities(floats, net, [x])
    exact = Session(qdq.write_float(floats)).run(x).astype(np.float64)
    together = 255 * np.sqrt(np.mean((exact - reference.run(net, x)) ** 2))
    assert set(found) == {c.name for c in floats.convs}
    assert min(found.values()) > 0
    assert max(found.values()) < together


def test_layers_and_tensors_are_those_of_the_network(data: ReportData) -> None:
    assert [r.name for r in data.layers] == [c.name for c in data.floats.convs]
    assert [t.name for t in data.tensors] == list(data.floats.rounding_points)
    assert data.layers[-1].calibration is None  # the output stays float
    assert all(r.sqnr_db is not None and r.sqnr_db > 10 for r in data.layers)
    for row, conv in zip(data.layers, data.floats.convs, strict=True):
        assert row.weight_low == conv.weight.min()
        assert row.weight_high == conv.weight.max()
        assert row.spread >= 1
    for tensor in data.tensors:
        assert {c.method for c in tensor.alternatives} == {
            "max",
            "percentile",
            "kl_divergence",
            "mse",
        }
        assert not tensor.refined
        rounded_input = tensor.name == data.floats.rounding_points[0]  # to the range of its bytes
        assert rounded_input or tensor.chosen in tensor.alternatives  # the spec says max


def test_sqnr_by_hand() -> None:
    """Against a second way: both networks run as whole graphs, one tensor at a time."""
    floats, net = quantized.integer_network(graphs.bicubic_plusplus(2).model())
    x = quantized.noise(3, 24, 32, seed=7)
    found = layers.sqnr_db(floats, net, [x])
    exact = Session(qdq.write_float(floats)).run(x).astype(np.float64)
    y = reference.run(net, x).astype(np.float64)
    expected = 10 * np.log10((exact**2).sum() / ((exact - y) ** 2).sum())
    last = floats.convs[-1].output
    assert found[last] == pytest.approx(expected, rel=1e-6)


def test_own_sqnr_is_that_of_uniform_rounding() -> None:
    """Values uniform over [-T, T] and noise uniform over a step: 20 log10(2 * 127)."""
    hist = Histogram(-1.0, 1.0, np.full(2**13, 1000, np.int64))
    found = layers.own_sqnr_db(hist, calibrate(hist, Max(), True))
    assert found == pytest.approx(20 * np.log10(254), abs=0.05)
    zero = Histogram(0.0, 0.0, np.full(2**13, 1, np.int64))
    assert layers.own_sqnr_db(zero, calibrate(zero, Max(), True)) is None


@pytest.mark.parametrize("seen", [(-1.0, 1.0), (0.0, 1.0), (-3.0, 0.5), (0.0, 0.0), (-2.0, 0.0)])
def test_every_histogram_can_be_drawn(seen: tuple[float, float]) -> None:
    counts = np.zeros(2**13, np.int64)
    limit = max(map(abs, seen)) or 1.0
    half = len(counts) // 2
    counts[
        half + int(seen[0] / limit * (half - 1)) : half + int(seen[1] / limit * (half - 1)) + 1
    ] = 5
    hist = Histogram(*seen, counts)
    choice = layers.Choice("mse", -0.8 * limit, 0.8 * limit, 0.1)
    ends = (np.full(3, seen[0], np.float32), np.full(3, seen[1], np.float32))
    channels = layers.ChannelRanges("t", *ends, *(2 * end for end in ends))
    picture = plots.histogram(layers.TensorRow("t", hist, choice, (choice,), channels, None))
    picture += plots.channels(channels)
    assert picture.startswith("<svg")
    assert "nan" not in picture


def test_the_graph_shows_every_operator_and_every_side_line() -> None:
    floats = fusion.fuse(graphs.bicubic_plusplus(2).model())
    picture = graph.graph(floats)
    assert all(op.name in picture for op in floats.ops)
    made = {floats.input: -1} | {op.output: i for i, op in enumerate(floats.ops)}
    sides = sum(
        made[n] != i - 1 for i, op in enumerate(floats.ops) for n in dict.fromkeys(op.inputs)
    )
    assert picture.count("a edge") == sides == 1


@pytest.fixture(scope="module")
def file(data: ReportData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(page(data), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def wide(file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with chromium(tmp_path_factory.mktemp("profile"), 1440) as driver:
        driver.get(file.as_uri())
        yield driver


def rows(driver: Any, table: str, column: int) -> list[str]:
    script = (
        "return [...document.querySelector(arguments[0]).tBodies[0].rows]"
        ".map(r => r.cells[arguments[1]].dataset.value ?? r.cells[arguments[1]].textContent.trim())"
    )
    return list(driver.execute_script(script, table, column))


def test_the_slider_moves_by_keys_and_pointer(wide: Any) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    def split() -> float:
        script = (
            "return getComputedStyle(document.getElementById('compare'))"
            ".getPropertyValue('--split')"
        )
        return float(wide.execute_script(script).rstrip("%"))

    slider = wide.find_element("id", "split")
    assert split() == 50
    slider.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert split() == 51
    wide.execute_script("arguments[0].scrollIntoView({block: 'center'})", slider)
    width = slider.size["width"]
    ActionChains(wide).move_to_element_with_offset(slider, -width // 4, 0).click().perform()
    assert split() == pytest.approx(25, abs=4)
    clip = wide.execute_script(
        "return getComputedStyle(document.getElementById('right-image')).clipPath"
    )
    assert f"{split():g}%" in clip


def test_pictures_can_be_chosen_and_the_heat_map_follows(wide: Any, data: ReportData) -> None:
    from selenium.webdriver.support.ui import Select, WebDriverWait

    def title() -> str:
        return str(wide.find_element("id", "heat-title").text)

    crop = data.accuracy.crops[0]
    gap = np.abs(crop.int8.astype(float) - crop.fp32.astype(float)).mean()
    wait = WebDriverWait(wide, 10)
    wait.until(lambda _: f"mean {gap:.2f}" in title())
    Select(wide.find_element("id", "right-pick")).select_by_value("truth")
    gap = np.abs(crop.int8.astype(float) - crop.truth.astype(float)).mean()
    wait.until(lambda _: "ground truth" in title() and f"mean {gap:.2f}" in title())
    buttons = wide.find_elements("css selector", "#thumbs button")
    assert len(buttons) == len(data.accuracy.crops)
    buttons[-1].click()
    assert buttons[-1].get_attribute("aria-pressed") == "true"
    assert data.accuracy.crops[-1].image in wide.find_element("id", "caption").text


def test_tables_sort_both_ways(wide: Any, data: ReportData) -> None:
    table = "#images table.sortable"
    button = wide.find_elements("css selector", f"{table} thead button")[4]
    drops = sorted(data.accuracy.drops("psnr_rgb_db"))
    for expected, order in ((drops, "ascending"), (drops[::-1], "descending")):
        wide.execute_script("arguments[0].click()", button)
        assert [float(v) for v in rows(wide, table, 4)] == pytest.approx(expected)
        assert button.find_element("xpath", "..").get_attribute("aria-sort") == order
    names = "#layers table.sortable"
    wide.execute_script(
        "arguments[0].click()", wide.find_element("css selector", f"{names} thead button")
    )
    assert rows(wide, names, 0) == sorted(r.name for r in data.layers)
    threshold = wide.find_elements("css selector", f"{names} thead button")[10]
    wide.execute_script("arguments[0].click()", threshold)
    assert rows(wide, names, 10)[-1] == ""  # what has no figure comes last


def test_nothing_is_wrong_in_the_console(wide: Any) -> None:
    assert wide.get_log("browser") == []
    loaded = wide.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
    assert all(name.startswith("data:") for name in loaded)


_CONTRAST = """
const light = (c) => {
  const v = c / 255;
  return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
};
const luma = (rgb) => 0.2126 * light(rgb[0]) + 0.7152 * light(rgb[1]) + 0.0722 * light(rgb[2]);
const parse = (s) => s.match(/[\\d.]+/g).map(Number);
const behind = (e) => {
  for (; e; e = e.parentElement) {
    const c = parse(getComputedStyle(e).backgroundColor);
    if (c.length === 3 || c[3] > 0.5) return c;
  }
  return [255, 255, 255];
};
const words = "p,h1,h2,h3,td,th,small,a,button,figcaption,dt,dd,code,li,strong,label";
const faint = [];
for (const e of document.querySelectorAll(words)) {
  if (!e.textContent.trim() || !e.getClientRects().length) continue;
  const [a, b] = [luma(parse(getComputedStyle(e).color)), luma(behind(e))];
  const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  if (ratio < 4.5) faint.push([ratio, e.outerHTML.slice(0, 80)]);
}
return faint;
"""  # WCAG 2.1, 1.4.3: 4.5 to 1


@pytest.mark.parametrize(("width", "dark"), [(1440, True), (390, False), (390, True)])
def test_it_fits_every_screen_and_scheme(
    file: Path, tmp_path: Path, width: int, dark: bool
) -> None:
    with chromium(tmp_path / "profile", width, dark=dark) as driver:
        driver.get(file.as_uri())
        assert driver.execute_script("return document.documentElement.scrollWidth") <= width
        page_colour = "return getComputedStyle(document.body).backgroundColor"
        assert driver.execute_script(page_colour) == (
            "rgb(13, 17, 23)" if dark else "rgb(255, 255, 255)"
        )
        assert driver.execute_script(_CONTRAST) == []
        assert driver.get_log("browser") == []
