"""The machine that a library is built for: instruction set and threads. Imports nothing heavy."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

from compiler.errors import HostError

_AVX512 = frozenset({"avx2", "fma", "avx512f", "avx512bw", "avx512vl", "avx512dq"})
_VNNI = _AVX512 | {"avx512_vnni", "avx512vbmi"}
# Features as /proc/cpuinfo names them. The last entry that a machine has, and that nothing in
# _FAVOURED_BY speaks against, is its best.
FEATURES: dict[str, frozenset[str]] = {
    "portable": frozenset(),
    "avx2": frozenset({"avx2", "fma"}),
    "avxvnni": frozenset({"avx2", "fma", "avx_vnni"}),
    "avx512": _AVX512,
    "vnni": _VNNI,
    "zen4": _VNNI,
}
# The same instructions in another mixture, and a feature of the processors that are faster with it
# (measured on Zen 4): clzero is AMD's, as are vector pipes that add while others multiply.
_FAVOURED_BY = {"zen4": frozenset({"clzero"})}
MAX_THREADS = 256
_CPUINFO = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class Host:
    """What a library is built for.

    Attributes:
        isa: a key of `FEATURES`: portable (baseline x86-64), avx2, avxvnni (AVX2 with vpdpbusd),
            avx512, vnni (AVX-512 with vpdpbusd and vpermb), or zen4 (vnni as AMD prefers it).
        threads: number of row bands computed in parallel, at least 1.
    """

    isa: str
    threads: int

    def __post_init__(self) -> None:
        if self.isa not in FEATURES:
            raise HostError(
                f"unknown instruction set {self.isa!r}",
                where="backend.compile.host.isa",
                fix=f"choose one of {', '.join(FEATURES)}",
            )
        if not 1 <= self.threads <= MAX_THREADS:
            raise HostError(
                f"{self.threads} threads",
                where="backend.compile.host.threads",
                fix=f"choose a number from 1 to {MAX_THREADS}",
            )


def detect(isa: str | None = None, threads: int | None = None) -> Host:
    """This machine: its best instruction set and every CPU this process may run on.

    Args:
        isa: build for this instruction set instead of the best one.
        threads: use this many threads instead of all.
    Raises:
        HostError: `isa` is unknown, or this machine lacks one of its features.
    """
    features = cpu_features()
    wanted = {name: f | _FAVOURED_BY.get(name, set()) for name, f in FEATURES.items()}
    best = next(name for name in reversed(wanted) if wanted[name] <= features)
    host = Host(isa or best, threads or len(os.sched_getaffinity(0)))
    require(host.isa)
    return host


def supports(isa: str) -> bool:
    """Whether this machine can run `isa`."""
    return _x86() and FEATURES[Host(isa, 1).isa] <= cpu_features()


def require(isa: str) -> None:
    """Does nothing where this machine can run `isa`.

    Raises:
        HostError: names the missing features.
    """
    if not _x86():
        raise HostError(
            f"libraries are x86-64 code, and this processor is {platform.machine()}",
            where=f"instruction set {isa}",
            fix="use an x86-64 machine",
        )
    missing = sorted(FEATURES[Host(isa, 1).isa] - cpu_features())
    if missing:
        raise HostError(
            f"the instruction set {isa} needs {', '.join(missing)}, which this processor lacks",
            where="/proc/cpuinfo",
            fix="leave the instruction set out, build on this machine, or use the portable library",
        )


def _x86() -> bool:
    return platform.machine().lower() in ("x86_64", "amd64")


def cpu_features() -> frozenset[str]:
    """Feature names of the first processor in /proc/cpuinfo; empty where there is no such file."""
    if not _CPUINFO.exists():
        return frozenset()
    for line in _CPUINFO.read_text(encoding="utf-8").splitlines():
        if line.startswith("flags"):
            return frozenset(line.partition(":")[2].split())
    return frozenset()
