"""Callables for measuring: each operator alone, and the machine's peak for the dot products."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import tvm
from tvm import tirx as tir
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T  # noqa: N812

from compiler.host import Host
from compiler.kernels.builder import i32, lanes, let, register, serial, splat, store
from compiler.kernels.chain import Chain
from compiler.kernels.isa import ISAS, Isa
from compiler.library import compile_module, set_threads
from compiler.lower import chains
from compiler.network import Network, Size, sizes

DEPTH, REPEATS = 16, 40000  # of the micro-benchmark: its operands stay in the first-level cache


@dataclass(frozen=True)
class LayerCall:
    """One operator alone, on random data of its whole input."""

    name: str
    kernel: str
    macs: int
    call: Callable[[], object]


def layer_calls(net: Network, size: Size, host: Host) -> list[LayerCall]:
    """Every operator of `net` as a compiled function of its own."""
    set_threads(host.threads)
    macs = multiplications(net, size)
    stages = [k.stage for chain in chains(net, size, host) for k in chain.kernels]
    both = {stage.also: stage.name for stage in stages if stage.also}
    return [_layer(part, macs, both, host) for part in chains(net, size, host, fuse=False)]


def _layer(part: Chain, macs: Mapping[str, int], both: Mapping[str, str], host: Host) -> LayerCall:
    """`both`: the convolution that computes a tensor beside its own in the network."""
    compiled = compile_module(tvm.IRModule({part.name: part.function()}), host)
    rng = np.random.default_rng(0)
    inputs = [_random(rng, *part.shapes[t]) for t in part.inputs]
    output = np.zeros(part.shapes[part.output][0], part.shapes[part.output][1])
    tensors = [tvm.runtime.tensor(a) for a in (*inputs, *part.constants, output)]
    function = compiled[part.name]
    (kernel,) = part.kernels
    name = kernel.stage.name
    made = both.get(kernel.stage.output)
    choice = f"{kernel.choice}; in the network {made} computes it too" if made else kernel.choice
    return LayerCall(name, choice, macs.get(name, 0), lambda: function(*tensors))


def _random(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    if dtype == "float32":
        return rng.random(shape, dtype=np.float32)
    info = np.iinfo(dtype)
    return rng.integers(info.min, info.max + 1, shape).astype(dtype)


def multiplications(net: Network, size: Size) -> dict[str, int]:
    """Multiplications of each convolution as it is defined, whatever the kernel saves."""
    known = sizes(net, size)
    return {c.name: int(np.prod(known[c.output])) * int(np.prod(c.weight.shape)) for c in net.convs}


def peak_calls(host: Host) -> dict[str, tuple[int, Callable[[], object]]]:
    """(multiplications, call) of a register tile of dot products, of words in the nearest cache."""
    set_threads(host.threads)
    isa = ISAS[host.isa]
    kinds = {"int16 pairs": (2, isa.dot16_)}
    if isa.bytes_dot:
        kinds["bytes"] = (4, isa.dot8_)
    result: dict[str, tuple[int, Callable[[], object]]] = {}
    for name, (elements, dot) in kinds.items():
        rows, columns = 2, isa.registers * 5 // 16
        function = _peak_function(isa, host.threads, rows, columns, dot)
        compiled = compile_module(tvm.IRModule({"peak": function}), host)["peak"]
        shape = host.threads, DEPTH, rows + columns, isa.lanes
        words = tvm.runtime.tensor(np.ones(shape, np.int32))
        sums = tvm.runtime.tensor(np.zeros((host.threads, rows * columns * isa.lanes), np.int32))
        macs = host.threads * REPEATS * DEPTH * rows * columns * isa.lanes * elements
        result[name] = macs, lambda f=compiled, w=words, s=sums: f(w, s)  # type: ignore[misc]
    return result


def _peak_function(
    isa: Isa, threads: int, rows: int, columns: int, dot: Callable[..., tir.PrimExpr]
) -> tir.PrimFunc:
    """Every product is of another pair of words: LLVM would compute equal ones once."""
    n = isa.lanes
    with IRBuilder() as builder, T.prim_func():
        T.func_attr({"global_symbol": "peak", "tirx.noalias": True})
        words = T.arg("words", T.buffer((threads, DEPTH, rows + columns, n), "int32"))
        out = T.arg("sums", T.buffer((threads, rows * columns * n), "int32"))
        helpers = tvm.ir.StringImm(isa.llvm)
        with T.attr(i32(0), "pragma_import_llvm", helpers), T.parallel(threads) as thread:
            sums, whole = [register(n) for _ in range(rows * columns)], lanes(i32(0), n)
            for total in sums:
                store(total, splat(0, "int32", n), [whole])
            with serial(REPEATS), serial(DEPTH) as k:
                a = [let(words[thread, k, row, whole]) for row in range(rows)]
                for i, total in enumerate(sums):
                    b = words[thread, k, rows + i // rows, whole]
                    store(total, dot(total[whole], a[i % rows], b), [whole])
            for i, total in enumerate(sums):
                store(out, total[whole], [thread, lanes(i32(i * n), n)])
    return builder.get()
