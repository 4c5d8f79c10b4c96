"""What every command does: parse, run, and turn errors into one message and an exit status."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import NoReturn

from rich.console import Console

from calib.errors import WorkbenchError
from compiler.progress import Reporter

INTERNAL, INTERRUPTED = 3, 130


def main(
    parser: argparse.ArgumentParser,
    run: Callable[[argparse.Namespace, Reporter], int],
    argv: Sequence[str] | None = None,
) -> NoReturn:
    """Runs a command and ends the process.

    Exit status: what `run` returns; 2 or 3 for an error of our family; 130 for Ctrl-C; 3 for a bug
    of ours, whose traceback is shown where VACC_DEBUG is set.
    """
    args = parser.parse_args(argv)
    reporter = Reporter(Console(soft_wrap=True), quiet=getattr(args, "quiet", False))
    errors = Console(stderr=True, soft_wrap=True)
    try:
        status = run(args, reporter)
    except WorkbenchError as error:
        errors.print(f"[red]error[/red] \\[{type(error).code()}]", end=" ", highlight=False)
        errors.print(str(error), markup=False, highlight=False)
        status = error.exit_code
    except KeyboardInterrupt:
        errors.print("interrupted; finished stages are kept", highlight=False)
        status = INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 0
    except Exception as error:  # a bug: say so in one line, never as a traceback
        errors.print(f"internal error: {type(error).__name__}: {error}", markup=False)
        if os.environ.get("VACC_DEBUG"):
            errors.print(traceback.format_exc(), markup=False, highlight=False)
        else:
            errors.print("please report it; VACC_DEBUG=1 shows where", highlight=False)
        status = INTERNAL
    sys.exit(status)
