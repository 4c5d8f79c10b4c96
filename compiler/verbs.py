"""The verbs of `python -m compiler`. Imports nothing heavy: it is read at every command line."""

from __future__ import annotations

import difflib
from dataclasses import dataclass


@dataclass(frozen=True)
class Verb:
    """One command.

    Attributes:
        module: of its `parser()`; `python -m compiler.NAME` runs it.
    """

    name: str
    summary: str
    module: str = ""

    @property
    def parser_module(self) -> str:
        """The module that has the command's `parser()`."""
        return self.module or f"compiler.{self.name}"


GROUPS: dict[str, tuple[Verb, ...]] = {
    "build": (
        Verb("build", "a spec to a verified bundle"),
        Verb("check", "judge specs, explain errors; builds nothing"),
        Verb("sweep", "many variants of a spec, ranked by accuracy"),
        Verb("data", "fetch DIV2K's validation images", "compiler.div2k"),
    ),
    "judge": (
        Verb("verify", "accuracy, bit-exactness and digests of bundles"),
        Verb("bench", "milliseconds of the library, its peers, its layers"),
        Verb("analyze", "what each part of the quantization costs in dB"),
        Verb("ablation", "what each step of a recipe is worth, beside other quantizers"),
        Verb("diff", "what changed between two bundles", "compiler.diff.__main__"),
        Verb("fid", "Fréchet inception distance"),
        Verb("table", "the published performance table, ours beside it"),
        Verb("cost", "time and traffic on the accelerator", "compiler.cost.__main__"),
        Verb(
            "report",
            "write a bundle's report again, with new latencies",
            "compiler.report.__main__",
        ),
    ),
    "use": (
        Verb("run", "upscale an image, a folder, or a video"),
        Verb("publish", "pack, sign and push a bundle", "compiler.publish.command"),
        Verb("pull", "fetch a published bundle and check it"),
        Verb("vendor", "hand a bundle to the vendor's compiler"),
    ),
    "set-up": (
        Verb("doctor", "what this machine has, and what is missing"),
        Verb("completion", "completion for bash, zsh or fish"),
    ),
}
VERBS = {verb.name: verb for group in GROUPS.values() for verb in group}


def overview() -> str:
    """The help of `python -m compiler`."""
    lines = ["usage: python -m compiler VERB ...", ""]
    for title, group in GROUPS.items():
        lines += [f"{title}:", *(f"  {verb.name:<11} {verb.summary}" for verb in group), ""]
    return "\n".join(
        [
            *lines,
            "python -m compiler VERB --help tells the rest; python -m compiler.VERB is the same.",
            "VACC_DEBUG=1 shows where an internal error comes from.",
        ]
    )


def unknown(name: str) -> str:
    """What to say about a verb that is none, with those that are spelt like it."""
    close = difflib.get_close_matches(name, VERBS, n=3, cutoff=0.6)
    hint = f"did you mean {' or '.join(close)}?" if close else f"use one of {', '.join(VERBS)}"
    return f"error there is no verb {name!r}\n  fix: {hint}"
