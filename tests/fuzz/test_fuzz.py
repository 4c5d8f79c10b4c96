"""The kept corpus, a short run on every subject, and the harness itself.

`make fuzz SUBJECT=spec N=1000000` runs longer, in guarded processes on all cores.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from calib.errors import ImageError
from tests import graphs
from tests.fuzz import harness, minimize, models
from tests.fuzz.guard import Violation, require_text

KEPT = sorted(path for path in harness.CORPUS.rglob("*") if path.is_file())
ROOT = Path(__file__).parents[2]


def short(cases: int) -> settings:
    """The same cases in every run."""
    return settings(
        max_examples=cases,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )


def require(name: str, data: bytes, folder: Path) -> None:
    here = Path.cwd()
    os.chdir(folder)  # paths in a case are relative, and must not lead into the project
    try:
        _, kind, detail = harness.attempt(harness.subject(name), data, folder)
    finally:
        os.chdir(here)
    assert not kind, f"{kind}\n{detail}"


@pytest.mark.parametrize("path", KEPT, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_what_broke_once_holds(path: Path, tmp_path: Path) -> None:
    require(path.parent.name, path.read_bytes(), tmp_path)


def test_the_corpus_is_there() -> None:
    assert {path.parent.name for path in KEPT} >= {"image", "model"}


@short(200)
@given(rng=st.randoms(use_true_random=False))
def test_specs(rng: random.Random, tmp_path_factory: pytest.TempPathFactory) -> None:
    require("spec", harness.subject("spec").make(rng), tmp_path_factory.getbasetemp())


@short(60)
@given(rng=st.randoms(use_true_random=False))
def test_networks(rng: random.Random, tmp_path_factory: pytest.TempPathFactory) -> None:
    require("model", harness.subject("model").make(rng), tmp_path_factory.getbasetemp())


@short(60)
@given(rng=st.randoms(use_true_random=False))
def test_images(rng: random.Random, tmp_path_factory: pytest.TempPathFactory) -> None:
    require("image", harness.subject("image").make(rng), tmp_path_factory.getbasetemp())


def test_two_networks_through_the_stages_of_a_build(tmp_path: Path) -> None:
    of = harness.subject("build")
    for index in (0, 1):
        require("build", harness.case(of, 7, index), tmp_path)


# --- the harness


def test_a_case_follows_from_its_number() -> None:
    for name in ("spec", "model", "image"):
        of = harness.subject(name)
        assert harness.case(of, 1, 5) == harness.case(of, 1, 5)
        assert len({harness.case(of, 1, index) for index in range(20)}) > 15


def test_a_case_does_not_depend_on_those_before_it() -> None:
    """What one case changes in place must not be shared with the next."""
    of = harness.subject("spec")
    alone = [harness.case(of, 2, index) for index in range(300)]
    for index in range(1000):
        harness.case(of, 3, index)
    assert [harness.case(of, 2, index) for index in range(300)] == alone


def test_minimizing_keeps_what_matters() -> None:
    data = bytes(range(200))
    assert minimize.minimize(data, lambda d: b"\x07" in d and b"\x64" in d) == b"\x07\x64"


def test_a_network_is_minimized_by_leaving_out_its_parts() -> None:
    """An operator that is looked for stays; what nothing looks for goes."""
    data = graphs.bicubic_plusplus().model().SerializeToString()

    def fails(smaller: bytes) -> bool:
        nodes = onnx.load_model_from_string(smaller).graph.node
        return any(node.op_type == "LeakyRelu" for node in nodes)

    graph = onnx.load_model_from_string(minimize.pruned(data, fails, models.shorter)).graph
    assert [node.op_type for node in graph.node] == ["LeakyRelu"]
    assert not graph.initializer
    assert not graph.node[0].attribute


def test_a_failure_is_judged_in_a_process_of_its_own(tmp_path: Path) -> None:
    with minimize.Judge("image") as judge:
        data = harness.case(harness.subject("image"), 0, 1)
        assert judge.kind(data) == ""
        first = judge.process.pid
        os.kill(first, signal.SIGKILL)
        assert judge.kind(data) == "crash -9"
        assert judge.kind(data) == ""
        assert judge.process.pid != first


def test_an_error_without_its_parts_breaks_the_property() -> None:
    assert require_text(ImageError("w", where="x", fix="f")) == "image"
    for bad in (ImageError("w", fix="f"), ImageError("w" * 9000, where="x", fix="f")):
        with pytest.raises(Violation):
            require_text(bad)
    with pytest.raises(Violation, match="cannot be shown"):
        require_text(ImageError("\ud800", where="x", fix="f"))


@pytest.mark.parametrize(
    ("code", "breaks"),
    [
        ("Path('inside').write_text('x')", False),
        ("Path('../outside').write_text('x')", True),
        ("Path('/tmp/vacc-outside').mkdir()", True),
        ("Path('link.bin').read_bytes()", True),
        ("__import__('os').system('true')", True),
        ("__import__('subprocess').run(['true'])", True),
        ("__import__('pickle').loads(b'cos\\nsystem\\n.')", True),
        ("bytearray(1 << 31)", True),
    ],
)
def test_the_guard(code: str, breaks: bool, tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from tests.fuzz import harness\n"
        "class Of: MEMORY_BYTES = 1 << 30\n"
        f"g = harness.prepare(Of, Path({str(tmp_path)!r}, 'one'))\n{code}\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True)
    assert bool(done.returncode) is breaks


def test_a_run_counts_every_case_and_finds_what_is_planted(tmp_path: Path) -> None:
    planted = tmp_path / "planteds.py"
    planted.write_text(
        "import os, time\n"
        "NAME, SUFFIX, MEMORY_BYTES, SECONDS = 'planted', '.x', 1 << 28, 0.5\n"
        "def make(rng): return bytes([rng.randrange(30)])\n"
        "def judge(data, folder):\n"
        "    match data[0]:\n"
        "        case 0: raise ZeroDivisionError\n"
        "        case 1: os.abort()\n"
        "        case 2:\n"
        "            while True: pass\n"
        "        case _: return 'fine'\n"
    )
    program = (
        "import sys, tests.fuzz; from tests.fuzz import harness\n"
        f"tests.fuzz.__path__.append({str(tmp_path)!r})\n"
        "t = harness.run('planted', 30, seed=8, jobs=2)\n"
        "assert t.cases == 30, t\n"
        "print(sorted(kind.split()[0] for kind in t.failures))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "['ZeroDivisionError', 'crash', 'hang']", done.stderr
