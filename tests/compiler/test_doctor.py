"""The doctor: what is there is found, what is missing is named with its fix."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from compiler import doctor, host
from compiler.diagnosis import Row

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


def test_square_brackets_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    from compiler.cli import _console
    from compiler.progress import Reporter

    row = Row("optional", "peers", "missing", "no", "pip install '.[peers]'")
    doctor.show([row], Reporter(_console(stderr=False)))
    assert ".[peers]" in capsys.readouterr().out
