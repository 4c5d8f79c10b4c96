"""`python -m compiler.bench BUNDLE`: latency of the library, of its peers, and of each layer."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray

from compiler import cli, peers, qdq, runner
from compiler import latency as clock
from compiler.errors import HostError
from compiler.host import FEATURES, Host, require
from compiler.latency import Latency, Track
from compiler.network import Network, Size
from compiler.progress import Reporter

if TYPE_CHECKING:  # tvm: slow to import, not for --help
    from compiler.library import Library

Array = NDArray[Any]
CALIBRATION_IMAGES, CALIBRATION_SIDE = 4, 256  # random; they do not change the peers' speed
RUNS = 15
SETTLE_S = 0.25  # ONNX Runtime's threads spin for some 100 ms after a call


@dataclass(frozen=True)
class LayerLatency:
    """One operator alone: its kernel, time, and multiplications as the layer is defined."""

    name: str
    kernel: str
    median_ms: float
    gmacs_per_s: float
    share_of_peak: float  # of the measured peak of its dot product; above 1 where Winograd saves

    def to_json(self) -> dict[str, Any]:
        """One entry of `layers`."""
        return {
            "name": self.name,
            "kernel": self.kernel,
            "median_ms": round(self.median_ms, 3),
            "gmacs_per_s": round(self.gmacs_per_s, 1),
            "share_of_peak": round(self.share_of_peak, 3),
        }


@dataclass(frozen=True)
class Memory:
    """Growth of the resident set by loading and running the library, without the output."""

    beyond_io_bytes: int


def peer_calls(
    fp32: onnx.ModelProto,
    net: Network,
    size: Size,
    threads: int,
) -> dict[str, Callable[[], object]]:
    """ONNX Runtime fp32 and int8, and OpenVINO int8 (quantized by NNCF), on the same input.

    ONNX Runtime's int8 path is timed with its optimizations on, where its sums may saturate.

    Raises:
        HostError: openvino or nncf is not installed.
    """
    x = runner.random_input(net.input_tensor.channels, *size, seed=0)
    plain = runner.Session(fp32, threads=threads)
    quantized = runner.Session(qdq.write(net), threads=threads)
    return {
        "openvino_int8": _openvino(fp32, x, threads),
        "onnxruntime_int8": lambda: quantized.run(x),
        "onnxruntime_fp32": lambda: plain.run(x),
    }


def _openvino(fp32: onnx.ModelProto, x: Array, threads: int) -> Callable[[], object]:
    _, openvino = peers.packages()
    model = peers.openvino_model(fp32)
    small = (1, x.shape[1], CALIBRATION_SIDE, CALIBRATION_SIDE)
    model.reshape(small)
    rng = np.random.default_rng(0)
    images = [rng.random(small, dtype=np.float32) for _ in range(CALIBRATION_IMAGES)]
    quantized = peers.quantize(model, images)
    quantized.reshape(x.shape)
    options = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY"}
    request = openvino.Core().compile_model(quantized, "CPU", options).create_infer_request()
    return lambda: request.infer({0: x}, share_inputs=True, share_outputs=True)


def measure(
    library: Library,
    x: Array,
    others: Mapping[str, Callable[[], object]],
    runs: int = RUNS,
    track: Track = iter,
) -> dict[str, Latency]:
    """Latency of the library (under "library") and of `others`, interleaved in one run.

    Each is timed in its stride, as in a video: after calls of its own, untimed.
    """
    calls = {"library": lambda: library(x), **others}
    return clock.measure(calls, runs, track=track, settle_s=SETTLE_S if others else 0)


def layers(
    net: Network,
    size: Size,
    host: Host,
    runs: int = RUNS,
    track: Track = iter,
) -> tuple[list[LayerLatency], dict[str, float]]:
    """Each operator alone, interleaved, and the measured peaks in GMAC/s."""
    from compiler.kernels.measure import layer_calls, peak_calls

    peak_functions = peak_calls(host)
    timed = clock.measure({k: call for k, (_, call) in peak_functions.items()}, runs)
    peaks = {k: macs / timed[k].median_ms / 1e6 for k, (macs, _) in peak_functions.items()}
    parts = layer_calls(net, size, host)
    times = clock.measure({p.name: p.call for p in parts}, runs, track=track)
    result = []
    for part in parts:
        ms = times[part.name].median_ms
        rate = part.macs / ms / 1e6
        peak = peaks["bytes" if "vpdpbusd" in part.kernel else "int16 pairs"]
        result.append(LayerLatency(part.name, part.kernel, ms, rate, rate / peak))
    return result, peaks


def memory(path: Path, host: Host, x: Array) -> Memory:
    """Resident memory of the loaded library: code, constants, workspace."""
    from compiler.library import load_library

    before = _resident_bytes()
    library = load_library(path, host)
    y = library(x)
    return Memory(_resident_bytes() - before - y.nbytes)


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def parser() -> argparse.ArgumentParser:
    """Arguments of the command."""
    result = cli.command(
        "bench",
        "Measure the latency of a bundle's library on this machine.",
        examples=(
            "artifacts/bpp3x_int8",
            "artifacts/bpp3x_int8 --peers --layers --save",
            "artifacts/bpp3x_int8 --threads 1 --runs 50 --json -",
            "artifacts/bpp3x_int8 --peers --isa avx2",
        ),
    )
    result.add_argument("bundle", type=Path, metavar="BUNDLE", help="a bundle's directory")
    result.add_argument(
        "--peers",
        action="store_true",
        help="also OpenVINO int8, ONNX Runtime int8 and fp32, interleaved",
    )
    result.add_argument("--layers", action="store_true", help="also each layer alone")
    result.add_argument(
        "--threads", type=cli.count, metavar="N", help="build for N threads instead"
    )
    result.add_argument(
        "--isa",
        choices=tuple(FEATURES),
        help="build for this instruction set instead, and hold OpenVINO's convolutions to it (ONNX"
        " Runtime has no such switch): about what a processor without the others would measure",
    )
    result.add_argument(
        "--runs", type=cli.count, default=RUNS, metavar="N", help=f"calls of each, default {RUNS}"
    )
    result.add_argument(
        "--save", action="store_true", help="keep the figures in the bundle and in its report"
    )
    return cli.with_output(result, "the figures")


def run(args: argparse.Namespace, reporter: Reporter) -> int:
    """Measures one bundle."""
    from compiler import bundle, measured

    engine = bundle.load(args.bundle).engine
    other = Host(args.isa or engine.host.isa, args.threads or engine.host.threads)
    if other != engine.host:
        require(other.isa)
        if args.save:
            raise HostError(
                "--save keeps the figures of the bundle's own library",
                where="--isa" if args.isa else "--threads",
                fix="leave it out, or take --json FILE instead of --save",
            )
        engine = replace(engine, host=other, main_library=None)
    net, size, host = engine.main_net, engine.main_size, engine.host
    x = measured.input_for(net, size)
    with reporter.busy("compiling the library"):
        path = engine.library_path(net, size)
    used = memory(path, host, x)
    others: dict[str, Callable[[], object]] = {}
    if args.peers:
        if args.isa:
            peers.hold_openvino_to(args.isa)
        with reporter.busy("preparing the peers"):
            others = peer_calls(engine.fp32, engine.net, size, host.threads)

    def rounds(label: str) -> Track:
        return lambda runs: reporter.track(runs, label, still=True)

    times = measure(engine.library(net, size), x, others, args.runs, rounds("frames"))
    ours = times["library"].to_json() | {"memory_bytes": used.beyond_io_bytes}
    report = measured.latency_figures(engine, ours, {name: times[name] for name in others})
    reporter.stage(f"{host.isa}, {host.threads} threads, input {list(x.shape)}")
    _print_times(times, reporter)
    if args.isa and others:
        report["openvino_held_to"] = args.isa
    if args.layers:
        parts, peaks = layers(net, size, host, args.runs, rounds("layers"))
        report["layers"] = [p.to_json() for p in parts]
        report["peak_gmacs_per_s"] = {k: round(v, 1) for k, v in peaks.items()}
        _print_layers(parts, peaks, reporter)
    cli.write_result(args.json, report)
    if args.save:
        from compiler.report.__main__ import update

        reporter.stage(f"written: {update(args.bundle, report)}")
    return 0


def _print_times(times: Mapping[str, Latency], reporter: Reporter) -> None:
    ours = times["library"].median_ms
    for name, t in times.items():
        reporter.stage(
            f"{name:<18} {t.median_ms:9.2f} ms  (p10 {t.p10_ms:.2f}, p90 {t.p90_ms:.2f})"
            f"  {t.median_ms / ours:6.2f}x"
        )


def _print_layers(
    parts: list[LayerLatency], peaks: Mapping[str, float], reporter: Reporter
) -> None:
    for name, peak in peaks.items():
        reporter.stage(f"measured peak, {name}: {peak:.0f} GMAC/s")
    for part in parts:
        reporter.stage(
            f"{part.name:<18} {part.median_ms:9.2f} ms  {part.gmacs_per_s:7.0f} GMAC/s"
            f"  {part.share_of_peak:6.2f} of peak  {part.kernel}"
        )


if __name__ == "__main__":
    cli.main(parser(), run)
