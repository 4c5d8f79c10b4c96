"""What all commands have in common: help, exit status, JSON, and how they behave in a pipe."""

from __future__ import annotations

import importlib
import json
import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from compiler import cli, pipeline
from compiler.verbs import GROUPS, VERBS
from tests.compiler.conftest import tiny_spec

ROOT = Path(__file__).parents[2]
PLAIN = {k: v for k, v in os.environ.items() if k not in ("FORCE_COLOR", "NO_COLOR", "COLUMNS")}


def invoke(capsys: pytest.CaptureFixture[str], verb: str, *args: object) -> tuple[int, str, str]:
    """Runs a verb in this process: its exit status, standard output and standard error."""
    module = importlib.import_module(VERBS[verb].parser_module)
    with pytest.raises(SystemExit) as ended:
        cli.main(module.parser(), module.run, list(map(str, args)))
    captured = capsys.readouterr()
    assert "\x1b" not in captured.out + captured.err
    assert "Traceback" not in captured.err
    assert isinstance(ended.value.code, int)
    return ended.value.code, captured.out, captured.err


def test_every_help_is_quick_and_has_an_example() -> None:
    program = (
        "import importlib, json, sys\n"
        "from compiler.verbs import VERBS\n"
        "parsers = {v.name: importlib.import_module(v.parser_module).parser()"
        " for v in VERBS.values()}\n"
        "heavy = [m for m in ('tvm', 'onnxruntime', 'torch', 'openvino') if m in sys.modules]\n"
        "print(json.dumps([heavy, {n: p.format_help() for n, p in parsers.items()}]))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env=PLAIN | {"COLUMNS": "100"},
    )
    heavy, helps = json.loads(done.stdout)
    assert heavy == []
    assert set(helps) == set(VERBS)
    for name, text in helps.items():
        assert f"usage: python -m compiler.{name} " in text
        assert re.search(rf"examples:\n  python -m compiler\.{name}\b", text), name
        assert "exit status: 0 " in text
        assert "--quiet" in text or name == "completion"
        undescribed = re.findall(r"^  (--?[\w-]+(?: [A-Z_]+)?)$(?!\n {10,})", text, re.MULTILINE)
        assert undescribed == [], f"{name}: {undescribed}"


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_help_and_bad_options(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = invoke(capsys, verb, "--help")
    assert status == 0
    assert "examples:" in out
    status, out, err = invoke(capsys, verb, "--no-such-option")
    assert (status, out) == (2, "")
    assert "usage:" in err


BAD = {
    "build": ["absent.yaml"],
    "check": ["absent.yaml"],
    "sweep": ["absent.yaml", "--grid", "calibrate_mode=max"],
    "data": ["--from", "absent"],
    "verify": ["absent"],
    "bench": ["absent"],
    "analyze": ["absent"],
    "diff": ["absent", "absent"],
    "fid": ["absent", "--inception", "absent.onnx"],
    "table": ["--out", "/proc/nowhere"],
    "cost": ["absent.yaml"],
    "report": ["absent"],
    "run": ["absent", "absent.png", "out.png"],
    "publish": ["absent"],
    "pull": ["absent.tar"],
    "vendor": ["absent", "out"],
    "completion": ["tcsh"],
    "ablation": ["absent.yaml", "--hr", "absent"],
}
NUMBERS = [("bench", "--runs"), ("bench", "--threads"), ("analyze", "--images"), ("fid", "--patch")]


def test_every_verb_can_be_given_bad_input() -> None:
    assert set(BAD) == set(VERBS) - {"doctor"}


@pytest.mark.parametrize("verb", sorted(BAD))
def test_bad_input_is_status_2(
    verb: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    status, _, err = invoke(capsys, verb, *BAD[verb])
    assert status == 2
    assert "error" in err or verb == "check"  # whose verdicts are its output
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(("verb", "option"), NUMBERS)
def test_counts_are_positive(verb: str, option: str, capsys: pytest.CaptureFixture[str]) -> None:
    more = ["--inception", "x"] if verb == "fid" else []
    for value in ("0", "-1", "x"):
        assert invoke(capsys, verb, "bundle", *more, option, value)[0] == 2


@pytest.fixture(scope="module")
def lines(tiny_folder: Path, tiny_build: pipeline.Result) -> dict[str, list[object]]:
    """Command lines that end well, on the tiny build, with results worth a JSON."""
    spec, bundle = tiny_spec(tiny_folder), tiny_build.bundle
    image = tiny_folder / "calibration" / "0.png"
    return {
        "build": [spec, "--out", tiny_folder / "artifacts", "--until", "calibrate"],
        "check": [spec],
        "sweep": [spec, "--grid", "calibrate_mode=max", "--images", 1],
        "verify": [bundle],
        "bench": [bundle, "--runs", 1],
        "analyze": [bundle, "--images", 1],
        "diff": [bundle, bundle],
        "cost": [bundle],
        "run": [bundle, image, tiny_folder / "up.png"],
        "doctor": ["--quick"],
    }


WITH_JSON = ("build", "check", "sweep", "verify", "bench", "analyze", "diff", "cost", "run")


@pytest.mark.parametrize("verb", [*WITH_JSON, "doctor"])
def test_json_and_quiet(
    verb: str,
    lines: dict[str, list[object]],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    status, out, err = invoke(capsys, verb, *lines[verb], "--json", "-")
    assert status == 0, err
    found = json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert found
    status, out, _ = invoke(capsys, verb, *lines[verb], "--quiet", "--json", tmp_path / "a.json")
    assert status == 0
    assert [line for line in out.splitlines() if not line.startswith("warning:")] == []
    written = json.loads((tmp_path / "a.json").read_text())
    assert type(written) is type(found)


def test_the_umbrella_is_the_same_command() -> None:
    def run(*args: str) -> tuple[int, str, str]:
        line = [sys.executable, "-W", "error", "-m", *args]
        done = subprocess.run(line, capture_output=True, text=True, cwd=ROOT, env=PLAIN)
        return done.returncode, done.stdout, done.stderr

    for verb, args in (("check", ["absent.yaml"]), ("cost", ["--help"])):
        assert run("compiler", verb, *args) == run(f"compiler.{verb}", *args)
    status, out, _ = run("compiler", "--help")
    assert status == 0
    assert all(f"  {verb} " in out for verb in VERBS)
    assert all(f"{group}:" in out for group in GROUPS)
    status, out, err = run("compiler", "verfy")
    assert (status, out) == (2, "")
    assert "did you mean verify" in err
    assert run("compiler")[0] == 2


def script(body: str) -> list[str]:
    """A command of our own, whose run(args, reporter) is `body`."""
    program = (
        "import time\nfrom compiler import cli\n"
        "def run(args, reporter):\n"
        f"    {body}\n"
        "    return 0\n"
        "cli.main(cli.with_output(cli.command('x', 'x', examples=())), run, [])"
    )
    return [sys.executable, "-c", program]


def test_a_reader_that_goes_away() -> None:
    body = "[reporter.stage(str(i) + 'x' * 1000) for i in range(1000)]"
    with subprocess.Popen(
        script(body), stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


def test_control_c() -> None:
    body = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "  # in a job, too
        "print('ready', flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        script(body), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        errors = process.stderr.read()
    assert process.returncode == 130
    assert errors.startswith("interrupted")
    assert "Traceback" not in errors


def test_an_ascii_terminal_and_a_missing_package() -> None:
    environment = PLAIN | {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    done = subprocess.run(
        script("reporter.stage('é █')"), capture_output=True, cwd=ROOT, env=environment
    )
    assert (done.returncode, done.stderr) == (0, b"")
    done = subprocess.run(script("import no_such_package"), capture_output=True, cwd=ROOT)
    assert done.returncode == 2
    assert b"no_such_package is not installed" in done.stderr


def on_a_terminal(body: str, **environment: str) -> str:
    """What the command writes to a terminal of 100 columns."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        script(body),
        stdout=theirs,
        stderr=theirs,
        cwd=ROOT,
        env=PLAIN | {"TERM": "xterm-256color", "COLUMNS": "100"} | environment,
    )
    os.close(theirs)
    written = b""
    while True:
        try:
            block = os.read(ours, 1 << 16)
        except OSError:  # how Linux says that the other end is closed
            break
        if not block:
            break
        written += block
    os.close(ours)
    assert process.wait() == 0
    return written.decode()


LOOP = "[time.sleep(0.4) for _ in reporter.track(range(5), 'frames')]"


def test_progress_on_a_terminal_tells_rate_and_time_left() -> None:
    text = on_a_terminal(LOOP)
    assert "frames" in text
    assert re.search(r"\d\.\d/s", text)
    assert re.search(r"[1-4]/5", text)
    assert len(re.findall(r"0:00:0\d", text)) >= 2  # used and left
    assert "frames" not in on_a_terminal(LOOP, TERM="dumb")


def test_colours_are_off_where_asked() -> None:
    body = "reporter.warn('w [x]'); reporter.stage('passed', 'bold green')"
    colour = re.compile(r"\x1b\[(?:\d+;)*3\d")
    assert colour.search(on_a_terminal(body))
    plain = on_a_terminal(body, NO_COLOR="1")
    assert not colour.search(plain)
    assert "w [x]" in plain


def test_forced_colours_draw_no_bars_into_a_pipe() -> None:
    done = subprocess.run(
        script(LOOP.replace("0.4", "0")),
        capture_output=True,
        cwd=ROOT,
        env=PLAIN | {"FORCE_COLOR": "1", "TERM": "xterm"},
    )
    assert done.stdout == b""


def test_piped_tables_are_not_cut() -> None:
    body = (
        "from rich.table import Table; t = Table(*('c' * 20 for _ in range(5))); "
        "t.add_row(*(str(i) * 20 for i in range(5))); reporter.table(t)"
    )
    done = subprocess.run(script(body), capture_output=True, text=True, cwd=ROOT, env=PLAIN)
    assert all(str(i) * 20 in done.stdout for i in range(5))
    assert "\x1b" not in done.stdout


def test_rates_below_one_a_second() -> None:
    from rich.progress import Progress

    from compiler.progress import _RateColumn

    progress = Progress()
    progress.add_task("x", total=10)
    (task,) = progress.tasks
    assert str(_RateColumn().render(task)) == ""
    for speed, words in ((0.25, "4.0 s each"), (12.34, "12.3/s")):
        task.finished_speed = speed
        assert str(_RateColumn().render(task)).strip() == words
    assert np.isfinite(task.finished_speed)
