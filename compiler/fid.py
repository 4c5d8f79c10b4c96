"""`python -m compiler.fid BUNDLE --inception FILE`: Fréchet inception distance on patches.

Features come from an Inception network in ONNX that the user names: one input, float32
[1, 3, patch, patch] RGB, and the feature vector as its first output. Images pass one at a time.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from calib.errors import DataError
from compiler import cli, metrics
from compiler.accuracy import COMPETITORS
from compiler.data import Pair
from compiler.engine import Engine
from compiler.errors import ModelError
from compiler.metrics import Fid, Float64, Image
from compiler.progress import Reporter
from compiler.protocols import PROTOCOLS


def extractor(inception: Path, peak: float) -> Callable[[Image], NDArray[np.float32]]:
    """A function from one patch [P, P, 3] in [0, 255] to its features.

    Args:
        peak: what 255 becomes: 1 or 255, whichever the network was trained for.
    Raises:
        ModelError: the file is no ONNX network.
    """
    from compiler.runner import Session  # onnxruntime: slow to import, not for --help

    try:
        model = onnx.load_model_from_string(inception.read_bytes())
    except Exception as error:  # a missing file, or protobuf's own kinds
        raise ModelError(
            "the Inception network cannot be read",
            where=str(inception),
            fix="name an ONNX file: float32 [1, 3, patch, patch] in, features out",
        ) from error
    session = Session(model)

    def features(patch: Image) -> NDArray[np.float32]:
        x = patch.astype(np.float32).transpose(2, 0, 1)[None] * np.float32(peak / 255)
        return np.asarray(session.run(x), np.float32).ravel()

    return features


def measure(
    engine: Engine,
    pairs: Sequence[Pair],
    features: Callable[[Image], NDArray[np.float32]],
    *,
    patch: int,
    allow_few: bool,
    reporter: Reporter,
) -> dict[str, Fid]:
    """FID of fp32, int8 and bicubic against the ground truth, protocol `standard`.

    Raises:
        DataError: fewer than 2048 patches, unless `allow_few`; or the network is not RGB.
    """
    if engine.net.output_tensor.channels != 3:
        raise DataError("FID needs an RGB network", fix="measure PSNR and SSIM instead")
    found: dict[str, list[Float64]] = {name: [] for name in ("truth", *COMPETITORS)}
    for pair in reporter.track(pairs, "features"):
        answers = PROTOCOLS["standard"](engine, pair.name, *pair.read())
        for name in found:
            vectors = metrics.patch_features(getattr(answers, name), features, patch)
            if len(vectors):
                found[name].append(vectors)
    stacked = {n: np.concatenate(v) if v else np.empty((0, 0)) for n, v in found.items()}
    truth = stacked["truth"]
    return {n: metrics.fid(truth, stacked[n], allow_few=allow_few) for n in COMPETITORS}


def parser() -> argparse.ArgumentParser:
    """Arguments of the command."""
    result = cli.command(
        "fid",
        "Fréchet inception distance of fp32, int8 and bicubic to the ground truth.",
        examples=("artifacts/bpp3x_int8 --inception inception.onnx --hr DIV2K_valid_HR",),
    )
    result.add_argument("bundle", type=Path, metavar="BUNDLE", help="a bundle's directory")
    result.add_argument(
        "--inception",
        type=Path,
        required=True,
        metavar="FILE",
        help="an ONNX network: float32 [1, 3, patch, patch] in, features out",
    )
    result.add_argument("--peak", type=float, default=1.0, help="what 255 becomes; default 1")
    result.add_argument("--patch", type=cli.count, default=299, help="side of a patch; default 299")
    cli.with_ground_truth(result)
    result.add_argument(
        "--allow-few", action="store_true", help="fewer than 2048 patches, marked unreliable"
    )
    return cli.with_output(result, "the distances")


def run(args: argparse.Namespace, reporter: Reporter) -> int:
    """Measures and prints; the number of patches stands beside every figure."""
    from compiler import bundle, verify

    features = extractor(args.inception, args.peak)
    opened = bundle.load(args.bundle)
    options = verify.on_images_of(args, opened.spec.verify)
    pairs, dataset, warnings = verify.pairs_of(options, opened.engine.scaling.rate)
    for warning in warnings:
        reporter.warn(warning)
    kept = verify.held_out(pairs, opened.engine.calibrated_on)
    result = measure(
        opened.engine,
        kept,
        features,
        patch=args.patch,
        allow_few=args.allow_few,
        reporter=reporter,
    )
    for name, fid in result.items():
        mark = "" if fid.reliable else ", UNRELIABLE: fewer than 2048"
        reporter.stage(f"{name:<8} FID {fid.value:.3f}  (N = {fid.patches} patches{mark})")
    values = {name: asdict(fid) for name, fid in result.items()}
    cli.write_result(args.json, {"dataset": dataset, "patch": args.patch, "fid": values})
    return 0


if __name__ == "__main__":
    cli.main(parser(), run)
