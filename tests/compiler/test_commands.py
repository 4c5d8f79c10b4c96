"""The command lines as a user runs them: exit status, messages, files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from calib.images import read_image
from compiler import pipeline
from tests.compiler.conftest import tiny_spec

ROOT = Path(__file__).parents[2]


def command(module: str, *args: object, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-W", "error", "-m", f"compiler.{module}", *map(str, args)]
    done = subprocess.run(line, capture_output=True, text=True, cwd=cwd, timeout=300)
    assert "Traceback" not in done.stderr
    return done


def test_fp16_is_refused_before_any_work(tmp_path: Path) -> None:
    spec = tiny_spec(tmp_path, backend__dtype="fp16")
    done = command("build", spec, "--out", tmp_path / "out")
    assert done.returncode == 2
    assert "builds int8 only" in done.stderr
    assert f"{spec}:" in done.stderr
    assert "DepthToSpace (PixelShuffle)" in done.stderr
    assert not (tmp_path / "out").exists()


def test_build_then_verify_then_run(tmp_path: Path) -> None:
    spec = tiny_spec(tmp_path)
    done = command("build", spec)
    assert done.returncode == 0, done.stderr
    assert "bit-exact" in done.stdout
    assert "gate passed" in done.stdout
    report = tmp_path / "report.json"
    done = command("verify", "--json", report, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(report.read_text())["bit_exact"]["equal"]
    source, target = tmp_path / "calibration" / "0.png", tmp_path / "up.png"
    done = command("run", tmp_path / "artifacts" / "tiny", source, target)
    assert done.returncode == 0, done.stderr
    assert read_image(target).shape == (80, 112, 3)
    done = command("run", tmp_path / "artifacts" / "tiny", source.parent, tmp_path / "all")
    assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in (tmp_path / "all").iterdir()) == ["0.png", "1.png", "2.png"]


def test_a_missed_gate_is_status_1(tiny_folder: Path, tmp_path: Path) -> None:
    spec = tiny_spec(tiny_folder, verify__gate={"psnr_drop_db": -50.0})
    done = command("build", spec, "--out", tmp_path, "--quiet")
    assert done.returncode == 1
    assert "gate missed" in done.stdout


@pytest.mark.parametrize(
    ("module", "args"),
    [
        ("build", ["absent.yaml"]),
        ("build", ["configs/bpp3x_int8.yaml", "--set", "nonsense"]),
        ("verify", ["absent"]),
        ("verify", ["--lr", "x"]),
        ("run", ["absent", "absent.png", "out.png"]),
        ("check", ["absent.yaml"]),
    ],
)
def test_bad_arguments_are_status_2(module: str, args: list[str]) -> None:
    assert command(module, *args).returncode == 2


def test_an_output_directory_that_is_a_file(tiny_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = command("build", tiny_spec(tiny_folder), "--out", tmp_path / "file")
    assert done.returncode == 2
    assert "cannot be written" in done.stderr


def test_check_judges_every_spec(tmp_path: Path) -> None:
    good = tiny_spec(tmp_path)
    bad = tiny_spec(tmp_path, backend__quantize={"alibrate_mode": "max"})
    refused = tiny_spec(tmp_path, backend__dtype="fp16")
    report = tmp_path / "verdicts.json"
    done = command("check", good, bad, refused, "--json", report)
    assert done.returncode == 2
    verdicts = json.loads(report.read_text())
    assert [v["verdict"] for v in verdicts] == ["buildable", "refused", "refused"]
    assert "calibrate_mode" in verdicts[1]["reasons"][0]["message"]
    assert set(verdicts[0]) == {"spec", "verdict", "reasons", "missing", "no_effect"}
    assert set(verdicts[1]["reasons"][0]) == {"code", "line", "key", "message", "fix"}
    assert command("check", good).returncode == 0


def test_wrong_scale_is_refused(tiny_build: pipeline.Result) -> None:
    done = command("verify", tiny_build.bundle, "--scale", 3)
    assert done.returncode == 2
    assert "scales by 2" in done.stderr


@pytest.mark.parametrize("module", ["verify", "analyze"])
def test_lr_images_without_their_ground_truth(module: str, tiny_build: pipeline.Result) -> None:
    done = command(module, tiny_build.bundle, "--lr", "x")
    assert done.returncode == 2
    assert "--lr needs --hr" in done.stderr


def test_a_frame_that_is_no_image(tiny_build: pipeline.Result, tmp_path: Path) -> None:
    text = tmp_path / "a.png"
    text.write_text("no image")
    done = command("run", tiny_build.bundle, text, tmp_path / "b.png")
    assert done.returncode == 2
    assert "a.png" in done.stderr
    assert not (tmp_path / "b.png").exists()
