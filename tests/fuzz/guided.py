"""`python -m tests.fuzz.guided SUBJECT [libFuzzer options]`: guided by coverage, with Atheris.

Needs the extra `fuzz`. Runs until it is stopped (or -runs=N, -max_total_time=SECONDS).
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["calib", "compiler", "yaml", "PIL"]):
    from tests.fuzz import harness


def main() -> None:
    """Mutates by libFuzzer, and every other time by the subject's own knowledge of its form."""
    name, *options = sys.argv[1:]
    with atheris.instrument_imports(include=["calib", "compiler", "yaml", "PIL"]):
        of = harness.subject(name)
    root = harness.scratch()
    folder = root / "cases"
    (root / "warm").mkdir()
    harness.attempt(of, harness.case(of, 0, 0), root / "warm")
    seeds = root / "seeds"
    seeds.mkdir()
    for i in range(200):
        (seeds / f"{i}").write_bytes(harness.case(of, 0, i))
    folder.mkdir()

    def one(data: bytes) -> None:
        _, kind, detail = harness.attempt(of, data, folder)
        if kind:
            Path(f"broken-{name}{of.SUFFIX}").write_bytes(data)
            raise AssertionError(detail)

    def mutate(data: bytes, limit: int, seed: int) -> bytes:
        if seed % 2:
            return bytes(atheris.Mutate(data, limit))
        return of.make(random.Random(seed))[:limit]

    arguments = [sys.argv[0], str(seeds), *options]
    atheris.Setup(arguments, one, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
