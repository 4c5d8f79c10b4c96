"""The committed weights: small, whole, and as good as their cards say."""

import re
from pathlib import Path

import onnx
import pytest
from onnx import numpy_helper

from calib.images import list_images, read_image
from models.bicubic_plusplus import check_state
from models.evaluate import load_network, measure, upscaler

MODELS = Path(__file__).parents[2] / "models"
SHARED = MODELS.parents[1] / "shared" / "data"
# What the project set itself, RGB / Y in dB; at 4x a clear gain over bicubic.
BARS = {
    (2, "Set5"): (31.79, 35.5),
    (2, "Set14"): (28.52, 31.65),
    (3, "Set5"): (29.6, 31.7),
    (3, "Set14"): (26.7, 28.65),
    (4, "Set5"): (27.69, 29.43),
    (4, "Set14"): (25.1, 26.8),
}


@pytest.mark.parametrize("rate", [2, 3, 4])
def test_file_holds_the_network(rate: int) -> None:
    path = MODELS / f"bicubic_plusplus_{rate}x.onnx"
    assert path.stat().st_size < 350_000
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    check_state({n: value for n, value in constants.items() if n.endswith(".weight")}, rate)
    assert "CC0-1.0" in model.graph.doc_string


@pytest.mark.parametrize(("rate", "name"), BARS)
def test_reaches_the_bars_and_the_figures_of_its_card(rate: int, name: str) -> None:
    folder = SHARED / name.lower() / "HR"
    if not folder.is_dir():
        pytest.skip(f"the {name} images beside the repository are absent")
    network, found = load_network(MODELS / f"bicubic_plusplus_{rate}x.onnx")
    assert found == rate
    images = [read_image(path) for path in list_images(folder, "png", None)]
    psnr = measure(upscaler(network, rate), images, rate)
    rgb_db, y_db = BARS[rate, name]
    assert psnr.rgb_db >= rgb_db
    assert psnr.y_db >= y_db
    card = (MODELS / f"bicubic_plusplus_{rate}x.md").read_text()
    row = re.search(rf"^\| {name} \|.*\| ([\d.]+) / ([\d.]+) \|$", card, re.MULTILINE)
    assert row
    assert [float(figure) for figure in row.groups()] == pytest.approx(
        [psnr.rgb_db, psnr.y_db], abs=0.006
    )
