"""compiler.check on specs whose network is there: what it says of its operators."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest

from compiler import check
from tests.compiler.conftest import tiny_spec
from tests.graphs import Graph, bicubic_plusplus

YUNET = Path(__file__).parents[2].parent / "shared" / "models" / "yunet_n_320_320.onnx"


def spec_of(g: Graph, folder: Path, *outputs: str, **changes: object) -> Path:
    path = folder / "net.onnx"
    path.write_bytes(g.model(*outputs).SerializeToString())
    return tiny_spec(folder, frontend__checkpoint=str(path), **changes)


def test_a_network_of_known_operators_is_buildable(tmp_path: Path) -> None:
    verdict = check.judge(tiny_spec(tmp_path))
    assert (verdict.verdict, verdict.reasons, verdict.missing) == ("buildable", (), ())


def test_what_simplification_takes_away_is_no_reason(tmp_path: Path) -> None:
    g = bicubic_plusplus()
    g.node("Identity")
    assert check.judge(spec_of(g, tmp_path)).verdict == "buildable"


def test_an_unsupported_operator_is_named_with_its_node_and_the_line(tmp_path: Path) -> None:
    g = bicubic_plusplus()
    g.node("Sigmoid", name="gate")
    path = spec_of(g, tmp_path)
    (reason,) = check.judge(path).reasons
    assert (reason.code, reason.key) == ("unsupported-operator", "frontend.checkpoint")
    assert "node gate (Sigmoid)" in reason.message
    assert "checkpoint:" in path.read_text().splitlines()[(reason.line or 0) - 1]
    assert "supported are" in reason.fix


def test_several_outputs_do_not_hide_the_operators(tmp_path: Path) -> None:
    g = bicubic_plusplus()
    first = g.last
    g.node("Tanh", name="squash")
    (reason,) = check.judge(spec_of(g, tmp_path, first, g.last)).reasons
    assert "node squash (Tanh)" in reason.message


@pytest.mark.skipif(not YUNET.exists(), reason="the shared models are not there")
def test_a_detector_is_refused_by_operator_not_by_output(tmp_path: Path) -> None:
    path = tiny_spec(
        tmp_path, frontend__checkpoint=str(YUNET), frontend__shape={"input": [1, 3, 320, 320]}
    )
    (reason,) = check.judge(path).reasons
    assert "Sigmoid" in reason.message
    assert "12 outputs" not in reason.message


def test_other_reasons_stand_beside_it_in_file_order(tmp_path: Path) -> None:
    g = bicubic_plusplus()
    g.node("Sigmoid")
    path = spec_of(g, tmp_path, verify__gate={"psnr_drop": 1})
    codes = [reason.code for reason in check.judge(path).reasons]
    assert codes == ["unsupported-operator", "unknown-key"]


def test_a_damaged_network_is_a_reason_and_a_missing_one_a_note(tmp_path: Path) -> None:
    path = tiny_spec(tmp_path)
    network = tmp_path / "tiny.onnx"
    network.write_bytes(network.read_bytes()[:300])
    assert [reason.code for reason in check.judge(path).reasons] == ["model"]
    network.unlink()
    verdict = check.judge(path)
    assert (verdict.verdict, verdict.missing) == ("buildable", (str(network),))


def test_a_shape_that_the_network_does_not_take(tmp_path: Path) -> None:
    (reason,) = check.judge(tiny_spec(tmp_path, frontend__shape={"x": [1, 3, 8, 8]})).reasons
    assert reason.code == "shape"


@pytest.mark.parametrize(
    ("kind", "name", "words"),
    [
        ("onnx", "net.onnx", "is not a network file"),
        ("pytorch", "net.pt", "the checkpoint is no file"),
    ],
)
def test_a_checkpoint_that_is_no_file_is_a_reason(
    kind: str, name: str, words: str, tmp_path: Path
) -> None:
    """A folder, and a pipe, of which nobody ever reads."""
    changes = {"frontend__type": kind, "frontend__checkpoint": str(tmp_path / name)}
    path = tiny_spec(tmp_path, **changes)
    for make, remove in ((Path.mkdir, Path.rmdir), (os.mkfifo, Path.unlink)):
        make(tmp_path / name)
        (reason,) = check.judge(path).reasons
        assert (reason.code, reason.key) == ("model", "frontend.checkpoint")
        assert words in reason.message
        remove(tmp_path / name)


def test_a_pickled_checkpoint_is_a_reason_whether_pytorch_is_there_or_not(tmp_path: Path) -> None:
    (tmp_path / "net.pth").write_bytes(pickle.dumps({"weight": [1.0]}))
    changes = {"frontend__type": "pytorch", "frontend__checkpoint": str(tmp_path / "net.pth")}
    (reason,) = check.judge(tiny_spec(tmp_path, **changes)).reasons
    assert reason.key == "frontend.checkpoint"
    assert "torch.jit.trace" in reason.fix


def test_a_network_too_large_to_be_built_is_a_reason(tmp_path: Path) -> None:
    path = tiny_spec(tmp_path)
    os.truncate(tmp_path / "tiny.onnx", (1 << 30) + 1)
    (reason,) = check.judge(path).reasons
    assert "not a network file (1073741825 bytes)" in reason.message


def test_a_large_network_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    g = bicubic_plusplus()
    g.node("Sigmoid")
    monkeypatch.setattr(check, "_NETWORK_BYTES", 100)
    assert check.judge(spec_of(g, tmp_path)).verdict == "buildable"


def test_a_set_that_the_samples_stand_in_for_is_noted(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    spec = tiny_spec(tmp_path, dataset__path=str(folder), dataset__fallback="samples")
    note = f"dataset.path: {folder} is absent, sample photographs stand in"
    assert note in check.judge(spec).notes
    folder.mkdir()
    assert note not in check.judge(spec).notes
