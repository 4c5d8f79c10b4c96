"""The compiled library: build it, load it, run it."""

from __future__ import annotations

import math
import os
import shutil
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile

# TVM would bind this process, and every thread it starts later, to one processor.
os.environ.setdefault("TVM_BIND_THREADS", "0")
# Its pool is made once, by default for half the processors; `set_threads` can only use fewer.
os.environ.setdefault("TVM_NUM_THREADS", str(len(os.sched_getaffinity(0))))
# An idle worker asks 300,000 times, yielding, before it sleeps, even when the process ends: minutes
# on a busy machine. 1000 times is a third of a millisecond, longer than the gap between frames.
os.environ.setdefault("TVM_THREAD_POOL_SPIN_COUNT", "1000")

import numpy as np
import tvm
import tvm_ffi
from numpy.typing import NDArray
from tvm import relax

from compiler.errors import CompileError, HostError, StorageError
from compiler.host import Host, require
from compiler.kernels.chain import Chain
from compiler.kernels.isa import ISAS
from compiler.lower import chains, module
from compiler.network import Network, Size

Array = NDArray[np.generic]
_LOWERING = threading.Lock()  # TVM's block builders share one stack; compiling needs no lock


@dataclass(frozen=True)
class LayerInfo:
    """How one operator was lowered: the kernel, why it is exact, and the chain it runs in."""

    name: str
    kernel: str
    chain: int


@dataclass(frozen=True)
class LibraryInfo:
    """What was built."""

    isa: str
    threads: int
    layers: tuple[LayerInfo, ...]
    workspace_bytes: int  # rings and scratch of all threads, and tensors between chains
    constant_bytes: int
    library_bytes: int
    compile_s: float


def layer_kernels(net: Network, size: Size, host: Host) -> tuple[LayerInfo, ...]:
    """How every operator of `net` is lowered for one image size; compiles nothing."""
    return _layers(chains(net, size, host))


def _layers(parts: list[Chain]) -> tuple[LayerInfo, ...]:
    return tuple(
        LayerInfo(k.stage.name, k.choice, i) for i, p in enumerate(parts) for k in p.kernels
    )


def build_library(
    net: Network,
    size: Size,
    host: Host,
    path: Path,
) -> LibraryInfo:
    """Lowers and compiles `net` for one image size to the shared library `path`.

    The file appears under its name only when it is complete. Same arguments, same bytes. Threads
    may build different libraries at once.

    Raises:
        CompileError: TVM or the linker failed.
        StorageError: the file cannot be written.
        and what `lower` raises.
    """
    start = time.perf_counter()
    with _LOWERING:
        parts = chains(net, size, host)
        lowered, workspace_bytes = module(net, parts), _workspace_bytes(parts)
    _export(compile_module(lowered, host), path)
    return LibraryInfo(
        host.isa,
        host.threads,
        _layers(parts),
        workspace_bytes,
        sum(c.nbytes for p in parts for c in p.constants),
        path.stat().st_size,
        time.perf_counter() - start,
    )


def compile_module(mod: tvm.IRModule, host: Host) -> relax.VMExecutable:
    """Compiles a lowered module.

    Common subexpressions, buffer compaction and hoisting are LLVM's work here: the kernels need
    none of these passes, which would take two thirds of the compile time. No kernel is a reshape
    in disguise, which TVM would look for in blocks that ours do not have.
    """
    config = {"tirx.disable_cse_tir": True}
    skipped = ["s_tir.CompactBufferAllocation", "s_tir.HoistIfThenElse", "RewriteDataflowReshape"]
    try:
        with tvm.transform.PassContext(opt_level=3, config=config, disabled_pass=skipped):
            return tvm.compile(mod, target=ISAS[host.isa].target)
    except Exception as error:  # TVM raises its own kinds, not ours
        raise CompileError(
            f"TVM could not compile the network: {error}",
            where=f"instruction set {host.isa}",
            fix="report this with the bundle; another backend.compile.host.isa may work",
        ) from error


def _export(executable: relax.VMExecutable, path: Path) -> None:
    try:
        with NamedTemporaryFile(dir=path.parent, prefix=path.name, suffix=".so") as unfinished:
            executable.export_library(unfinished.name)
            Path(unfinished.name).chmod(0o644)
            os.link(unfinished.name, temporary := f"{unfinished.name}.done")
            Path(temporary).replace(path)
    except OSError as error:
        raise StorageError(
            f"the library cannot be written: {error.strerror or error}",
            where=str(path),
            fix="choose an output folder that is writable and has free space",
        ) from error
    except Exception as error:
        raise CompileError(
            f"the library could not be linked: {error}",
            where=str(path),
            fix="check that gcc works (package gcc)",
        ) from error


def _workspace_bytes(parts: list[Chain]) -> int:
    between = sum(math.prod(p.shapes[p.output][0]) for p in parts[:-1])
    return sum(p.workspace_bytes for p in parts) + between


class Library:
    """A loaded library: `library(x)` runs one input.

    Attributes:
        input_shape, input_dtype: what `x` must be.
    """

    def __init__(self, path: Path, host: Host) -> None:
        """Maps the library at `path`.

        Raises:
            HostError: this machine lacks the instruction set, or the file is not a library.
        """
        require(host.isa)
        set_threads(host.threads)
        try:
            # A private copy: the linker would return an older library of the same name, and a
            # mapped file must not change.
            with NamedTemporaryFile(suffix=".so") as private:
                shutil.copyfile(path, private.name)
                loaded = tvm.runtime.load_module(private.name)
            self._vm = relax.VirtualMachine(loaded, tvm.cpu(), memory_cfg="pooled")
            self._main, self._idle = self._vm["main"], self._vm["idle"]
        except Exception as error:
            raise HostError(
                f"the library cannot be loaded: {error}", where=str(path), fix="build it again"
            ) from error
        self._threads = host.threads

    def __call__(self, x: Array) -> Array:
        """Runs the network.

        Args:
            x: float32 [1, C, H, W] or uint8 [1, H, W, C], of the size the library was built for; it
                is copied unless it is contiguous, writable and aligned as its elements are.
        Returns:
            float32 [1, C, H, W] or uint8 [1, H, W, C]; the memory is the result's own.
        """
        set_threads(self._threads)
        ready = x if x.flags.carray else x.copy(order="C")
        result: Array = np.from_dlpack(self._main(tvm_ffi.from_dlpack(ready)))
        self._idle()  # else the memory of this result could not serve the next call
        return result


_threads_set = 0


def set_threads(threads: int) -> None:
    """How many of TVM's worker threads a library uses from now on in this process."""
    global _threads_set
    if threads != _threads_set:
        tvm.get_global_func("runtime.config_threadpool")(1, threads)
        _threads_set = threads


def load_library(path: Path, host: Host) -> Library:
    """The library at `path`; see `Library`."""
    return Library(path, host)
