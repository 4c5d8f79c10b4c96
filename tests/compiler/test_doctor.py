"""The doctor: what is there is found, what is missing is named with its fix."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

from compiler import doctor, host, reference, selftest
from compiler.doctor import Row

ROOT = Path(__file__).parents[2]


def rows(*args: str, **environment: str) -> tuple[int, dict[str, dict]]:
    line = [sys.executable, "-m", "compiler.doctor", "--json", *args]
    done = subprocess.run(
        line, capture_output=True, text=True, cwd=ROOT, env=os.environ | environment, timeout=120
    )
    found = json.loads(done.stdout)
    assert found["ok"] == (done.returncode == 0)
    return done.returncode, {row["name"]: row for row in found["rows"]}


def test_this_machine_is_well() -> None:
    status, found = rows("--quick")
    assert status == 0
    assert found["numpy"]["found"].startswith(metadata.version("numpy"))
    assert found["kernels"]["found"].split(";")[0] == host.detect().isa
    assert "compile and run" not in found  # --quick
    assert all(row["fix"] for row in found.values() if row["state"] != "ok")


def test_no_compiler_is_missing_and_required() -> None:
    status, found = rows("--quick", PATH="/nowhere", CXX="", CC="")
    assert status == 2
    assert found["C++ compiler"]["state"] == "missing"
    assert found["make"]["state"] == "missing"
    assert not found["make"]["required"]


def test_a_compiler_that_is_named_but_absent() -> None:
    status, found = rows("--quick", CXX="no-such-compiler")
    assert status == 2
    assert found["C++ compiler"]["state"] == "missing"


def test_packages_against_their_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    declared = ["numpy>=1", "numpy>=999", "no-such-package>=2", 'numpy>=999; extra == "big"']
    monkeypatch.setattr(metadata, "requires", lambda _: declared)
    found = [r for r in doctor.python_rows() if r.name != "python"]
    assert [r.state for r in found] == ["ok", "missing", "missing"]
    assert found[1].fix == "pip install 'numpy>=999'"
    assert found[2].found == "not installed (>=2)"
    assert all(r.required for r in found)


def test_extras_are_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    declared = ["numpy>=1", 'numpy>=1; extra == "train"', 'no-such-package; extra == "peers"']
    monkeypatch.setattr(metadata, "requires", lambda _: declared)
    found = {r.name: r for r in doctor.extra_rows()}
    assert found["train"].state == "ok"
    assert found["peers"].state == "missing"
    assert found["peers"].fix == "pip install -e '.[peers]'"
    assert not found["peers"].required


def test_a_processor_without_avx(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "cpu_features", lambda: frozenset({"sse2"}))
    found = {r.name: r for r in doctor.processor_rows()}["kernels"]
    assert found.state == "warn"
    assert found.found == "portable; for avx2 it lacks avx2, fma"


def test_a_container_with_half_a_processor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    texts = {
        "/sys/fs/cgroup/cpu.max": "50000 100000\n",
        "/sys/fs/cgroup/memory.max": f"{2**30}\n",
        "/proc/meminfo": "MemTotal: 33554432 kB\nMemFree: 1 kB\nMemAvailable: 16777216 kB\n",
    }
    monkeypatch.setattr(doctor, "_read", lambda path: texts.get(str(path), ""))
    quota = {r.name: r for r in doctor.processor_rows()}["CPU quota"]
    assert quota.state == "warn"
    assert quota.found.startswith("0.5 of ")
    (memory,) = doctor.memory_rows()
    assert memory.state == "warn"
    assert memory.found == "1.0 of 1.0 GiB free"


def test_the_store_is_counted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".store" / "ab").mkdir(parents=True)
    (tmp_path / ".store" / "ab" / "x").write_bytes(bytes(3 * 2**20))
    monkeypatch.setattr(doctor, "ARTIFACTS", tmp_path)
    found = {r.name: r for r in doctor.disk_rows()}
    assert found["store"].found == "3 MiB in 1 files"
    monkeypatch.setattr(doctor, "LARGE_STORE_BYTES", 2**20)
    assert {r.name: r for r in doctor.disk_rows()}["store"].state == "warn"


def test_the_self_test_compiles_and_compares(monkeypatch: pytest.MonkeyPatch) -> None:
    row = doctor.self_test()
    assert row.state == "ok", row
    assert host.detect().isa in row.found
    monkeypatch.setattr(reference, "run", lambda net, x: np.zeros(1))
    row = doctor.self_test()
    assert (row.state, row.required) == ("missing", True)
    assert "differs" in row.found


def test_the_self_test_has_something_to_compare() -> None:
    y = reference.run(selftest.network(), selftest.network_input())
    assert y.shape == (1, 3, *selftest.SIZE)
    assert y.std() > 0.01


def test_square_brackets_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    from compiler.cli import _console
    from compiler.progress import Reporter

    row = Row("optional", "peers", "missing", "no", "pip install '.[peers]'")
    doctor.show([row], Reporter(_console(stderr=False)))
    assert ".[peers]" in capsys.readouterr().out
