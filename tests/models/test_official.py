import hashlib
import pickle
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from compiler.errors import FetchError, HostError, ModelError
from models import official
from models.bicubic_plusplus import kernel_shapes
from models.official import SHA256, URL, convert, main, read_state
from tests.file_server import serving

PUBLISHED = Path(__file__).parents[2].parent / "shared" / "models" / "bicubic_pp_x3.pth"


def saved(path: Path, content: object) -> Path:
    torch = pytest.importorskip("torch", reason="the extra `train` is not installed")
    torch.save(content, path)
    return path


def kernels(rate: int = 3) -> dict[str, object]:
    torch = pytest.importorskip("torch", reason="the extra `train` is not installed")
    return {name: torch.rand(shape) for name, shape in kernel_shapes(rate).items()}


def test_converts_the_published_checkpoint(tmp_path: Path) -> None:
    if not PUBLISHED.is_file():
        pytest.skip("the published checkpoint beside the repository is absent")
    torch = pytest.importorskip("torch", reason="the extra `train` is not installed")
    out = tmp_path / "official" / "3x.onnx"
    assert main(["--from", str(PUBLISHED), "--out", str(out)]) == 0
    state = torch.load(PUBLISHED, weights_only=True)
    graph = onnx.load(out).graph
    assert "CC BY-NC-SA 4.0" in graph.doc_string
    for tensor in graph.initializer:
        assert np.array_equal(numpy_helper.to_array(tensor), state[tensor.name].numpy())
    again = tmp_path / "again.onnx"
    convert(PUBLISHED, again)
    assert again.read_bytes() == out.read_bytes()


def test_fetches_the_published_checkpoint_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not PUBLISHED.is_file():
        pytest.skip("the published checkpoint beside the repository is absent")
    pytest.importorskip("torch", reason="the extra `train` is not installed")
    monkeypatch.setenv("no_proxy", "*")
    out = tmp_path / "official" / "3x.onnx"
    with serving(PUBLISHED.parent) as address:
        monkeypatch.setattr(official, "URL", f"{address}{PUBLISHED.name}")
        assert main(["--out", str(out)]) == 0
    assert main(["--out", str(out)]) == 0  # from the kept checkpoint: the server is gone
    assert sorted(p.name for p in out.parent.iterdir()) == ["3x.onnx", PUBLISHED.name]


def test_refuses_a_download_that_is_not_the_pinned_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("no_proxy", "*")
    (tmp_path / "server").mkdir()
    (tmp_path / "server" / PUBLISHED.name).write_bytes(b"something else")
    with serving(tmp_path / "server") as address:
        for name, told in [(PUBLISHED.name, SHA256), ("none.pth", "HTTP 404")]:
            monkeypatch.setattr(official, "URL", address + name)
            assert main(["--out", str(tmp_path / "official" / "3x.onnx")]) == 2
            message = capsys.readouterr().err
            assert told in message
            assert "FROM=PATH" in message
    assert list((tmp_path / "official").iterdir()) == []


def test_the_address_pins_a_commit() -> None:
    assert "/52084c8d016f5e8a5cd62c050e47536a0d022177/" in URL


def test_refuses_another_digest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = tmp_path / "wrong.pth"
    wrong.write_bytes(b"truncated")
    assert main(["--from", str(wrong), "--out", str(tmp_path / "m.onnx")]) == 2
    message = capsys.readouterr().err
    assert hashlib.sha256(b"truncated").hexdigest() in message
    assert SHA256 in message
    assert list(tmp_path.iterdir()) == [wrong]


def test_refuses_a_missing_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--from", str(tmp_path / "none.pth"), "--out", str(tmp_path / "m.onnx")]) == 2
    assert "none.pth" in capsys.readouterr().err
    with pytest.raises(FetchError, match="cannot read"):
        convert(tmp_path, tmp_path / "m.onnx")


def test_converts_whatever_has_the_pinned_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = saved(tmp_path / "c.pth", kernels())
    monkeypatch.setattr(official, "SHA256", hashlib.sha256(checkpoint.read_bytes()).hexdigest())
    convert(checkpoint, tmp_path / "m.onnx")
    assert len(onnx.load(tmp_path / "m.onnx").graph.node) == 9


@pytest.mark.parametrize("content", [b"", b"no pickle", pickle.dumps({"a": 1}), b"PK\x03\x04zip"])
def test_refuses_what_is_no_checkpoint(tmp_path: Path, content: bytes) -> None:
    pytest.importorskip("torch", reason="the extra `train` is not installed")
    path = tmp_path / "c.pth"
    path.write_bytes(content)
    with pytest.raises(ModelError, match="not a PyTorch checkpoint"):
        read_state(path, 3)


def test_runs_no_code_of_the_file(tmp_path: Path) -> None:
    trap = tmp_path / "trap"

    class Trap:
        def __reduce__(self) -> tuple[object, tuple[Path]]:
            return Path.touch, (trap,)

    path = saved(tmp_path / "c.pth", Trap())
    with pytest.raises(ModelError, match="not a PyTorch checkpoint"):
        read_state(path, 3)
    assert not trap.exists()


def test_refuses_other_networks(tmp_path: Path) -> None:
    missing = kernels()
    del missing["conv2.weight"]
    with pytest.raises(ModelError, match="expected the tensors"):
        read_state(saved(tmp_path / "missing.pth", missing), 3)
    with pytest.raises(ModelError, match=r"conv_out.weight is float32 \[48, 32, 3, 3\]"):
        read_state(saved(tmp_path / "2x.pth", kernels(2)), 3)
    with pytest.raises(ModelError, match="not a PyTorch checkpoint"):
        read_state(saved(tmp_path / "list.pth", [1, 2]), 3)


def test_says_that_torch_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(HostError, match="not installed") as refusal:
        read_state(tmp_path / "c.pth", 3)
    assert "[train]" in refusal.value.fix
