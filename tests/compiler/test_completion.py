"""Completion scripts: generated for every shell, and asked in a real bash."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from compiler import completion
from compiler.verbs import VERBS

ASK = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(( $# - 1 )); COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}
_shtab_vacc
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("completion") / "vacc.bash"
    path.write_text(completion.script("bash"), encoding="utf-8")
    return path


def answers(script: Path, cwd: Path, *words: str) -> set[str]:
    if shutil.which("bash") is None:
        pytest.skip("needs bash")
    line = ["bash", "-c", ASK, "bash", str(script), "vacc", *words]
    done = subprocess.run(line, capture_output=True, text=True, cwd=cwd, check=True)
    assert done.stderr == ""
    return set(done.stdout.split())


def test_bash_knows_the_verbs(script: Path, tmp_path: Path) -> None:
    assert answers(script, tmp_path, "") >= set(VERBS)
    assert answers(script, tmp_path, "an") == {"analyze"}


def test_bash_knows_options_and_their_values(script: Path, tmp_path: Path) -> None:
    assert {"--set", "--until", "--json"} <= answers(script, tmp_path, "build", "x.yaml", "--")
    assert answers(script, tmp_path, "verify", "--protocol", "v") == {"vendor"}
    assert answers(script, tmp_path, "completion", "") == set(completion.SHELLS)


def test_bash_finds_specs_and_bundles(script: Path, tmp_path: Path) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "a.yaml").touch()
    (tmp_path / "configs" / "a.txt").touch()
    bundle = tmp_path / "artifacts" / "mine"
    bundle.mkdir(parents=True)
    (bundle / "manifest.sha256").touch()
    assert answers(script, tmp_path, "build", "configs/a") == {"configs/a.yaml"}
    assert answers(script, tmp_path, "bench", "art") == {"artifacts", "artifacts/mine"}
    assert answers(script, tmp_path, "diff", "artifacts/mine", "art") >= {"artifacts/mine"}
    assert "configs/a.yaml" in answers(script, tmp_path, "cost", "configs/")


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_every_shell_parses_its_script(shell: str, tmp_path: Path) -> None:
    text = completion.script(shell)
    assert all(verb in text for verb in VERBS)
    assert "python -m compiler" not in text.partition("\n")[0]
    if shutil.which(shell) is None:
        pytest.skip(f"needs {shell}")
    path = tmp_path / "script"
    path.write_text(text, encoding="utf-8")
    subprocess.run([shell, "-n", str(path)], check=True)
