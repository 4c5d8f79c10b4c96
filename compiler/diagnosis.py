"""What this machine has, what is missing, and how to get it, as rows for the doctor.

Every check is a function from the machine to rows. They look with the standard library, and so work
where everything else is missing; only the self test at the end loads TVM.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from calib.errors import WorkbenchError
from compiler import host

DISTRIBUTION = "vacc-workbench"
ARTIFACTS = Path("artifacts")
GIB = 2**30
BUILD_MEMORY_BYTES, BUILD_DISK_BYTES = 4 * GIB, 2 * GIB  # twice what a build at 1080p takes
LARGE_STORE_BYTES = 10 * GIB
_COMPILERS = ("g++", "gcc", "clang++", "clang", "c++", "cc")  # in the order TVM looks for them

State = Literal["ok", "warn", "missing"]


@dataclass(frozen=True)
class Row:
    """One thing that was looked at.

    Attributes:
        required: whether nothing works without it.
        fix: how to get or mend it; empty where all is well.
    """

    topic: str
    name: str
    state: State
    found: str
    fix: str = ""
    required: bool = False


def examine(*, quick: bool) -> Iterator[Row]:
    """Every row, in the order they are shown; the self test, which takes seconds, comes last."""
    yield from python_rows()
    yield from processor_rows()
    yield from memory_rows()
    yield from disk_rows()
    yield from tool_rows()
    yield from extra_rows()
    if not quick:
        yield self_test()


def python_rows() -> Iterator[Row]:
    """Python and every required package, against the bounds that the distribution declares."""
    try:
        declared = metadata.metadata(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        fix = "pip install -e ."
        yield Row("Python", DISTRIBUTION, "missing", "not installed", fix, required=True)
        return
    bounds, version = declared["Requires-Python"], platform.python_version()
    good = SpecifierSet(bounds).contains(version, prereleases=True)
    state: State = "ok" if good else "missing"
    fix = "" if good else "use a newer Python: make PYTHON=/path/to/python"
    yield Row("Python", "python", state, f"{version} ({bounds})", fix, required=True)
    for requirement in _requirements(""):
        yield _package(requirement)


def _requirements(extra: str) -> list[Requirement]:
    """What the distribution, or one of its extras, needs on this machine."""
    declared = map(Requirement, metadata.requires(DISTRIBUTION) or [])
    if not extra:
        return [r for r in declared if r.marker is None or r.marker.evaluate({"extra": ""})]
    environment = {"extra": extra}
    return [r for r in declared if r.marker is not None and r.marker.evaluate(environment)]


def _package(requirement: Requirement) -> Row:
    version = _version(requirement)
    good = version is not None and requirement.specifier.contains(version, prereleases=True)
    bounds = f" ({requirement.specifier})" if str(requirement.specifier) else ""
    found = f"{version or 'not installed'}{bounds}"
    wanted = str(requirement).partition(";")[0].strip()
    fix = "" if good else f"pip install '{wanted}'"
    state: State = "ok" if good else "missing"
    return Row("Python", requirement.name, state, found, fix, required=True)


def _version(requirement: Requirement) -> str | None:
    try:
        return metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return None


def processor_rows() -> Iterator[Row]:
    """Model, the instruction set that kernels would use, threads, and how busy it is."""
    cpuinfo = _read(Path("/proc/cpuinfo"))
    model = re.search(r"^model name\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    yield Row("machine", "processor", "ok", model.group(1) if model else platform.machine())
    yield _instruction_set()
    usable, all_cpus = len(os.sched_getaffinity(0)), os.cpu_count() or 1
    packages, cores = (
        re.findall(rf"^{key}\s*:\s*(\d+)$", cpuinfo, re.MULTILINE)
        for key in ("physical id", "core id")
    )
    count = len(set(zip(packages, cores, strict=False)))
    found = f"{usable} of {all_cpus} processors" + (f", {count} cores" if count else "")
    bound = usable < all_cpus
    fix = "this process is bound to fewer: see taskset, or the container's cpuset" if bound else ""
    yield Row("machine", "threads", "warn" if bound else "ok", found, fix)
    yield from _quota(usable)
    load = os.getloadavg()[0]
    busy = load > usable / 2
    fix = "wait until the machine is idle before measuring latency" if busy else ""
    yield Row("machine", "load", "warn" if busy else "ok", f"{load:.1f} (1 minute)", fix)


def _instruction_set() -> Row:
    features = host.cpu_features()
    try:
        isa = host.detect().isa
    except WorkbenchError as error:
        return Row("machine", "kernels", "missing", error.what, error.fix, required=True)
    lacks = [
        f"; for {better} it lacks {', '.join(sorted(needed - features))}"
        for better, needed in host.FEATURES.items()
        if not needed <= features
    ]
    state: State = "warn" if isa == "portable" else "ok"
    fix = "libraries run, but slowly: use a processor with AVX2" if state == "warn" else ""
    return Row("machine", "kernels", state, isa + "".join(lacks[:1]), fix)


def _quota(usable: int) -> Iterator[Row]:
    """A container's share of processor time, where it has less than the processors it sees."""
    quota, _, period = _read(Path("/sys/fs/cgroup/cpu.max")).strip().partition(" ")
    if quota.isdigit() and int(quota) < usable * int(period):
        share = int(quota) / int(period)
        fix = f"set backend.compile.host.threads to {max(1, int(share))}, or raise the quota"
        yield Row("machine", "CPU quota", "warn", f"{share:g} of {usable} processors", fix)


def memory_rows() -> Iterator[Row]:
    """Memory that a build can use: free in the machine, and allowed to its container."""
    info = dict(re.findall(r"^(\w+):\s+(\d+) kB", _read(Path("/proc/meminfo")), re.MULTILINE))
    if "MemAvailable" not in info:
        return
    free, total = (int(info[key]) * 1024 for key in ("MemAvailable", "MemTotal"))
    limit = _read(Path("/sys/fs/cgroup/memory.max")).strip()
    if limit.isdigit():
        free, total = min(free, int(limit)), min(total, int(limit))
    short = free < BUILD_MEMORY_BYTES
    fix = "a build at 1080p takes 2 GiB: close other programs, or raise the limit" if short else ""
    found = f"{free / GIB:.1f} of {total / GIB:.1f} GiB free"
    yield Row("machine", "memory", "warn" if short else "ok", found, fix)


def disk_rows() -> Iterator[Row]:
    """Space where bundles are written, whether it can be written, and what stored stages take."""
    place = ARTIFACTS.absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if not os.access(place, os.W_OK):
        fix = "correct the permissions, or build with --out DIR"
        yield Row("machine", "disk", "missing", f"{place} is read-only", fix, required=True)
    else:
        short = free < BUILD_DISK_BYTES
        fix = f"free some space, or remove {ARTIFACTS}/.store" if short else ""
        yield Row("machine", "disk", "warn" if short else "ok", f"{free / GIB:.1f} GiB free", fix)
    files = [file.stat().st_size for file in (ARTIFACTS / ".store").rglob("*") if file.is_file()]
    large = sum(files) > LARGE_STORE_BYTES
    fix = f"rm -r {ARTIFACTS}/.store (the next build makes what it needs)" if large else ""
    found = f"{sum(files) / 2**20:,.0f} MiB in {len(files)} files"
    yield Row("machine", "store", "warn" if large else "ok", found, fix)


def tool_rows() -> Iterator[Row]:
    """The linker that TVM's export calls, make, and the browser of the report's test."""
    named = os.environ.get("CXX") or os.environ.get("CC")
    path = next(filter(None, map(shutil.which, [named] if named else _COMPILERS)), None)
    yield _tool("C++ compiler", path, "apt-get install g++", required=True)
    yield _tool("make", shutil.which("make"), "apt-get install make")
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    both = browser if shutil.which("chromedriver") else None
    yield _tool("Chromium", both, "apt-get install chromium chromium-driver (the report's tests)")


def _tool(name: str, path: str | None, fix: str, *, required: bool = False) -> Row:
    if path is None:
        return Row("tools", name, "missing", "not found", fix, required)
    return Row("tools", name, "ok", path, required=required)


def extra_rows() -> Iterator[Row]:
    """The optional parts, as the distribution names them."""
    try:
        extras = metadata.metadata(DISTRIBUTION).get_all("Provides-Extra") or []
    except metadata.PackageNotFoundError:
        return
    for extra in extras:
        rows = [_package(requirement) for requirement in _requirements(extra)]
        absent = [f"{row.name} {row.found}" for row in rows if row.state == "missing"]
        present = ", ".join(f"{row.name} {row.found.partition(' ')[0]}" for row in rows)
        fix = f"pip install -e '.[{extra}]'" if absent else ""
        found = f"lacks {', '.join(absent)}" if absent else present
        yield Row("optional", extra, "missing" if absent else "ok", found, fix)


def self_test() -> Row:
    """Compiles a network of two layers and compares its answer with the golden model's."""
    start = time.perf_counter()
    try:
        from compiler import reference, selftest
        from compiler.library import build_library, load_library

        net, x, machine = selftest.network(), selftest.network_input(), host.detect()
        with TemporaryDirectory() as folder:
            library = Path(folder) / "mod.so"
            build_library(net, selftest.SIZE, machine, library)
            equal = (load_library(library, machine)(x) == reference.run(net, x)).all()
    except Exception as error:  # whatever is broken here is the answer
        what = f"{type(error).__name__}: {error}".splitlines()[0]
        fix = getattr(error, "fix", "") or "install what the rows above lack"
        return Row("self test", "compile and run", "missing", what, fix, required=True)
    if not equal:
        fix = "please report it; build with --set backend.compile.host.isa=portable until then"
        found = f"{machine.isa} library differs from the golden model"
        return Row("self test", "compile and run", "missing", found, fix, required=True)
    seconds = time.perf_counter() - start
    found = f"{machine.isa}, {machine.threads} threads: equal to the golden model ({seconds:.1f} s)"
    return Row("self test", "compile and run", "ok", found)


def _read(path: Path) -> str:
    """The text of a file of the system; empty where there is none."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
