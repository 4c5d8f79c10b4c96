"""What every command does: parse, run, and turn errors into one message and an exit status."""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console

from calib.errors import WorkbenchError
from compiler import svg
from compiler.progress import Reporter
from compiler.store import write_json, write_text

BAD_INPUT, INTERNAL, INTERRUPTED, READER_GONE = 2, 3, 130, 141
STDOUT = Path("-")
_BAR = 24  # characters of the longest bar of a table
_PIPED_WIDTH = 160  # characters, where there is no terminal whose width counts
_OWN = ("calib", "compiler", "models")


def command(
    verb: str, description: str, *, examples: Sequence[str], status: str = "0 ok, 2 bad input"
) -> argparse.ArgumentParser:
    """The parser of `python -m compiler.VERB`, its help as all commands have it.

    Args:
        examples: arguments of whole command lines, shown in the help.
        status: what each exit status means, but for 130.
    """
    lines = "\n".join(f"  python -m compiler.{verb} {line}".rstrip() for line in examples)
    return argparse.ArgumentParser(
        prog=f"python -m compiler.{verb}",
        description=description,
        epilog=f"examples:\n{lines}\n\nexit status: {status}, 130 interrupted",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def with_output(parser: argparse.ArgumentParser, writes: str = "") -> argparse.ArgumentParser:
    """The same parser with --quiet and, where `writes` says what is written, --json FILE."""
    if writes:
        parser.add_argument(
            "--json",
            type=Path,
            metavar="FILE",
            help=f"write {writes} as JSON (-: standard output)",
        )
    parser.add_argument("--quiet", action="store_true", help="errors and warnings only")
    return parser


def with_overrides(parser: argparse.ArgumentParser, meaning: str) -> None:
    """Adds --set KEY.PATH=VALUE, see `yaml_source.override`."""
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY.PATH=VALUE", help=meaning
    )


def with_ground_truth(parser: argparse.ArgumentParser) -> None:
    """Adds --hr DIR and --lr DIR, images instead of those of a spec's `verify:`."""
    parser.add_argument(
        "--hr", type=folder, metavar="DIR", help="ground truth images instead of the spec's"
    )
    parser.add_argument("--lr", metavar="DIR", help="their LR images; default: MATLAB bicubic")


def with_plot(parser: argparse.ArgumentParser) -> None:
    """Adds --plot FILE, see `write_plot`."""
    parser.add_argument(
        "--plot", type=Path, metavar="FILE", help="draw the figures as bars, an SVG picture"
    )


def count(text: str) -> int:
    """A positive whole number, as argparse takes it for a `type`."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is less than 1")
    return value


def folder(text: str) -> str:
    """A folder that exists, as argparse takes it for a `type`."""
    if not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"the folder {text} does not exist")
    return text


def number(text: str) -> float:
    """A finite number, as argparse takes it for a `type`."""
    value = float(text)
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text} is not finite")
    return value


def write_result(to: Path | None, value: Any) -> None:
    """Writes what `--json FILE` asks for: to a file, to standard output for -, nothing for None.

    Raises:
        StorageError: the file cannot be written.
    """
    if to == STDOUT:
        print(json.dumps(value, indent=2))
    elif to is not None:
        write_json(to, value)


def write_plot(to: Path | None, rows: Sequence[tuple[str, float]], title: str, unit: str) -> None:
    """Draws labelled values as bars where `--plot FILE` asks for it.

    Raises:
        StorageError: the file cannot be written.
    """
    if to is not None:
        write_text(to, svg.standalone(svg.bars(rows, title, unit)))


def bar(value: float, longest: float) -> str:
    """A bar for a table, as long as its value; none for what is negative."""
    return "█" * round(_BAR * max(value, 0) / longest) if longest > 0 else ""


def main(
    parser: argparse.ArgumentParser,
    run: Callable[[argparse.Namespace, Reporter], int],
    argv: Sequence[str] | None = None,
) -> NoReturn:
    """Runs a command and ends the process.

    Exit status: what `run` returns; 2 or 3 for an error of our family, 2 for a missing package;
    130 for Ctrl-C; 141 where the reader of a pipe went away, as for every program that SIGPIPE
    ends; 3 for a bug of ours, whose traceback is shown where VACC_DEBUG is set.

    Where the JSON goes to standard output, everything else goes to standard error.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # an ASCII terminal gets ?, not a traceback
    args = parser.parse_args(argv)
    aside = getattr(args, "json", None) == STDOUT
    reporter = Reporter(_console(stderr=aside), quiet=getattr(args, "quiet", False))
    errors = _console(stderr=True)
    try:
        status = run(args, reporter)
        sys.stdout.flush()
    except WorkbenchError as error:
        errors.print(f"[red]error[/red] \\[{type(error).code()}]", end=" ", highlight=False)
        errors.print(str(error), markup=False, highlight=False)
        status = error.exit_code
    except KeyboardInterrupt:
        errors.print("interrupted; what was finished is kept", highlight=False)
        status = INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        status = READER_GONE
    except ModuleNotFoundError as error:
        status = _missing_package(error, errors)
    except Exception as error:  # a bug: say so in one line, never as a traceback
        status = _bug(error, errors)
    sys.exit(status)


class _PipeConsole(Console):
    """A console that leaves it to `main` what becomes of a broken pipe."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def _console(*, stderr: bool) -> Console:
    """As wide as the terminal; piped, tables take the width that they need."""
    console = _PipeConsole(stderr=stderr, soft_wrap=True)
    if not console.file.isatty() and "COLUMNS" not in os.environ:
        console.width = _PIPED_WIDTH
    return console


def _missing_package(error: ModuleNotFoundError, errors: Console) -> int:
    package = (error.name or "").partition(".")[0]
    if package in _OWN:
        return _bug(error, errors)
    errors.print(f"[red]error[/red] the Python package {package} is not installed", highlight=False)
    errors.print("  fix: pip install -e .   (python -m compiler.doctor shows what is missing)")
    return BAD_INPUT


def _bug(error: Exception, errors: Console) -> int:
    errors.print(f"internal error: {type(error).__name__}: {error}", markup=False)
    if os.environ.get("VACC_DEBUG"):
        errors.print(traceback.format_exc(), markup=False, highlight=False)
    else:
        errors.print("please report it; VACC_DEBUG=1 shows where", highlight=False)
    return INTERNAL
