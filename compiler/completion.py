"""`python -m compiler.completion SHELL`: a completion script for the console script `vacc`.

The script is made by shtab from the parsers of all verbs, so it needs no Python at the prompt. What
a word is follows from its metavar: a SPEC is a YAML file, a BUNDLE a folder with a manifest.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Mapping

import shtab

from compiler import cli
from compiler.progress import Reporter
from compiler.verbs import VERBS

PROGRAM = "vacc"
SHELLS = ("bash", "zsh", "fish")
_YAML = ("*.yaml", "*.yml")
_BUNDLES_BASH = """
_vacc_bundles() {
  local manifest
  for manifest in "$1"*/manifest.sha256 "$1"*/*/manifest.sha256; do
    [ -e "$manifest" ] && echo "${manifest%/manifest.sha256}"
  done
  compgen -d -- "$1"
}
"""
_BUNDLES_FISH = """
function _vacc_bundles
  set -l word (commandline -ct)
  for manifest in $word*/manifest.sha256 $word*/*/manifest.sha256
    string replace -r '/manifest.sha256$' '' -- $manifest
  end
  __fish_complete_directories $word
end
"""
_Completer = Mapping[str, object]  # shtab's: what each shell runs
_BUNDLE: _Completer = {
    "bash": "_vacc_bundles",
    "zsh": "_files -/",
    "fish": "(_vacc_bundles)",
    "preamble": {"bash": _BUNDLES_BASH, "fish": _BUNDLES_FISH},
}
_WORDS: Mapping[str, _Completer] = {
    "SPEC": shtab.glob(*_YAML),
    "SPEC_OR_BUNDLE": shtab.glob(*_YAML),
    "BUNDLE": _BUNDLE,
    "BUNDLE_A": _BUNDLE,
    "BUNDLE_B": _BUNDLE,
    "DIR": shtab.DIRECTORY,
    "DIR_OR_ZIP": shtab.FILE,
    "FILE": shtab.FILE,
    "INPUT": shtab.FILE,
    "OUTPUT": shtab.FILE,
}


def script(shell: str) -> str:
    """The completion script of a shell of `SHELLS`."""
    root = argparse.ArgumentParser(prog=PROGRAM)
    verbs = root.add_subparsers(dest="verb")
    for verb in VERBS.values():
        own = importlib.import_module(verb.parser_module).parser()
        for action in own._actions:
            if str(action.metavar) in _WORDS:
                action.complete = _WORDS[str(action.metavar)]
        verbs.add_parser(verb.name, parents=[own], add_help=False, help=verb.summary)
    made = str(shtab.complete(root, shell))
    # Folders get their slash and names their quotes: shtab leaves that to the words themselves.
    return made.replace("complete -o bashdefault -F", "complete -o bashdefault -o filenames -F")


def parser() -> argparse.ArgumentParser:
    """Arguments of the command."""
    result = cli.command(
        "completion",
        "Print a completion script for the command `vacc` (pip install -e . puts it on the path;\n"
        "it is python -m compiler): verbs, options, specs and bundles.",
        examples=(
            "bash > ~/.local/share/bash-completion/completions/vacc",
            'zsh > "${fpath[1]}/_vacc"',
            "fish > ~/.config/fish/completions/vacc.fish",
        ),
    )
    result.add_argument("shell", choices=SHELLS)
    return result


def run(args: argparse.Namespace, reporter: Reporter) -> int:
    """Prints the script."""
    print(script(args.shell))
    return 0


if __name__ == "__main__":
    cli.main(parser(), run)
