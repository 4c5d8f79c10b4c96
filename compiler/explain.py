"""What every kind of error means: code, cause, fix and exit status, from the classes themselves.

`python -m compiler.explain > docs/errors.md` writes the page of the documentation.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from calib.errors import WorkbenchError
from compiler import errors
from compiler.spec_faults import did_you_mean

_FIX = "Fix: "
_HEAD = """\
# Errors

Every error is one message: its code in brackets, the place (file and line, node, tensor or path),
what is wrong, and how to mend it.

```console
$ python -m compiler.build configs/bpp3x_fp16.yaml
error [capability] configs/bpp3x_fp16.yaml:10 backend.dtype: target vacc builds int8 only, ...
  fix: write `dtype: int8` and name calibration images in `dataset:`
$ python -m compiler.check --explain capability
```

Exit status of every command: 0 ok, 1 gate missed (the bundle is complete all the same), 2 bad
input, 3 internal, 130 interrupted, 141 the reader of a pipe went away. A traceback is never the
answer to bad input; `VACC_DEBUG=1` shows where an internal error comes from.

This page is made by `python -m compiler.explain > docs/errors.md` from the classes in
`calib/errors.py` and `compiler/errors.py`; a test compares them.

| code | exit | cause | fix |
|---|---|---|---|
"""


@dataclass(frozen=True)
class Explanation:
    """One kind of error."""

    code: str
    cause: str
    fix: str
    exit_code: int

    def __str__(self) -> str:
        return f"{self.code} (exit status {self.exit_code})\n  {self.cause}\n  fix: {self.fix}"


def explanations() -> dict[str, Explanation]:
    """Every kind of error by its code, sorted."""
    assert errors  # its import defines the compiler's kinds
    found = (_explanation(kind) for kind in _kinds(WorkbenchError))
    return {each.code: each for each in sorted(found, key=lambda each: each.code)}


def explain(code: str) -> tuple[Explanation, ...]:
    """The explanation of one code, or of every one for `all`.

    Raises:
        SpecError: there is no such code.
    """
    known = explanations()
    if code == "all":
        return tuple(known.values())
    if code not in known:
        raise errors.SpecError(
            f"there is no error code {code!r}{did_you_mean(code, known)}",
            where="--explain",
            fix=f"use all, or one of {', '.join(known)}",
        )
    return (known[code],)


def page() -> str:
    """docs/errors.md: one row for every kind of error."""
    rows = (
        f"| `{each.code}` | {each.exit_code} | {each.cause} | {each.fix} |\n"
        for each in explanations().values()
    )
    return _HEAD + "".join(rows)


def _kinds(base: type[WorkbenchError]) -> Iterator[type[WorkbenchError]]:
    for kind in base.__subclasses__():
        if kind.__module__ in ("calib.errors", "compiler.errors"):
            yield kind
        yield from _kinds(kind)


def _explanation(kind: type[WorkbenchError]) -> Explanation:
    cause, _, rest = (inspect.getdoc(kind) or "").partition("\n\n")
    fix = rest.partition(_FIX)[2].partition("\n\n")[0]
    return Explanation(kind.code(), " ".join(cause.split()), " ".join(fix.split()), kind.exit_code)


if __name__ == "__main__":
    sys.stdout.write(page())
