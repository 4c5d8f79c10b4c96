"""`python -m tests.fuzz SUBJECT -n CASES`: looks for inputs that break the property."""

from __future__ import annotations

import argparse
import os
import sys
import time

from tests.fuzz import harness, minimize


def main() -> int:
    """Runs one subject, prints the counts, keeps failures; exit status 1 where there are any."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("subject", choices=harness.SUBJECTS)
    parser.add_argument("-n", type=int, default=10_000, metavar="CASES")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop after so long")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", type=int, default=0, help="number of the first case")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    args = parser.parse_args()
    began = time.monotonic()
    tally = harness.run(
        args.subject,
        args.n,
        seed=args.seed,
        start=args.start,
        jobs=args.jobs,
        seconds=args.minutes * 60,
        say=lambda text: print(text, flush=True),
    )
    seconds = time.monotonic() - began
    for verdict, count in tally.verdicts.most_common():
        print(f"{count:9d}  {verdict}")
    for failure in tally.failures.values():
        path = minimize.keep(args.subject, failure)
        print(f"\nBROKEN case {failure.index}: {failure.kind}\n{failure.detail}\nkept as {path}")
    rate = tally.cases / seconds
    print(
        f"{args.subject}: {tally.cases} cases, seed {args.seed}, {tally.broken} broken "
        f"({len(tally.failures)} kinds), {seconds:.0f} s, {rate:.0f} a second"
    )
    return 1 if tally.broken else 0


if __name__ == "__main__":
    sys.exit(main())
