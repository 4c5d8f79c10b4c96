import json
from pathlib import Path

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the extra `train` is not installed")

from calib.errors import DataError  # noqa: E402
from models import train as recipe_module  # noqa: E402
from models.bicubic_plusplus import kernel_shapes  # noqa: E402
from models.patches import HELD_OUT, load_images  # noqa: E402
from models.recipe import Recipe  # noqa: E402
from models.synthetic import draw  # noqa: E402
from models.train import Training, main, train  # noqa: E402

TINY = Recipe(rate=2, steps=6, patches=2, size=8, warmup=2, drawn=1, factors=(1,))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photographs")
    for i, name in enumerate(["a", "b", HELD_OUT[0]]):
        cv2.imwrite(str(folder / f"{name}.png"), draw(np.random.default_rng(i), 96, 96))
    return folder


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def test_same_recipe_same_weights(data: Path) -> None:
    images = load_images(data, TINY)
    runs = [Training(TINY) for _ in range(2)]
    for run in runs:
        run.run(images, TINY.steps)
    first, second = (run.state() for run in runs)
    assert list(first) == list(kernel_shapes(2))
    for name, shape in kernel_shapes(2).items():
        assert first[name].shape == shape
        assert np.array_equal(first[name], second[name])


def test_stopping_and_resuming_changes_nothing(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipe_module, "_CHECK_EVERY", 2)
    whole = train(TINY, data, tmp_path / "whole", lambda line: None)

    def stop(line: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(TINY, data, tmp_path / "stopped", stop)
    resumed = train(TINY, data, tmp_path / "stopped", lambda line: None)
    assert resumed.step == whole.step == 6
    assert resumed.curve == whole.curve
    assert [point["step"] for point in whole.curve] == [2, 4, 6]
    for name, kernel in whole.state().items():
        assert np.array_equal(kernel, resumed.state()[name])


def test_training_lowers_the_error(data: Path) -> None:
    recipe = Recipe(rate=2, steps=80, patches=4, size=16, warmup=5, drawn=1, factors=(1,))
    images, run = load_images(data, recipe), Training(recipe)
    before = run.watch(images)["rgb_db"]
    run.run(images, 80)
    assert run.watch(images)["rgb_db"] > before + 2


def test_pixel_shuffle_undoes_the_target() -> None:
    patches = np.random.default_rng(0).integers(0, 256, (2, 12, 18, 3), np.uint8)
    shuffled = torch.nn.functional.pixel_shuffle(recipe_module._unshuffled(patches, 6), 6)
    assert torch.equal(shuffled, recipe_module._images(patches))


def test_squared_error_has_the_closed_form() -> None:
    """Blocks of 2x2 pixels, every channel off by its own constant."""
    off = torch.tensor([0.1, 0.2, 0.3])
    error = off.repeat_interleave(4).view(1, 12, 1, 1).expand(1, 12, 3, 3)
    luma = float((off * torch.tensor([65.481, 128.553, 24.966])).sum() / 255)
    both = torch.cat([error, 2 * error])
    assert recipe_module._squared_error(both, 0).tolist() == pytest.approx([0.14 / 3, 0.56 / 3])
    assert float(recipe_module._squared_error(error, 2)) == pytest.approx(0.14 / 3 + 2 * luma**2)


def test_refuses_the_checkpoint_of_another_recipe(data: Path, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    Training(TINY).save(path)
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.pt"]
    with pytest.raises(DataError, match="another rate, seed"):
        Training(Recipe(**{**vars(TINY), "rate": 3, "seed": 1})).load(path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match="damaged"):
        Training(TINY).load(path)


def test_refuses_images_smaller_than_a_patch(data: Path) -> None:
    with pytest.raises(DataError, match="only 48 pixels"):
        load_images(data, Recipe(rate=2, steps=1, size=50, drawn=1, factors=(1,)))


def test_command_writes_the_model(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    flags = ["--patches", "2", "--size", "8", "--drawn", "1", "--factors", "1"]
    flags += ["--noise", "1", "2", "3"]
    command = ["--rate", "2", "--steps", "2", "--data", str(data), "--run", str(folder)]
    assert main(command + flags) == 0
    assert (folder / "bicubic_plusplus_2x.onnx").is_file()
    assert json.loads((folder / "curve.json").read_text())[0]["step"] == 2


def test_command_refuses_an_empty_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--rate", "2", "--steps", "2", "--run", str(tmp_path / "run")]
    assert main([*flags, "--data", str(tmp_path)]) == 2
    assert "no file with suffix" in capsys.readouterr().err
