"""Instruction sets: one small table of vector operations each.

A kernel is written once against this table, in vectors of `lanes` 32-bit integers. The operations
are LLVM IR functions (`ir`) that wrap modulo 2^32; TVM's own int32 arithmetic is marked `nsw`, so
no sum that may wrap is written with it.

Words: an operand of `dot` is a 32-bit word of 2 int16 (`dot16`) or 4 bytes (`dot8`: unsigned
activations times signed weights). dot(acc, a, b)[l] = acc[l] + sum_i a[l].i * b[l].i mod 2^32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import tvm
from tvm import tirx as tir
from tvm.tirx.script import builder as T  # noqa: N812

from compiler.kernels import ir

Expr = Any  # a tvm.tirx expression; the package has no types


@dataclass(frozen=True)
class Isa:
    """Vector operations of one instruction set.

    Attributes:
        name: key of `compiler.host.FEATURES`.
        cpu: LLVM's name of the processor that code is generated for.
        lanes: 32-bit integers in a vector.
        registers: vector registers.
        bytes_dot: `dot8` exists. Activations are then stored as unsigned bytes q + 128.
        rounds: the intrinsic for int32(rne(v)), |v| < 2^31.
        adds_beside: twice as many additions as dot products can be done at a time, so that those
            of inner products (`products`) cost less than what they save. Needs 8 lanes.
    """

    name: str
    cpu: str
    lanes: int
    registers: int
    bytes_dot: bool
    rounds: str
    adds_beside: bool = False

    @property
    def offset(self) -> int:
        """A stored activation is q + offset."""
        return 128 if self.bytes_dot else 0

    @property
    def stored(self) -> str:
        """Element type of stored activations."""
        return "uint8" if self.bytes_dot else "int8"

    @property
    def vector(self) -> str:
        """The vector of 32-bit integers, as TVM names it."""
        return f"int32x{self.lanes}"

    @property
    def target(self) -> tvm.target.Target:
        """TVM's target for this instruction set."""
        return tvm.target.Target({"kind": "llvm", "mcpu": self.cpu})

    def dot16_(self, acc: Expr, a: Expr, b: Expr) -> Expr:
        """acc + a0 b0 + a1 b1 in each lane, for words of two int16."""
        return T.call_pure_extern(self.vector, "vacc_dot16", acc, a, b)

    def dot16_at(self, acc: Expr, address: Expr, b: Expr) -> Expr:
        """`dot16_` with the word at an address in every lane."""
        return T.call_extern(self.vector, "vacc_dot16_at", acc, address, b)

    def dot8_(self, acc: Expr, a: Expr, b: Expr) -> Expr:
        """acc + sum of four products of an unsigned and a signed byte in each lane."""
        return T.call_pure_extern(self.vector, "vacc_dot8", acc, a, b)

    def add(self, a: Expr, b: Expr) -> Expr:
        """a + b mod 2^32."""
        return T.call_pure_extern(self.vector, "vacc_add", a, b)

    def add16(self, a: Expr, b: Expr) -> Expr:
        """a + b mod 2^16, for words of two int16."""
        return T.call_pure_extern(self.vector, "vacc_add16", a, b)

    def sub(self, a: Expr, b: Expr) -> Expr:
        """a - b mod 2^32."""
        return T.call_pure_extern(self.vector, "vacc_sub", a, b)

    def mul(self, a: Expr, k: int) -> Expr:
        """k * a mod 2^32."""
        signed = (k + 2**31) % 2**32 - 2**31
        constant = T.broadcast(tir.const(signed, "int32"), self.lanes)
        return T.call_pure_extern(self.vector, "vacc_mul", a, constant)

    def stream(self, address: Expr, v: Expr) -> Expr:
        """Stores a whole vector of any type past the caches, to an address aligned to it."""
        return T.call_extern("void", "vacc_stream", address, T.reinterpret(self.vector, v))

    def translate_ahead(self, address: Expr) -> Expr:
        """Has the page translated that a row of `stream`s, now at this address, comes to."""
        return T.call_extern("void", "vacc_translate_ahead", address)

    def narrow(self, vectors: Sequence[Expr], zero: int, dtype: str) -> Expr:
        """clamp(v + zero) to int8 or uint8 of one to four int32 vectors, side by side."""
        n, count = self.lanes, len(vectors)
        four = [vectors[i % count] for i in range(4)]
        zeros = T.broadcast(tir.const(zero, "int16"), 2 * n)
        packed = T.call_pure_extern(f"{dtype}x{4 * n}", f"vacc_narrow_{dtype}", *four, zeros)
        if count == 4:
            return packed
        return tir.Shuffle([T.bind(packed)], [tir.const(i, "int32") for i in range(count * n)])

    def round(self, v: Expr) -> Expr:
        """int32(rne(v)) for |v| < 2^31."""
        return T.call_llvm_pure_intrin(self.vector, self.rounds, *self._rounds_arguments(v))

    def _rounds_arguments(self, v: Expr) -> list[Expr]:
        if not self.rounds.startswith("llvm.x86.avx512"):
            return [v]
        zeros = T.broadcast(tir.const(0, "int32"), self.lanes)
        nearest = tir.const(8, "int32")  # _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC
        return [v, zeros, tir.const(-1, "int16"), nearest]

    @property
    def llvm(self) -> str:
        """LLVM IR of the operations above."""
        n = self.lanes
        return ir.wrapping(n) + ir.dots(n, self.bytes_dot) + ir.narrow(n) + ir.stream(n)


_CVT512 = "llvm.x86.avx512.mask.cvtps2dq.512"
ISAS: dict[str, Isa] = {
    isa.name: isa
    for isa in (
        Isa("portable", "x86-64", 4, 16, False, "llvm.x86.sse2.cvtps2dq"),
        Isa("avx2", "x86-64-v3", 8, 16, False, "llvm.x86.avx.cvt.ps2dq.256"),
        Isa("avxvnni", "alderlake", 8, 16, True, "llvm.x86.avx.cvt.ps2dq.256"),
        Isa("avx512", "x86-64-v4", 16, 32, False, _CVT512),
        Isa("vnni", "icelake-server", 16, 32, True, _CVT512),
        Isa("zen4", "icelake-server", 16, 32, True, _CVT512, adds_beside=True),
    )
}
