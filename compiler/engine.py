"""One int8 network, ready to run: the library of any size, the fp32 baseline, the golden model."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx

from calib import qparams
from calib.images import ProcessOp, pointwise_table
from calib.qparams import F32, I8
from compiler import network, ports, qdq, reference, scaling, store
from compiler.host import Host
from compiler.network import Network, Size
from compiler.reference import Array
from compiler.scaling import Net, Rgb
from compiler.schema import Dataset, Spec
from compiler.store import Store

# TVM and ONNX Runtime are slow to import: at first use, so that --help stays quick.
if TYPE_CHECKING:
    from compiler.library import Library
    from compiler.runner import Session


@dataclass(frozen=True, eq=False)
class Engine:
    """One int8 network, ready to run at any size beside its baseline and its golden model.

    Attributes:
        fp32: the baseline graph, sizes symbolic.
        net: the integer network, float32 in and out.
        calibrated_on: content digests of the calibration images.
        libraries: where libraries of other sizes than the main one are kept.
        main_library: the compiled library of the spec's shape and types, if there is one.
        portable_library: the same for any x86-64 processor, if there is one.
    """

    spec: Spec
    fp32: onnx.ModelProto
    net: Network
    host: Host
    libraries: Store
    calibrated_on: frozenset[str] = frozenset()
    main_library: Path | None = None
    portable_library: Path | None = None
    _loaded: dict[Path, Library] = field(default_factory=dict, repr=False, compare=False)

    @property
    def ops(self) -> tuple[ProcessOp, ...]:
        """Pre-processing of the spec; that of 8-bit RGB where it names none."""
        dataset = self.spec.dataset or Dataset()
        return tuple(dataset.process_ops)

    @cached_property
    def scaling(self) -> scaling.Scaling:
        """Rate and grid of the network."""
        return scaling.scaling(self.net)

    @property
    def main_size(self) -> Size:
        """Height and width of `frontend.shape`."""
        return self.spec.frontend.size

    @property
    def frame_table(self) -> I8 | None:
        """int8 [C, 256], Quantize(process_ops(u)); None where a byte is not all that matters."""
        table = pointwise_table(scaling.colour_ops(self.ops), self.net.input_tensor.channels)
        first = self.net.quantize_input
        q = self.net.tensors[first.output].q
        if table is None:
            return None
        return qparams.quantize_normalized(table, first.mean, first.std, q)

    def variant(self, input_kind: network.Kind, output_kind: network.Kind) -> Network:
        """The integer network with other element types at its ends."""
        return ports.with_io(self.net, input_kind, output_kind, self.frame_table)

    @property
    def main_net(self) -> Network:
        """The variant that `mod.so` computes."""
        backend = self.spec.backend
        return self.variant(backend.input.dtype, backend.output.dtype)

    @property
    def portable(self) -> Engine | None:
        """The same network with libraries for any x86-64 processor; None where this one is that."""
        if self.host.isa == "portable":
            return None
        any_host = Host("portable", self.host.threads)
        return replace(
            self, host=any_host, main_library=self.portable_library, portable_library=None
        )

    def library_path(self, net: Network, size: Size) -> Path:
        """The compiled library of a variant for one size: the main one, or from the store."""
        if self.main_library and size == self.main_size and _ends(net) == _ends(self.main_net):
            return self.main_library
        key = store.key(
            "library",
            self._identity,
            _ends(net),
            size,
            self.host.isa,
            self.host.threads,
            metadata.version("apache-tvm"),
        )

        def produce(path: Path) -> None:
            from compiler.library import build_library

            build_library(net, size, self.host, path)

        return self.libraries.get(key, ".so", produce)

    def compile_main(self) -> Path:
        """`library_path` of the spec's shape and types; its portable twin is compiled beside it."""
        twins = [e for e in (self, self.portable) if e]
        with ThreadPoolExecutor() as pool:
            jobs = [pool.submit(e.library_path, self.main_net, self.main_size) for e in twins]
            native, *_ = [job.result() for job in jobs]
        return native

    def kernels(self) -> Mapping[str, str]:
        """The kernel of every operator of the main library, and how it is proved exact."""
        from compiler.library import layer_kernels

        layers = layer_kernels(self.main_net, self.main_size, self.host)
        return {layer.name: layer.kernel for layer in layers}

    def library(self, net: Network, size: Size) -> Library:
        """`library_path`, loaded. It ends before a softmax (`Network.on_host`)."""
        path = self.library_path(net, size)
        if path not in self._loaded:
            from compiler.library import load_library

            self._loaded[path] = load_library(path, self.host)
        return self._loaded[path]

    @cached_property
    def _identity(self) -> str:
        return hashlib.sha256(qdq.write(self.net).SerializeToString(deterministic=True)).hexdigest()

    @cached_property
    def _fp32_session(self) -> Session:
        from compiler.runner import Session

        return Session(self.fp32, threads=self.host.threads)

    def run_fp32(self, x: F32) -> F32:
        """The baseline: float32 [1, C, H, W] in and out."""
        y: F32 = self._fp32_session.run(x)
        return y

    def run_int8(self, x: F32) -> F32:
        """The compiled library with float32 ends, at x's size."""
        net = self.variant("float32", "float32")
        y = self.library(net, (x.shape[2], x.shape[3]))(x)
        return net.on_host(y).astype(np.float32, copy=False)

    def run_golden(self, x: F32) -> F32:
        """The golden model, float32 [1, C, H, W] in and out."""
        return reference.run(self.net, x).astype(np.float32, copy=False)

    def run_frames(self, frame: Rgb) -> Rgb:
        """uint8 [H, W, 3] to uint8 [H r, W r, C], the path of video frames.

        Through the exact table of the pre-processing where it has one, else through float32.
        """
        return self._frames(
            frame, self.run_int8, lambda net, x: self.library(net, (x.shape[1], x.shape[2]))(x)
        )

    def golden_frames(self, frame: Rgb) -> Rgb:
        """`run_frames` by the golden model."""
        return self._frames(frame, self.run_golden, reference.run)

    def _frames(self, frame: Rgb, floats: Net, frames: Callable[[Network, Rgb], Array]) -> Rgb:
        if self.frame_table is None:
            return scaling.upscale(floats, self.ops, frame, self.scaling)
        padded = scaling.pad_frame(frame, self.scaling)[None]
        y = frames(self.variant("uint8", "uint8"), padded)[0]
        rows, cols = (side * self.scaling.rate for side in frame.shape[:2])
        cropped: Rgb = y[:rows, :cols].astype(np.uint8, copy=False)
        return cropped


def _ends(net: Network) -> tuple[network.Kind, network.Kind]:
    return net.input_tensor.kind, net.output_tensor.kind
