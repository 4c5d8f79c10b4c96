"""Calibration: two streaming passes of the float network over the images, then the thresholds.

Pass 1 finds ranges, pass 2 counts histograms with edges from the ranges (`calib.histogram`). ONNX
Runtime supplies the activations of one image at a time; nothing keeps more than that.
"""

from __future__ import annotations

import itertools
import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from calib import table as calib_table
from calib.errors import CalibrationError
from calib.histogram import (
    Histogram,
    Range,
    dump_histograms,
    dump_ranges,
    load_histograms,
    load_ranges,
)
from calib.images import ProcessOp, apply_ops, digest
from calib.methods import Method
from calib.qparams import F32
from calib.table import CalibrationTable, TensorCalibration, from_range
from compiler.dataset import Photo, Rgb
from compiler.errors import ShapeError, SizeError
from compiler.float_values import FloatValues
from compiler.floatnet import FloatConv, FloatNetwork
from compiler.lowparts import completed, derived
from compiler.network import Concat, QuantizeInput, sizes
from compiler.progress import Reporter
from compiler.shapes import MAX_ELEMENTS


@dataclass(frozen=True)
class Observed:
    """What two passes over the images saw, by rounding point.

    Attributes:
        ranges: per channel, over all images.
        halves: histograms of the even-numbered and of the odd-numbered images.
        digests: content digest of every image, in the order of the set.
    """

    ranges: Mapping[str, Range]
    halves: tuple[Mapping[str, Histogram], Mapping[str, Histogram]]
    digests: tuple[str, ...]

    @property
    def histograms(self) -> dict[str, Histogram]:
        """Histograms of all images."""
        even, odd = self.halves
        return {name: even[name].merge(odd[name]) for name in even}


def observe(
    net: FloatNetwork,
    photos: Sequence[Photo],
    ops: Sequence[ProcessOp],
    reporter: Reporter,
    *,
    threads: int,
) -> Observed:
    """Ranges and histograms of every rounding point over all images.

    Args:
        ops: pre-processing of each image, uint8 [H, W, 3] to float32 [C, H, W].
    Raises:
        ImageError: an image cannot be read.
        CalibrationError: an activation is not finite, or there is no image.
        ShapeError: the pre-processing yields another number of channels than the network takes.
        SizeError: the network does not fit an image's size, or would need too much memory for it.
    """
    if not photos:
        raise CalibrationError("there is no image to calibrate on", fix="give at least one")
    activations = _Activations(net, ops, threads)
    ranges: dict[str, Range] = {}
    digests: list[str] = []
    for photo in reporter.track(photos, "calibration: ranges"):
        image = photo.read()
        digests.append(digest(image))
        for name, x in activations.of(image, photo.name):
            seen = Range.of(x, name)
            ranges[name] = ranges[name].merge(seen) if name in ranges else seen
    halves = tuple({n: Histogram.empty(r) for n, r in ranges.items()} for _ in (0, 1))
    for i, photo in enumerate(reporter.track(photos, "calibration: histograms")):
        for name, x in activations.of(photo.read(), photo.name):
            halves[i % 2][name] = halves[i % 2][name].add(x, name)
    return Observed(ranges, (halves[0], halves[1]), tuple(digests))


def dump(observed: Observed) -> bytes:
    """The observations as bytes; same observations, same bytes."""
    parts = (dump_ranges(observed.ranges), *(dump_histograms(h) for h in observed.halves))
    head = {"digests": observed.digests, "lengths": [len(p) for p in parts]}
    return b"".join([json.dumps(head).encode(), b"\n", *parts])


def load(data: bytes) -> Observed:
    """Inverse of `dump`.

    Raises:
        CalibrationError: the bytes are damaged.
    """
    line, _, rest = data.partition(b"\n")
    try:
        head = json.loads(line)
        ends = list(itertools.accumulate(head["lengths"], initial=0))
        ranges, even, odd = (rest[a:b] for a, b in itertools.pairwise(ends))
        halves = (load_histograms(even), load_histograms(odd))
        return Observed(load_ranges(ranges), halves, tuple(head["digests"]))
    except (ValueError, TypeError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise CalibrationError(
            f"the stored observations are damaged: {error}", fix="build again with --fresh"
        ) from error


class _Activations:
    """The float values of every rounding point; those of one image are gone with its iterator."""

    def __init__(self, net: FloatNetwork, ops: Sequence[ProcessOp], threads: int) -> None:
        self.net, self.ops = net, ops
        points = dict.fromkeys((net.quantize_input.output, *net.rounding_points))
        self.values = FloatValues(net, points, threads=threads)

    def of(self, image: Rgb, name: str) -> Iterator[tuple[str, F32]]:
        """(rounding point, float32 [C, H, W]) of one image; its name is for errors."""
        x = apply_ops(self.ops, image)
        channels = self.net.channels[self.net.input]
        if len(x) != channels:
            raise ShapeError(
                f"pre-processing yields {len(x)} channels, the network takes {channels}",
                where=f"image {name}",
                fix="add or remove a ChannelSplit or CvtColor in dataset.process_ops",
            )
        try:
            made = sizes(self.net, (x.shape[1], x.shape[2]))
        except SizeError as error:
            raise SizeError(
                error.what,
                where=f"image {name}",
                fix="add a Resize or CenterCrop to dataset.process_ops",
            ) from error
        if any(self.net.channels[n] * h * w > MAX_ELEMENTS for n, (h, w) in made.items()):
            raise SizeError(
                f"an input of {x.shape[1]}x{x.shape[2]} makes tensors of more than "
                f"{MAX_ELEMENTS} values",
                where=f"image {name}",
                fix="add a CenterCrop to dataset.process_ops (a Resize would take its detail)",
            )
        yield from self.values.of(x[None]).items()


def choose(
    net: FloatNetwork,
    observed: Observed,
    method: Method,
    *,
    symmetric: bool,
    byte_values: F32 | None = None,
) -> tuple[CalibrationTable, tuple[str, ...]]:
    """The threshold of every rounding point, and reasons to doubt them.

    Args:
        byte_values: what pre-processing can give (`calib.images.byte_values`), binary32 [C, 256],
            which tells the range of the graph input; where that is None, `method` estimates it.
    Returns:
        The table and warnings: thresholds that still move between two halves of the images, and
        visible clipping.
    """
    first = net.quantize_input
    joined = any(first.output in group for group in concat_groups(net))

    def table(histograms: Mapping[str, Histogram]) -> CalibrationTable:
        found = ranges_by_method(net, histograms, method, symmetric=symmetric)
        if byte_values is None or joined:
            return found
        hist, values = histograms[first.output], first.normalized(byte_values)
        known = calib_table.of_bytes(hist, values, symmetric)
        return CalibrationTable({**found.tensors, first.output: known})

    whole = table(observed.histograms)
    several = all(hist.total for half in observed.halves for hist in half.values())
    halves = (table(observed.halves[0]), table(observed.halves[1])) if several else None
    doubts = calib_table.warnings(whole, halves)
    return completed(net, whole, observed.histograms, symmetric=symmetric), doubts


def ranges_by_method(
    net: FloatNetwork, histograms: Mapping[str, Histogram], method: Method, *, symmetric: bool
) -> CalibrationTable:
    """The range of every rounding point by `method`, one for those that a Concat joins.

    Without those that follow from others (`lowparts.derived`).
    """
    follow = derived(net)
    own = {
        n: calib_table.calibrate(h, method, symmetric)
        for n, h in histograms.items()
        if n not in follow
    }
    shared: dict[str, TensorCalibration] = {}
    for group in concat_groups(net):
        low, high = min(own[n].low for n in group), max(own[n].high for n in group)
        for n in group:
            shared[n] = from_range(histograms[n], low, high, method.name, symmetric)
    return CalibrationTable(own | shared)


def concat_groups(net: FloatNetwork) -> tuple[frozenset[str], ...]:
    """Rounding points that must share one scale because a Concat joins what they carry."""
    carried: dict[str, frozenset[str]] = {}  # tensor -> the rounding points it carries
    groups: list[frozenset[str]] = []
    for op in net.ops:
        if isinstance(op, FloatConv | QuantizeInput):
            carried[op.output] = frozenset({op.output})
            continue
        joined = frozenset().union(*(carried[name] for name in op.inputs))
        carried[op.output] = joined
        if isinstance(op, Concat) and op.output not in net.float_tensors:
            touching = [group for group in groups if group & joined]
            groups = [group for group in groups if group not in touching]
            groups.append(joined.union(*touching))
    return tuple(groups)
