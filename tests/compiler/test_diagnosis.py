"""The checks of the doctor, on machines that lack something."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

from compiler import diagnosis, host, reference, selftest


def test_packages_against_their_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    declared = ["numpy>=1", "numpy>=999", "no-such-package>=2", 'numpy>=999; extra == "big"']
    monkeypatch.setattr(metadata, "requires", lambda _: declared)
    found = [r for r in diagnosis.python_rows() if r.name != "python"]
    assert [r.state for r in found] == ["ok", "missing", "missing"]
    assert found[1].fix == "pip install 'numpy>=999'"
    assert found[2].found == "not installed (>=2)"
    assert all(r.required for r in found)


def test_extras_are_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    declared = ["numpy>=1", 'numpy>=1; extra == "train"', 'no-such-package; extra == "peers"']
    monkeypatch.setattr(metadata, "requires", lambda _: declared)
    found = {r.name: r for r in diagnosis.extra_rows()}
    assert found["train"].state == "ok"
    assert found["peers"].state == "missing"
    assert found["peers"].fix == "pip install -e '.[peers]'"
    assert not found["peers"].required


def test_a_processor_without_avx(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "cpu_features", lambda: frozenset({"sse2"}))
    found = {r.name: r for r in diagnosis.processor_rows()}["kernels"]
    assert found.state == "warn"
    assert found.found == "portable; for avx2 it lacks avx2, fma"


def test_a_container_with_half_a_processor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    texts = {
        "/sys/fs/cgroup/cpu.max": "50000 100000\n",
        "/sys/fs/cgroup/memory.max": f"{2**30}\n",
        "/proc/meminfo": "MemTotal: 33554432 kB\nMemFree: 1 kB\nMemAvailable: 16777216 kB\n",
    }
    monkeypatch.setattr(diagnosis, "_read", lambda path: texts.get(str(path), ""))
    quota = {r.name: r for r in diagnosis.processor_rows()}["CPU quota"]
    assert quota.state == "warn"
    assert quota.found.startswith("0.5 of ")
    (memory,) = diagnosis.memory_rows()
    assert memory.state == "warn"
    assert memory.found == "1.0 of 1.0 GiB free"


def test_the_store_is_counted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".store" / "ab").mkdir(parents=True)
    (tmp_path / ".store" / "ab" / "x").write_bytes(bytes(3 * 2**20))
    monkeypatch.setattr(diagnosis, "ARTIFACTS", tmp_path)
    found = {r.name: r for r in diagnosis.disk_rows()}
    assert found["store"].found == "3 MiB in 1 files"
    monkeypatch.setattr(diagnosis, "LARGE_STORE_BYTES", 2**20)
    assert {r.name: r for r in diagnosis.disk_rows()}["store"].state == "warn"


def test_the_self_test_compiles_and_compares(monkeypatch: pytest.MonkeyPatch) -> None:
    row = diagnosis.self_test()
    assert row.state == "ok", row
    assert host.detect().isa in row.found
    monkeypatch.setattr(reference, "run", lambda net, x: np.zeros(1))
    row = diagnosis.self_test()
    assert (row.state, row.required) == ("missing", True)
    assert "differs" in row.found


def test_the_self_test_has_something_to_compare() -> None:
    y = reference.run(selftest.network(), selftest.network_input())
    assert y.shape == (1, 3, *selftest.SIZE)
    assert y.std() > 0.01
