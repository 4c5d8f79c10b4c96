"""Instruction sets: one small table of vector operations each.

A kernel is written once against this table, in vectors of `lanes` 32-bit integers. The operations
are LLVM IR functions that are always inlined. Their additions and multiplications carry neither
`nsw` nor `nuw`: integers wrap modulo 2^32 here, and LLVM must not conclude otherwise (TVM's own
int32 arithmetic is marked `nsw`, so no sum that may wrap is written with it).

Words: an operand of `dot` is a 32-bit word of 2 int16 (`dot16`) or 4 bytes (`dot8`: unsigned
activations times signed weights). dot(acc, a, b)[l] = acc[l] + sum_i a[l].i * b[l].i mod 2^32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import tvm
from tvm import tirx as tir
from tvm.tirx.script import builder as T  # noqa: N812

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
        dot16: LLVM IR of the body of dot16, in terms of the vector type V.
    """

    name: str
    cpu: str
    lanes: int
    registers: int
    bytes_dot: bool
    rounds: str
    dot16: str

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

    def dot8_(self, acc: Expr, a: Expr, b: Expr) -> Expr:
        """acc + sum of four products of an unsigned and a signed byte in each lane."""
        return T.call_pure_extern(self.vector, "vacc_dot8", acc, a, b)

    def add(self, a: Expr, b: Expr) -> Expr:
        """a + b mod 2^32."""
        return T.call_pure_extern(self.vector, "vacc_add", a, b)

    def sub(self, a: Expr, b: Expr) -> Expr:
        """a - b mod 2^32."""
        return T.call_pure_extern(self.vector, "vacc_sub", a, b)

    def mul(self, a: Expr, k: int) -> Expr:
        """k * a mod 2^32."""
        signed = (k + 2**31) % 2**32 - 2**31
        constant = T.broadcast(tir.const(signed, "int32"), self.lanes)
        return T.call_pure_extern(self.vector, "vacc_mul", a, constant)

    def stream(self, address: Expr, v: Expr) -> Expr:
        """Stores a float32 vector past the caches, to an address aligned to the vector."""
        return T.call_extern("void", "vacc_stream", address, v)

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
        binary = "".join(_function(f"vacc_{op}", n, 2, f"%r = {op} V %a, %b") for op in _WRAPPING)
        dots = _function("vacc_dot16", n, 3, self.dot16)
        if self.bytes_dot:
            dots += _function("vacc_dot8", n, 3, _VPDPBUSD)
        stream = _STREAM.format(lanes=n, size=4 * n)
        return _DECLARATIONS[self.name].replace("V ", f"<{n} x i32> ") + binary + dots + stream


_WRAPPING = ("add", "sub", "mul")


def _function(name: str, lanes: int, arity: int, body: str) -> str:
    """An always inlined LLVM function over vectors; the parameters are named as in the body."""
    arguments = ", ".join(f"V %{p}" for p in ("acc", "a", "b")[-arity:])
    head = f"define linkonce_odr V @{name}({arguments}) alwaysinline nounwind"
    text = f"{head} {{\n{body}\nret V %r\n}}\n"
    half = f"<{2 * lanes} x i16>"
    return text.replace("HALF", half).replace("V ", f"<{lanes} x i32> ")


_STREAM = """
define linkonce_odr void @vacc_stream(ptr %p, <{lanes} x float> %v) alwaysinline nounwind {{
store <{lanes} x float> %v, ptr %p, align {size}, !nontemporal !0
ret void
}}
!0 = !{{i32 1}}
"""
_VPMADDWD = """
%x = bitcast V %a to HALF
%y = bitcast V %b to HALF
%m = call V @{0}(HALF %x, HALF %y)
%r = add V %m, %acc"""
_VPDPWSSD = "%r = call V @llvm.x86.avx512.vpdpwssd.512(V %acc, V %a, V %b)"
_VPDPBUSD = "%r = call V @llvm.x86.avx512.vpdpbusd.512(V %acc, V %a, V %b)"
_MADD128, _MADD256 = "llvm.x86.sse2.pmadd.wd", "llvm.x86.avx2.pmadd.wd"
_MADD512 = "llvm.x86.avx512.pmaddw.d.512"
_DECLARATIONS = {
    "portable": f"declare V @{_MADD128}(<8 x i16>, <8 x i16>)\n",
    "avx2": f"declare V @{_MADD256}(<16 x i16>, <16 x i16>)\n",
    "avx512": f"declare V @{_MADD512}(<32 x i16>, <32 x i16>)\n",
    "vnni": "declare V @llvm.x86.avx512.vpdpwssd.512(V , V , V )\n"
    "declare V @llvm.x86.avx512.vpdpbusd.512(V , V , V )\n",
}

_CVT512 = "llvm.x86.avx512.mask.cvtps2dq.512"
ISAS: dict[str, Isa] = {
    isa.name: isa
    for isa in (
        Isa(
            "portable", "x86-64", 4, 16, False, "llvm.x86.sse2.cvtps2dq", _VPMADDWD.format(_MADD128)
        ),
        Isa(
            "avx2",
            "x86-64-v3",
            8,
            16,
            False,
            "llvm.x86.avx.cvt.ps2dq.256",
            _VPMADDWD.format(_MADD256),
        ),
        Isa("avx512", "x86-64-v4", 16, 32, False, _CVT512, _VPMADDWD.format(_MADD512)),
        Isa("vnni", "icelake-server", 16, 32, True, _CVT512, _VPDPWSSD),
    )
}
