from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from calib.bicubic import upscale
from calib.images import list_images, read_image
from compiler.errors import ModelError
from models.bicubic_plusplus import export_onnx, kernel_shapes
from models.evaluate import load_network, main, measure, upscaler

SHARED = Path(__file__).parents[2].parent / "shared" / "data"


def nearest_2x(path: Path) -> Path:
    resize = helper.make_node("Resize", ["x", "", "scales"], ["y"], mode="nearest")
    graph = helper.make_graph(
        [resize],
        "nearest",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, "h", "w"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3, "H", "W"])],
        [helper.make_tensor("scales", TensorProto.FLOAT, [4], [1, 1, 2, 2])],
    )
    opset = helper.make_opsetid("", 17)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=8), path)
    return path


@pytest.mark.parametrize("size", [(4, 6), (5, 6), (4, 7), (5, 7), (1, 1)])
def test_upscaler_pads_and_crops(tmp_path: Path, size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    network, rate = load_network(nearest_2x(tmp_path / "n.onnx"))
    assert rate == 2
    assert np.array_equal(upscaler(network, rate)(image), image.repeat(2, 0).repeat(2, 1))


def test_upscaler_rounds_half_to_even_and_clips() -> None:
    values = np.float32([-1, 0.5 / 255, 1.5 / 255, 2]).reshape(1, 1, 2, 2).repeat(3, 1)
    pixels = upscaler(lambda image: values, 1)(np.zeros((2, 2, 3), np.uint8))
    assert pixels[..., 0].ravel().tolist() == [0, 0, 2, 255]


def test_psnr_of_a_known_error() -> None:
    """A constant off by (1, 2, 3): closed forms; the border may hold anything."""
    truth = np.full((20, 20, 3), 100, np.uint8)
    answer = truth + np.uint8([1, 2, 3])
    answer[:2] = answer[:, -2:] = 0
    psnr = measure(lambda lr: answer, [truth], 2)
    assert psnr.rgb_db == pytest.approx(10 * np.log10(255**2 / (14 / 3)))
    luma = (65.481 + 2 * 128.553 + 3 * 24.966) / 255
    assert psnr.y_db == pytest.approx(20 * np.log10(255 / luma))


def test_bicubic_on_set5_is_the_published_figure() -> None:
    """33.66, 30.39 and 28.42 dB Y: the bicubic column of countless tables (such as SRCNN's)."""
    if not SHARED.is_dir():
        pytest.skip("the Set5 images beside the repository are absent")
    images = [read_image(p) for p in list_images(SHARED / "set5" / "HR", "png", None)]
    for rate, published in ((2, 33.66), (3, 30.39), (4, 28.42)):
        psnr = measure(lambda lr, rate=rate: upscale(lr, rate), images, rate)
        assert psnr.y_db == pytest.approx(published, abs=0.03)


def test_command_prints_both_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (31, 32, 3), np.uint8)
    (tmp_path / "hr").mkdir()
    cv2.imwrite(str(tmp_path / "hr" / "a.png"), image)
    state = {name: np.zeros(s, np.float32) for name, s in kernel_shapes(3).items()}
    export_onnx(state, 3, tmp_path / "black.onnx")
    assert main([str(tmp_path / "black.onnx"), "--hr", str(tmp_path / "hr")]) == 0
    head, bicubic, black = capsys.readouterr().out.splitlines()
    assert "1 images, 3x" in head
    assert bicubic.split()[0] == "bicubic"
    inside = image[3:27, 3:27].astype(float)
    assert float(black.split()[1]) == pytest.approx(
        10 * np.log10(255**2 / (inside**2).mean()), abs=6e-4
    )


def test_refuses_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.png").write_text("no image")
    with pytest.raises(ModelError, match="not a readable ONNX"):
        load_network(tmp_path / "none.onnx")
    assert main([str(tmp_path / "bad.png"), "--hr", str(tmp_path)]) == 2
    assert "not a readable ONNX" in capsys.readouterr().err
    model = nearest_2x(tmp_path / "n.onnx")
    assert main([str(model), "--hr", str(tmp_path)]) == 2
    assert "bad.png" in capsys.readouterr().err
