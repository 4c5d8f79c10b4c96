"""The workflow file: valid, and every step of it is a Make target that runs anywhere."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
WORKFLOW = ROOT / ".github" / "workflows" / "ci.yml"
TEXT = WORKFLOW.read_text(encoding="utf-8")
JOBS: dict[str, dict[str, Any]] = yaml.safe_load(TEXT)["jobs"]
STEPS = [step for job in JOBS.values() for step in job["steps"]]


def make(*args: str) -> subprocess.CompletedProcess[str]:
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    return subprocess.run(["make", *args], capture_output=True, text=True, cwd=ROOT)


def test_the_schema_of_workflows() -> None:
    pytest.importorskip("check_jsonschema", reason="check-jsonschema is not installed")
    line = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows"]
    done = subprocess.run([*line, str(WORKFLOW)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def targets() -> list[str]:
    return sorted(
        {t for step in STEPS for t in re.findall(r"\bmake ([\w-]+)", step.get("run", ""))}
    )


def test_the_jobs_run_every_ci_target() -> None:
    named = re.findall(r"^(ci-\w+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    assert targets() == sorted(named) != []


@pytest.mark.parametrize("target", targets())
def test_each_target_exists(target: str) -> None:
    done = make("--dry-run", "--always-make", target, "REGISTRY=r", "TAG=v1", "KEY=k", "BASE=HEAD")
    assert done.returncode == 0, done.stderr


def test_the_scripts_of_the_targets_exist() -> None:
    scripts = re.findall(r"\.ci/\w+", (ROOT / "Makefile").read_text("utf-8"))
    assert {".ci/run", ".ci/diff", ".ci/publish"} <= set(scripts)
    for script in scripts:
        assert (ROOT / script).is_file()


def test_jobs_are_bounded_and_actions_pinned() -> None:
    assert set(JOBS) == {"check", "build", "diff", "publish"}
    for job in JOBS.values():
        assert 0 < job["timeout-minutes"] <= 60
    for step in STEPS:
        assert re.fullmatch(r"actions/[\w-]+@v\d+", step.get("uses", "actions/checkout@v1"))


def test_only_a_tag_is_published_after_everything_else_passed() -> None:
    publish = JOBS["publish"]
    assert "startsWith(github.ref, 'refs/tags/v')" in publish["if"]
    assert set(publish["needs"]) == {"check", "build"}
    assert "secrets." not in str({k: v for k, v in JOBS.items() if k != "publish"})
    # Expressions in shell text would be executed as they come: they go through env.
    assert not [step for step in STEPS if "${{" in step.get("run", "")]


def test_publish_names_what_is_missing() -> None:
    done = subprocess.run(
        ["sh", ".ci/publish", "", "", ""], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 2
    assert "REGISTRY=" in done.stderr
    done = make("pull", "--dry-run")
    assert done.returncode == 2
    assert "REF=" in done.stderr
