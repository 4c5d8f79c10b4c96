"""LLVM IR of the vector operations, as functions that are always inlined.

Additions and multiplications carry neither `nsw` nor `nuw`: integers wrap modulo 2^32 (2^16) here,
and LLVM must not conclude otherwise. Two operations are inline assembly on purpose:
- vpdpwssd, since LLVM would split it into vpmaddwd and vpaddd where it takes that for shorter, and
  move loads and sums between blocks until the accumulators no longer fit the registers;
- streaming stores, since LLVM drops the mark `nontemporal` when it moves a store.
"""

from __future__ import annotations

import re

WRAPPING = ("add", "sub", "mul")
PAGE_BYTES = 4096


def wrapping(lanes: int) -> str:
    """vacc_add, vacc_sub, vacc_mul modulo 2^32, and vacc_add16 modulo 2^16."""
    bodies = {f"vacc_{op}": f"%r = {op} V %a, %b" for op in WRAPPING} | {"vacc_add16": _ADD16}
    return "".join(_function(name, lanes, "ab", body) for name, body in bodies.items())


def dots(lanes: int, vnni: bool) -> str:
    """vacc_dot16(acc, a, b), vacc_dot16_at(acc, pointer, b), vacc_dot8(acc, a, b)."""
    product = _MADD.replace("MADD", _MADDS[lanes])
    text = f"declare V @{_MADDS[lanes]}(HALF, HALF)\n"
    dot = product.replace("%r", "%m") + "\n%r = add V %m, %acc"
    if vnni:
        vpdpbusd = f"llvm.x86.avx512.vpdpbusd.{32 * lanes}"
        text += f"declare V @{vpdpbusd}(V, V, V)\n"
        body = _VPDPBUSD.replace("VPDPBUSD", vpdpbusd)
        text += _function("vacc_dot8", lanes, ("acc", "a", "b"), body)
        dot = _VPDPWSSD if lanes == 16 else _VPDPWSSD_VEX
    zeros = ", ".join(["i32 0"] * lanes)
    splat = _SPLAT.replace("ZEROS", f"<{lanes} x i32> <{zeros}>")
    at = _VPDPWSSD_AT if vnni and lanes == 16 else splat + dot
    text += _function("vacc_dot16", lanes, ("acc", "a", "b"), dot)
    text += _function("vacc_dot16_at", lanes, ("acc", "p", "b"), at)
    return _typed(text, lanes)


def narrow(lanes: int) -> str:
    """vacc_narrow_int8 and _uint8: four int32 vectors plus int16 zeros, saturated to bytes.

    x86 packs within 128-bit lanes, so that lane l holds the words l of the four vectors side by
    side; one permutation of words puts them in order.
    """
    set_, wide = {4: ("sse2", ".128"), 8: ("avx2", ""), 16: ("avx512", ".512")}[lanes]
    first = f"llvm.x86.{set_}.packssdw{wide}"
    order = ", ".join(f"i32 {4 * lane + q}" for q in range(4) for lane in range(lanes // 4))
    text = f"declare HALF @{first}(V, V)\n"
    text += f"declare HALF @llvm.sadd.sat.v{2 * lanes}i16(HALF, HALF)\n"
    for dtype, sign in (("int8", "s"), ("uint8", "u")):
        second = f"llvm.x86.{set_}.pack{sign}swb{wide}"
        text += f"declare BYTES @{second}(HALF, HALF)\n"
        body = _NARROW.replace("FIRST", first).replace("SECOND", second)
        body = body.replace("SADD", f"llvm.sadd.sat.v{2 * lanes}i16")
        text += body.replace("KIND", dtype).replace("ORDER", f"<{lanes} x i32> <{order}>")
    return _typed(text, lanes)


def stream(lanes: int) -> str:
    """vacc_stream(pointer, v): a vector past the caches, to an aligned address.

    vacc_translate_ahead(pointer): fetches the first line of a page that streams at `pointer` come
    to. Nobody wants the line, but the page's address is then translated before stores need it. The
    page is the one 6144 bytes on: the next, and from its middle on the one after. Measured: up to
    1.0 ms of a frame of 41, as much as huge pages gain, and nothing where memory is in large runs.
    """
    mnemonic, register = {4: ("movntps", "x"), 8: ("vmovntps", "x"), 16: ("vmovntps", "v")}[lanes]
    text = _STREAM.replace("MNEMONIC", mnemonic).replace("REGISTER", register)
    text = text.replace("PAGE", str(PAGE_BYTES)).replace("AHEAD", str(PAGE_BYTES * 3 // 2))
    return _typed(text, lanes)


def _function(name: str, lanes: int, parameters: str | tuple[str, ...], body: str) -> str:
    arguments = ", ".join(f"ptr %{p}" if p == "p" else f"V %{p}" for p in parameters)
    head = f"define linkonce_odr V @{name}({arguments}) alwaysinline nounwind"
    return _typed(f"{head} {{\n{body}\nret V %r\n}}\n", lanes)


def _typed(text: str, lanes: int) -> str:
    """Names the types: V int32, HALF int16, BYTES int8 vectors of one width."""
    text = text.replace("HALF", f"<{2 * lanes} x i16>").replace("BYTES", f"<{4 * lanes} x i8>")
    return re.sub(r"\bV\b", f"<{lanes} x i32>", text)


_MADDS = {
    4: "llvm.x86.sse2.pmadd.wd",
    8: "llvm.x86.avx2.pmadd.wd",
    16: "llvm.x86.avx512.pmaddw.d.512",
}
_MADD = """%x = bitcast V %a to HALF
%y = bitcast V %b to HALF
%r = call V @MADD(HALF %x, HALF %y)"""
_ADD16 = """%x = bitcast V %a to HALF
%y = bitcast V %b to HALF
%z = add HALF %x, %y
%r = bitcast HALF %z to V"""
_SPLAT = """%s = load i32, ptr %p
%i = insertelement V poison, i32 %s, i32 0
%a = shufflevector V %i, V poison, ZEROS
"""
_VPDPWSSD = """%r = call V asm sideeffect "vpdpwssd $2, $1, $0", "=v,v,v,0"(V %a, V %b, V %acc)
  convergent nounwind memory(none)"""
_VPDPWSSD_AT = """%r = call V asm sideeffect "vpdpwssd ${2}{1to16}, $1, $0", "=v,v,*m,0"(V %b,
  ptr elementtype(i32) %p, V %acc) convergent nounwind memory(argmem: read)"""
_VPDPWSSD_VEX = """%r = call V asm sideeffect "{vex} vpdpwssd $2, $1, $0", "=x,x,x,0"(V %a, V %b,
  V %acc) convergent nounwind memory(none)"""
_VPDPBUSD = "%r = call V @VPDPBUSD(V %acc, V %a, V %b)"
_NARROW = """
define linkonce_odr BYTES @vacc_narrow_KIND(V %a, V %b, V %c, V %d, HALF %zero) alwaysinline {
%ab = call HALF @FIRST(V %a, V %b)
%cd = call HALF @FIRST(V %c, V %d)
%x = call HALF @SADD(HALF %ab, HALF %zero)
%y = call HALF @SADD(HALF %cd, HALF %zero)
%bytes = call BYTES @SECOND(HALF %x, HALF %y)
%words = bitcast BYTES %bytes to V
%ordered = shufflevector V %words, V poison, ORDER
%r = bitcast V %ordered to BYTES
ret BYTES %r
}
"""
_STREAM = """
define linkonce_odr void @vacc_stream(ptr %p, V %v) alwaysinline nounwind {
call void asm sideeffect "MNEMONIC $1, $0", "=*m,REGISTER"(ptr elementtype(V) %p,
  V %v) nounwind memory(argmem: write)
ret void
}
define linkonce_odr void @vacc_translate_ahead(ptr %p) alwaysinline nounwind {
%ahead = getelementptr i8, ptr %p, i64 AHEAD
%page = call ptr @llvm.ptrmask.p0.i64(ptr %ahead, i64 -PAGE)
call void @llvm.prefetch.p0(ptr %page, i32 0, i32 0, i32 1)
ret void
}
declare ptr @llvm.ptrmask.p0.i64(ptr, i64)
declare void @llvm.prefetch.p0(ptr, i32, i32, i32)
"""
