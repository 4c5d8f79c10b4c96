"""Weight rounding that knows the activations: least-squares target, then OBQ/GPTQ.

For each layer in topological order, with u_q the im2col columns of its integer input (as the
already quantized layers before it give them) and u_f those of its float input, both with a row of
ones for the bias:

    H = sum g u_q u_q^T,  C = sum g u_q u_f^T,  target W* = (W C^T + d W) (H + d I)^-1

the weights that reproduce the float layer best from the quantized input. g falls with the variance
of the window: an error hides in texture and shows in a flat area, to the eye and to SSIM, which
divides it by that variance; plain least squares serves the texture, where the energy is. d, a part
of the mean variance, acts like white noise on the input: smooth samples (enlarged photographs)
leave the fine patterns almost unseen, and weights that are free there ruin sharp images. At 1e-4
such a calibration lost 0.4 dB that 0.01 to 0.1 keep; on sharp samples the choice costs nothing. W*
is then rounded column by column, each error compensated by the columns still to come (B. Hassibi
and D. Stork 1993; E. Frantar et al., "GPTQ", 2022: one Cholesky factor of H^-1, columns by falling
diagonal), polished by coordinate descent over the integers, and the bias takes up what is left
of the mean (bias correction is the ones row).

Of a convolution that reads 16 bits (`lowparts`) u_f is less by the low part, which its correction
adds; the weights of the correction, whose float input is 0, are rounded to nearest.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from calib import qparams
from calib.qparams import F32, F64, INT8_MAX, INT8_MIN, WEIGHT_MAX
from calib.table import CalibrationTable
from compiler import quantize, reference
from compiler.float_values import FloatValues
from compiler.floatnet import FloatConv, FloatNetwork, FloatOp
from compiler.lowparts import corrections, low_input
from compiler.network import ConvChain, Network, Size, output_size
from compiler.quantize import RoundedWeights
from compiler.recovery.samples import Samples

DAMPING = 0.01
CLIPS = (1.0, 0.95, 0.9, 0.85, 0.8)  # weight scales tried, as parts of the one that never clips
FLAT = 0.03  # of the mean variance: where a window counts as flat
_COLUMNS = 2**26  # values of im2col columns held at once (512 MB); a tile has two matrices of them
_POLISH = 4  # sweeps of coordinate descent


@dataclass(frozen=True, eq=False)
class Rounded:
    """Integer weights, and the float network whose biases were corrected with them."""

    net: FloatNetwork
    weights: Mapping[str, RoundedWeights]

    def network(self, table: CalibrationTable) -> Network:
        """The integer network."""
        return quantize.quantize(self.net, table, self.weights)


def nearest(net: FloatNetwork, *, per_channel: bool, power2: bool) -> Rounded:
    """Every weight rounded to its nearest step."""
    weights = {
        c.name: quantize.round_to_nearest(c, per_channel=per_channel, power2=power2)
        for c in net.convs
    }
    return Rounded(net, weights)


def gptq(
    net: FloatNetwork,
    table: CalibrationTable,
    samples: Samples,
    *,
    per_channel: bool,
    power2: bool,
) -> Rounded:
    """Rounds the weights of all layers, in topological order, to serve the quantized inputs.

    The same samples give the same bytes: sums run over the tiles in their order, each tile's BLAS
    on one thread.
    """
    rounded = nearest(net, per_channel=per_channel, power2=power2)
    values: list[dict[str, reference.Array]] = [{net.input: x[0]} for x in samples.tiles]
    fixed, reads = corrections(net), [_reads(net, op) for op in net.ops]
    with threadpool_limits(limits=1):
        for i, op in enumerate(net.ops):
            if isinstance(op, FloatConv) and op.output not in fixed:
                integer = rounded.network(table)
                s_x = integer.tensors[op.input].q.scale
                moments = _moments(op, net, integer, samples, values)
                weight, bias = _round_layer(op, moments, s_x, per_channel, power2)
                rounded = _with_layer(rounded, op, weight, bias)
            integer = rounded.network(table)
            later = {name for names in reads[i + 1 :] for name in names}
            for tile, y in zip(values, _golden(i, integer, samples, values), strict=True):
                tile[op.output] = y
                for name in set(tile) - later:
                    del tile[name]
    return rounded


def _golden(
    i: int, net: Network, samples: Samples, values: Sequence[Mapping[str, reference.Array]]
) -> Iterator[reference.Array]:
    """What operator `i` makes of each tile, by the golden model."""
    op = net.ops[i]
    return samples.each(lambda t, _: reference.GOLDEN[type(op)](op, net, values[t]))


def _reads(net: FloatNetwork, op: FloatOp) -> tuple[str, ...]:
    low = low_input(net, op) if isinstance(op, FloatConv) else None
    return (*op.inputs, low) if low else op.inputs


def _with_layer(rounded: Rounded, op: FloatConv, weight: RoundedWeights, bias: F32) -> Rounded:
    ops = tuple(
        replace(o, bias=bias) if isinstance(o, FloatConv) and o.name == op.name else o
        for o in rounded.net.ops
    )
    return Rounded(replace(rounded.net, ops=ops), {**rounded.weights, op.name: weight})


@dataclass(frozen=True, eq=False)
class _Moments:
    """H and C of one group of a convolution, binary64 [n + 1, n + 1], the last row the ones."""

    h: F64
    c: F64


def _moments(
    op: FloatConv,
    net: FloatNetwork,
    integer: Network,
    samples: Samples,
    values: Sequence[Mapping[str, reference.Array]],
) -> list[_Moments]:
    floats = FloatValues(net, [op.input])
    zero_point, fill = integer.tensors[op.input].q.zero_point, integer.padding(op.input)
    low = low_input(net, op)
    inputs = op.weight.shape[1]

    def of_tile(i: int, tile: F32) -> list[_Moments]:
        known, exact = values[i], floats.of(tile)[op.input]
        if low:
            exact = exact - qparams.dequantize(known[low].astype(np.int8), integer.tensors[low].q)
        found = []
        for g in range(op.groups):
            part = slice(g * inputs, (g + 1) * inputs)
            u_q = _columns(op, known[op.input][part], zero_point, fill)
            u_f = _columns(op, exact[part], 0, net.outside(op.input))
            kept = np.ones(u_q.shape[1], np.bool_)
            if op.input != net.ops[0].output:
                kept = _unsaturated(u_q, zero_point)
            root = np.sqrt(_importance(u_f, op.kernel, kept))
            u_q *= root
            u_f *= root
            found.append(_Moments(u_q @ u_q.T, u_q @ u_f.T))
        return found

    n = int(np.prod(op.weight.shape[1:])) + 1
    h, c = np.zeros((op.groups, n, n)), np.zeros((op.groups, n, n))
    shapes = [known[op.input].shape for known in values]
    positions = max(math.prod(output_size(op, (h, w))) for _, h, w in shapes)
    for found in samples.each(of_tile, at_once=_COLUMNS // (2 * n * positions)):
        for g, moments in enumerate(found):
            h[g] += moments.h
            c[g] += moments.c
    return [_Moments(*pair) for pair in zip(h, c, strict=True)]


def _importance(u_f: F64, kernel: Size, kept: NDArray[np.bool_]) -> F64:
    """Weight of every column, 1 on average over those kept, 0 of others: binary64 [positions].

    Args:
        u_f: float columns [channels * kh * kw + 1, positions].
    """
    windows = u_f[:-1].reshape(-1, kernel[0] * kernel[1], u_f.shape[1])
    variance = windows.var(axis=1).mean(axis=0)
    flat = FLAT * variance[kept].mean()
    weight = kept / (variance + flat) if flat else kept.astype(np.float64)
    return np.asarray(weight / weight[kept].mean(), np.float64)


def _unsaturated(u_q: F64, zero_point: int) -> NDArray[np.bool_]:
    """Columns without a saturated input, all of them where those are most.

    A saturated value says only "at least": least squares would make up for what is missing by
    larger weights, which the many positions without saturation, smooth ones above all, pay for.
    """
    low, high = INT8_MIN - zero_point, INT8_MAX - zero_point
    kept = (u_q[:-1].max(axis=0) < high) & (u_q[:-1].min(axis=0) > low)
    return kept if kept.mean() > 0.5 else np.ones_like(kept)


def _columns(op: ConvChain, x: reference.Array, zero_point: int, outside: float) -> F64:
    """im2col columns of x - zero_point over a row of ones: binary64 [n + 1, positions]."""
    columns = reference.columns(op, x, zero_point, outside)
    return np.concatenate([columns, np.ones((1, columns.shape[1]))])


def _round_layer(
    op: FloatConv, moments: list[_Moments], s_x: float, per_channel: bool, power2: bool
) -> tuple[RoundedWeights, F32]:
    rows = len(op.weight) // op.groups
    parts = [slice(g * rows, (g + 1) * rows) for g in range(op.groups)]
    targets = [_target(op, p, m, s_x) for p, m in zip(parts, moments, strict=True)]
    weight = np.concatenate([t[:, :-1] for t in targets]).reshape(op.weight.shape) / s_x
    scale = qparams.weight_scales(weight, per_channel=per_channel, power2=power2)
    clips = CLIPS if per_channel and not power2 else (1.0,)
    solved = [
        _round_rows(t, m.h, s_x, scale[p], clips)
        for p, m, t in zip(parts, moments, targets, strict=True)
    ]
    q, scales, bias = (np.concatenate(column) for column in zip(*solved, strict=True))
    integers = q.reshape(op.weight.shape).astype(np.int8)
    return RoundedWeights(integers, scales), bias.astype(np.float32)


def _target(op: FloatConv, part: slice, m: _Moments, s_x: float) -> F64:
    """The damped least-squares weights for integer inputs, s_x W | b: binary64 [rows, n + 1]."""
    weight = op.weight[part].reshape(part.stop - part.start, -1).astype(np.float64)
    bias = op.bias[part, None].astype(np.float64)
    start = np.concatenate([s_x * weight, bias], axis=1)
    damping = np.full(len(m.h), _damping(m.h))
    damping[-1] = 0
    wanted = np.concatenate([weight, bias], axis=1) @ m.c.T + start * damping
    target: F64 = np.linalg.solve(m.h + np.diag(damping), wanted.T).T
    return target


def _damping(h: F64) -> float:
    """White noise as strong as a part of the mean variance; the mean itself is the bias's."""
    variance = np.diag(h)[:-1] - h[:-1, -1] ** 2 / h[-1, -1]
    return DAMPING * max(0.0, float(variance.mean())) or 1.0


def _round_rows(
    target: F64, h: F64, s_x: float, scale: F32, clips: tuple[float, ...]
) -> tuple[F64, F32, F64]:
    """Integers [rows, n], scales [rows] and biases [rows] of one group.

    The bias is free (it is rounded 2^16 times finer), so it is eliminated from H first.
    """
    n = len(h) - 1
    mean = h[:n, n] / h[n, n]
    centred = h[:n, :n] - np.outer(h[:n, n], mean)
    centred[np.diag_indices(n)] += _damping(h)
    scales = (scale[:, None] * np.array(clips, np.float32)).reshape(-1)
    wanted = target[:, :n].repeat(len(clips), axis=0) / (scales * np.float64(s_x))[:, None]
    q = obq(wanted, centred)
    error = ((wanted - q) @ centred * (wanted - q)).sum(axis=1) * scales.astype(np.float64) ** 2
    best = error.reshape(-1, len(clips)).argmin(axis=1) + np.arange(len(scale)) * len(clips)
    q, scales = q[best], scales[best]
    left = target[:, :n] - q * (scales * np.float64(s_x))[:, None]
    return q, scales, target[:, n] + left @ mean


def obq(wanted: F64, h: F64) -> F64:
    """Integers q in [-127, 127] that make (w - q) H (w - q)^T small, for each row w of `wanted`.

    Args:
        wanted: binary64 [rows, n], in steps.
        h: binary64 [n, n], positive definite.
    """
    order = np.argsort(-np.diag(h), kind="stable")
    h, w = h[np.ix_(order, order)], wanted[:, order].copy()
    upper = np.linalg.cholesky(np.linalg.inv(h)).T
    q = np.empty_like(w)
    for i in range(len(h)):
        q[:, i] = _integers(w[:, i])
        w[:, i + 1 :] -= np.outer((w[:, i] - q[:, i]) / upper[i, i], upper[i, i + 1 :])
    _polish(q, wanted[:, order], h)
    result = np.empty_like(q)
    result[:, order] = q
    return result


def _polish(q: F64, wanted: F64, h: F64) -> None:
    """Coordinate descent in place: each integer takes its best value with the others held."""
    gradient = (wanted - q) @ h
    for _ in range(_POLISH):
        moved = False
        for i in range(len(h)):
            step = _integers(q[:, i] + gradient[:, i] / h[i, i]) - q[:, i]
            if step.any():
                moved = True
                q[:, i] += step
                gradient -= np.outer(step, h[i])
        if not moved:
            break


def _integers(w: F64) -> F64:
    rounded: F64 = np.clip(np.rint(w), -WEIGHT_MAX, WEIGHT_MAX)
    return rounded
