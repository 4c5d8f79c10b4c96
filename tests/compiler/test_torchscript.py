from __future__ import annotations

import pickle
import warnings
import zipfile
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compiler import model, pipeline, spec, torchscript
from compiler.errors import HostError, ModelError
from compiler.progress import silent
from compiler.runner import Session
from tests.compiler.conftest import SIZE, tiny_spec

SHAPE = {"input": (1, 3, *SIZE)}


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A traced network [1, 3, H, W] -> [1, 3, 2H, 2W], and the network itself."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    nn = torch.nn
    layers = nn.Conv2d(3, 8, 3, 2, 1), nn.LeakyReLU(0.1), nn.Conv2d(8, 48, 3, 1, 1)
    net = nn.Sequential(*layers, nn.PixelShuffle(4)).eval()
    path = tmp_path_factory.mktemp("torchscript") / "net.torchscript.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.trace(net, torch.rand(1, 3, *SIZE)).save(path)
    return path, net


@pytest.fixture(scope="module")
def imported(archive: tuple[Path, Any]) -> Path:
    """The network as ONNX."""
    path = archive[0].with_name("net.onnx")
    torchscript.to_onnx(archive[0], SHAPE, path)
    return path


def test_the_import_computes_what_pytorch_computes(
    archive: tuple[Path, Any], imported: Path
) -> None:
    import torch

    loaded = model.load(imported, SHAPE)
    assert [node.op_type for node in loaded.proto.graph.node] == [
        *("Conv", "LeakyRelu", "Conv", "DepthToSpace")
    ]
    x = np.random.default_rng(0).random(SHAPE["input"], np.float32)
    with torch.no_grad():
        expected = archive[1](torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(Session(loaded.proto).run(x), expected, atol=1e-5)


def test_the_import_is_deterministic(
    archive: tuple[Path, Any], imported: Path, tmp_path: Path
) -> None:
    torchscript.to_onnx(archive[0], SHAPE, tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == imported.read_bytes()


def test_a_spec_with_type_pytorch_builds(archive: tuple[Path, Any], tmp_path: Path) -> None:
    path = tiny_spec(tmp_path, frontend__type="pytorch", frontend__checkpoint=str(archive[0]))
    result = pipeline.run(spec.load(path), silent(), until="quantize")
    assert result.net is not None
    assert result.stats.params == 8 * 27 + 8 + 48 * 72 + 48


def test_without_pytorch_the_extra_is_named(
    archive: tuple[Path, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(torchscript.metadata, "version", absent)
    with pytest.raises(HostError) as caught:
        torchscript.torch_version()
    assert "PyTorch, which is not installed" in caught.value.what
    assert "[train]" in caught.value.fix


class Harmful:
    """Unpickling it creates a file."""

    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> Any:
        return (Path.touch, (self.victim,))


def test_pickles_are_refused_and_never_loaded(tmp_path: Path) -> None:
    victim, bare, zipped = tmp_path / "victim", tmp_path / "bare.pth", tmp_path / "zipped.pth"
    data = pickle.dumps(Harmful(victim))
    bare.write_bytes(data)
    with zipfile.ZipFile(zipped, "w") as file:
        file.writestr("net/data.pkl", data)
    for path in (bare, zipped):
        with pytest.raises(ModelError, match=r"no TorchScript archive") as caught:
            torchscript.to_onnx(path, SHAPE, tmp_path / "out.onnx")
        assert "torch.jit.trace" in caught.value.fix
    assert not victim.exists()


def test_a_pickle_inside_an_archive_runs_no_code(archive: tuple[Path, Any], tmp_path: Path) -> None:
    """PyTorch reads the pickles of an archive with an unpickler that knows tensors only."""
    victim, path = tmp_path / "victim", tmp_path / "net.pt"
    with zipfile.ZipFile(archive[0]) as source, zipfile.ZipFile(path, "w") as changed:
        for name in source.namelist():
            harmful = pickle.dumps(Harmful(victim), protocol=2)
            changed.writestr(name, harmful if name.endswith("data.pkl") else source.read(name))
    with pytest.raises(ModelError, match="cannot export"):
        torchscript.to_onnx(path, SHAPE, tmp_path / "out.onnx")
    assert not victim.exists()
    assert not (tmp_path / "out.onnx").exists()


def test_code_that_opens_files_is_refused(archive: tuple[Path, Any], tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    with zipfile.ZipFile(archive[0]) as source, zipfile.ZipFile(path, "w") as changed:
        for name in source.namelist():
            changed.writestr(name, source.read(name))
        changed.writestr("net/code/__torch__/more.py", "torch.from_file('x', True, 8)")
    with pytest.raises(ModelError, match="opens files"):
        torchscript.to_onnx(path, SHAPE, tmp_path / "out.onnx")


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04 cut off", b"text"])
def test_what_is_no_archive_is_refused(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelError, match=r"archive|cannot be read"):
        torchscript.to_onnx(path, SHAPE, tmp_path / "out.onnx")


def test_a_shape_that_does_not_fit_is_told(archive: tuple[Path, Any], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot export") as caught:
        torchscript.to_onnx(archive[0], {"input": (1, 4, 8, 8)}, tmp_path / "out.onnx")
    assert "frontend.shape" in caught.value.fix
