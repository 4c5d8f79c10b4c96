"""`python -m compiler VERB ARGS`: the same as `python -m compiler.VERB ARGS`."""

from __future__ import annotations

import signal

if __name__ == "__main__":  # Ctrl-C before `main` ends the process without a word, not a traceback
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import runpy
import sys

from compiler.verbs import VERBS, overview, unknown

BAD_INPUT, INTERRUPTED = 2, 130


def main() -> int:
    """Runs one verb; also the console script `vacc`."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(overview())
        return 0 if arguments else BAD_INPUT
    name = arguments[0]
    if name not in VERBS:
        print(unknown(name), file=sys.stderr)
        return BAD_INPUT
    del sys.argv[1]
    try:
        runpy.run_module(f"compiler.{name}", run_name="__main__", alter_sys=True)
    except KeyboardInterrupt:  # while modules are imported; `cli.main` answers for what follows
        return INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main())
