"""What every kind of error means: code, cause, fix and exit status, from the classes themselves."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass

from calib.errors import WorkbenchError
from compiler import errors
from compiler.spec_faults import did_you_mean

_FIX = "Fix: "


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


def _kinds(base: type[WorkbenchError]) -> Iterator[type[WorkbenchError]]:
    for kind in base.__subclasses__():
        if kind.__module__ in ("calib.errors", "compiler.errors"):
            yield kind
        yield from _kinds(kind)


def _explanation(kind: type[WorkbenchError]) -> Explanation:
    cause, _, rest = (inspect.getdoc(kind) or "").partition("\n\n")
    fix = rest.partition(_FIX)[2].partition("\n\n")[0]
    return Explanation(kind.code(), " ".join(cause.split()), " ".join(fix.split()), kind.exit_code)
