"""The values of a fused epilogue (`epilogue`), from the accumulators of a few pixels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

from tvm.tirx.script import builder as T  # noqa: N812

from calib.qparams import INT8_MAX, INT8_MIN, UINT8_MAX
from compiler.kernels import stores
from compiler.kernels.builder import cast, clamp, i32, lanes, let, local, splat, store
from compiler.kernels.epilogue import Epilogue, value_bound
from compiler.kernels.isa import Expr
from compiler.kernels.rows import Rows
from compiler.kernels.stores import Output
from compiler.network import Activation, Residual
from compiler.reference import residual_multiplier

Accumulator = Callable[[int, int], Expr]  # (vector, pixel) -> 2^shift acc
SAFE = float(2**30)  # |v| below this needs no clamp before its conversion to int32


@dataclass(frozen=True, eq=False)
class Values:
    """The values of the epilogue of neighbouring pixels, from (y, x).

    Attributes:
        acc: their accumulators.
        residuals: the rows of its residuals.
    """

    e: Epilogue
    acc: Accumulator
    y: Expr
    x: Expr
    constants: Mapping[str, Expr]
    residuals: Mapping[str, Rows]

    def value(self) -> stores.Value:
        """The values by vector and pixel, each emitted where it is first asked for."""
        rows = {name: r.slot(self.y) for name, r in self.residuals.items()}

        @cache
        def value(v: int, p: int) -> Expr:
            acc, x = self.acc(v, p), self.x + p
            return _value(self.e, acc, v, self.constants, self.residuals, rows, x)

        return value

    def source(self, runs: list[range]) -> stores.Source:
        """The same by vector and run of pixels; bytes are packed."""
        value = self.value()

        @cache
        def source(v: int, s: int) -> Expr:
            part = [value(v, p) for p in runs[s]]
            return part[0] if self.e.out.kind == "float32" else stores.pack(self.e, part)

        return source


def emit(values: Values, pixels: int, output: Output, vectors: range) -> None:
    """Emits the epilogue of some vectors of `pixels` pixels."""
    e, y, x = values.e, values.y, values.x
    if e.in_order:
        stores.in_order(e, values.value(), pixels, y, x, output, vectors)
    else:
        runs = stores.pixel_runs(e, pixels)
        stores.segments(e, values.source(runs), runs, y, x, output, vectors)


def _value(
    e: Epilogue,
    acc: Expr,
    v: int,
    constants: Mapping[str, Expr],
    residuals: Mapping[str, Rows],
    rows: dict[str, Expr],
    x: Expr,
) -> Expr:
    """The float32 value of vector v at pixel x, or the integer one where the output is bytes."""
    n = e.isa.lanes
    here = lanes(i32(v * n), n)
    z = let(cast("float32", n, acc) * constants["scale"][here])
    for i, step in enumerate(e.conv.steps):
        if isinstance(step, Activation):
            alpha = constants.get(f"alpha{i}")
            z = let(_activate(z, step, alpha[here] if alpha is not None else None, n))
        else:
            r = residual_multiplier(step, e.residuals[step.tensor].q.scale, e.out)
            centred = _residual(e, v, residuals[step.tensor], rows[step.tensor], x, step)
            z = let(
                T.call_llvm_pure_intrin(
                    f"float32x{n}", "llvm.fma", centred, splat(float(r), "float32", n), z
                )
            )
    if e.out.kind == "float32":
        return z
    return let(_integer(e, z, n))


def _activate(z: Expr, step: Activation, alpha: Expr | None, n: int) -> Expr:
    slope = splat(float(step.alpha.flat[0]), "float32", n) if alpha is None else alpha
    if step.alpha.min() >= 0 and step.alpha.max() <= 1:
        return T.max(z, z * slope)
    return T.Select(z >= splat(0, "float32", n), z, z * slope)


def _residual(e: Epilogue, v: int, rows: Rows, slot: Expr, x: Expr, step: Residual) -> Expr:
    """float32(q_r - z_r) of the lanes of vector v at pixel x."""
    n = e.isa.lanes
    if e.block == 1:
        stored = rows.buffer[slot, lanes(rows.layout.at(x, v * n), n)]
    else:  # lanes in another order than the channels
        order = (e.order + [0] * n)[v * n : v * n + n]
        scratch = local((n,), rows.buffer.dtype)
        for lane, channel in enumerate(order):
            store(scratch, rows.buffer[slot, rows.layout.at(x, channel)], [lane])
        stored = scratch[lanes(i32(0), n)]
    zero = e.residuals[step.tensor].q.zero_point + e.isa.offset
    return cast("float32", n, cast("int32", n, stored) - splat(zero, "int32", n))


def _integer(e: Epilogue, z: Expr, n: int) -> Expr:
    """rne(v) in int32, or what saturates like it; `stores` adds the zero point and saturates."""
    if e.out.kind == "uint8":
        zero, lo, hi = 0, 0, UINT8_MAX
    else:
        zero, lo, hi = e.out.q.zero_point, INT8_MIN, INT8_MAX
    if value_bound(e) >= SAFE:
        z = clamp(z, splat(lo - zero, "float32", n), splat(hi - zero, "float32", n))
    return e.isa.round(z)
