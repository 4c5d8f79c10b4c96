"""Verification: the fp32 network, the int8 library and plain bicubic on the same held-out images.

`python -m compiler.verify` re-measures bundles; `measure` is the stage that the build calls. On a
sample of the images the library must equal the golden model bit for bit.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from calib.errors import DataError
from calib.images import digest
from compiler import accuracy, cli, crops, reference, scaling, summary, vectors
from compiler import bundle as bundle_module
from compiler.accuracy import Accuracy, BitExactness, ImageAccuracy
from compiler.bundle import Bundle
from compiler.crops import Answers, Crop
from compiler.data import SUBSET_48, Pair, pair, sample_pairs
from compiler.engine import Engine
from compiler.errors import BundleError, NotBitExactError
from compiler.progress import Reporter
from compiler.protocols import PROTOCOLS
from compiler.schema import Gate, Protocol, Verify

Array = NDArray[np.generic]
EXACT_SAMPLES = 3  # images of a set on which the golden model runs too


def pairs_of(verify: Verify, rate: int) -> tuple[tuple[Pair, ...], str, tuple[str, ...]]:
    """The images that a spec verifies on, where they come from, and warnings.

    The sample photographs stand in where no `hr` is named, or its folder is absent.

    Raises:
        DataError: a file lacks its partner, sizes do not fit, or `verify.scale` is not the rate.
    """
    if verify.scale not in (None, rate):
        raise DataError(
            f"verify.scale is {verify.scale}, but the network scales by {rate}",
            where="verify.scale",
            fix=f"leave it out, or write scale: {rate}",
        )
    if verify.hr and Path(verify.hr).is_dir():
        lr = Path(verify.lr) if verify.lr else None
        subset = SUBSET_48 if verify.subset else None
        return pair(lr, Path(verify.hr), rate, subset), verify.hr, ()
    pairs = sample_pairs(rate)
    where = f"{verify.hr} is absent" if verify.hr else "the spec names no verify.hr"
    loud = f"verifying on {len(pairs)} SAMPLE photographs of scikit-image: {where}"
    return pairs, "samples", (loud,)


def held_out(pairs: Sequence[Pair], calibrated_on: frozenset[str]) -> tuple[Pair, ...]:
    """The pairs whose LR content the build was not calibrated on.

    Raises:
        DataError: none remains.
    """
    remaining = tuple(p for p in pairs if digest(p.read_lr()) not in calibrated_on)
    if not remaining:
        raise DataError(
            f"all {len(pairs)} verification images are calibration images too",
            where="verify",
            fix="verify on other images, or calibrate on fewer (dataset.sampler.get_data_num)",
        )
    return remaining


def measure(
    engine: Engine,
    kept: Sequence[Pair],
    dataset: str,
    *,
    excluded: int,
    protocol: Protocol,
    gate: Gate,
    reporter: Reporter,
) -> Accuracy:
    """Scores every pair and compares library and golden model on a sample of them.

    Args:
        kept: the pairs that are held out (`held_out`).
        excluded: how many were left out.
    Raises:
        DataError: an image does not fit.
        NotBitExactError: the library differs from the golden model.
    """
    exact = set(np.linspace(0, len(kept) - 1, min(EXACT_SAMPLES, len(kept))).round().astype(int))
    images, values = [], 0
    worst: tuple[Crop, ...] = ()
    for i, item in enumerate(reporter.track(kept, f"verification ({protocol})")):
        answers = PROTOCOLS[protocol](engine, item.name, *item.read())
        images.append(_scores(answers))
        worst = crops.worst(worst, answers)
        if i in exact:
            values += require_equal(engine.run_golden(answers.x), answers.y, f"image {item.name}")
    return Accuracy(
        protocol=protocol,
        dataset=dataset,
        excluded=excluded,
        images=tuple(images),
        bit_exact=BitExactness(True, len(exact), values),
        gate=accuracy.judge(images, gate, protocol),
        seed=engine.spec.backend.quantize.seed,
        channels=engine.net.output_tensor.channels,
        crops=worst,
    )


def _scores(answers: Answers) -> ImageAccuracy:
    """Scores of all competitors on one image."""

    def scored(image: scaling.Image) -> accuracy.Scores:
        return accuracy.score(answers.truth, image, answers.border, with_y=answers.with_y)

    return ImageAccuracy(
        answers.name,
        fp32=scored(answers.fp32),
        int8=scored(answers.int8),
        bicubic=scored(answers.bicubic),
    )


def check_main_libraries(engine: Engine) -> BitExactness:
    """Compares `mod.so` and its portable twin with the golden model at the spec's size.

    The input is the one whose answer golden/main.json records.

    Raises:
        NotBitExactError: they differ.
    """
    net, size = engine.main_net, engine.main_size
    x = vectors.main_input(vectors.small_input(net.input_tensor.channels), net, size)
    golden = reference.run(net.logits, x)  # where the libraries end
    values = require_equal(golden, engine.library(net, size)(x), bundle_module.LIBRARY)
    if engine.portable:
        portable = engine.portable.library(net, size)(x)
        values += require_equal(golden, portable, bundle_module.PORTABLE_LIBRARY)
    return BitExactness(True, 1, values)


def require_equal(golden: Array, library: Array, where: str) -> int:
    """Number of values compared; all are equal.

    Raises:
        NotBitExactError: tells how many differ, and how far.
    """
    if golden.shape == library.shape and np.array_equal(golden, library):
        return golden.size
    gap = np.abs(golden.astype(np.float64) - library.astype(np.float64))
    raise NotBitExactError(
        f"the library differs from the golden model in {int((gap > 0).sum())} of {golden.size} "
        f"values, by at most {float(gap.max()):g}",
        where=where,
        fix="please report it with the bundle; until then build with "
        "`--set backend.compile.host.isa=portable`",
    )


def with_main_library(result: Accuracy, main: BitExactness) -> Accuracy:
    """The same accuracy, its comparison extended by that of `mod.so`."""
    own = result.bit_exact
    total = BitExactness(own.equal, own.images + main.images, own.values + main.values)
    return replace(result, bit_exact=total)


def measure_engine(
    engine: Engine, options: Verify, reporter: Reporter
) -> tuple[Accuracy, tuple[str, ...]]:
    """Accuracy with the images and gate of `options`, `mod.so` compared too; and warnings."""
    pairs, dataset, warnings = pairs_of(options, engine.scaling.rate)
    kept = held_out(pairs, engine.calibrated_on)
    result = measure(
        engine,
        kept,
        dataset,
        excluded=len(pairs) - len(kept),
        protocol=options.protocol,
        gate=options.gate,
        reporter=reporter,
    )
    with reporter.busy("mod.so against the golden model"):
        exact = check_main_libraries(engine)
    return with_main_library(result, exact), warnings


def on_images_of(args: argparse.Namespace, options: Verify) -> Verify:
    """A `verify:` block with the images of `cli.with_ground_truth`, where they are given.

    Raises:
        DataError: --lr without --hr.
    """
    if args.lr and not args.hr:
        raise DataError("--lr needs --hr", fix="name the ground truth with --hr DIR")
    return options.model_copy(update={"hr": args.hr, "lr": args.lr}) if args.hr else options


def _options(bundle: Bundle, args: argparse.Namespace) -> Verify:
    """The spec's `verify:` block with what the command line replaces."""
    options = on_images_of(args, bundle.spec.verify)
    if args.subset:
        options = options.model_copy(update={"subset": args.subset})
    if args.protocol:
        options = options.model_copy(update={"protocol": args.protocol})
    rate = bundle.engine.scaling.rate
    if args.scale not in (None, rate):
        raise DataError(
            f"--scale {args.scale}, but the network of {bundle.name} scales by {rate}",
            fix=f"leave --scale out, or write --scale {rate}",
        )
    return options


def parser() -> argparse.ArgumentParser:
    """Arguments of the command."""
    result = cli.command(
        "verify",
        "Re-measure accuracy, bit-exactness and digests of bundles.",
        examples=(
            "",
            "artifacts/bpp3x_int8 --hr Set5/HR",
            "artifacts/bpp3x_int8 --protocol vendor --json accuracy.json",
        ),
        status="0 ok, 1 gate missed, 2 bad input or tampered bundle,\n"
        "3 the library differs from the golden model",
    )
    result.add_argument(
        "bundles",
        nargs="*",
        type=Path,
        metavar="BUNDLE",
        help="bundle directories; default: every bundle in artifacts/",
    )
    cli.with_ground_truth(result)
    result.add_argument(
        "--subset",
        choices=["bicubic_plusplus_48"],
        help="the 48 DIV2K validation images of the Bicubic++ authors",
    )
    result.add_argument("--scale", type=int, metavar="N", help="the expected rate, as a check")
    result.add_argument("--protocol", choices=["standard", "vendor"], help="default: the spec's")
    return cli.with_output(result, "accuracy.json's object, {name: object} of several bundles,")


def run(args: argparse.Namespace, reporter: Reporter) -> int:
    """Measures every bundle; 1 where a gate is missed."""
    paths = args.bundles or bundle_module.find(Path("artifacts"))
    if not paths:
        raise BundleError(
            "there is no bundle in artifacts/", fix="build one with `make build CFG=...`"
        )
    results: dict[str, Accuracy] = {}
    for path in paths:
        bundle = bundle_module.load(path)
        result, warnings = measure_engine(bundle.engine, _options(bundle, args), reporter)
        for warning in warnings:
            reporter.warn(warning)
        summary.show_accuracy(reporter, bundle.name, result)
        results[bundle.name] = result
    objects = {name: result.to_json() for name, result in results.items()}
    cli.write_result(args.json, objects if len(objects) > 1 else next(iter(objects.values())))
    return 0 if all(result.gate.passed for result in results.values()) else 1


if __name__ == "__main__":
    cli.main(parser(), run)
