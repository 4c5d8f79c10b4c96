"""compiler.analyze: parts that must add up to the whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from compiler import analyze, bundle, pipeline, spec
from compiler.analyze import Analysis
from compiler.bundle import Bundle
from compiler.errors import BundleError
from compiler.float_values import FloatValues
from compiler.progress import silent
from compiler.runner import Session
from compiler.verify import pairs_of
from tests.compiler.conftest import tiny_spec


@pytest.fixture(scope="module")
def recovered(tiny_folder: Path) -> Bundle:
    """A build with everything that recovery has."""
    wish = {
        "calibrate_mode": "max",
        "equalize": True,
        "split_residuals": True,
        "rounding": "gptq",
        "search": "output",
    }
    path = tiny_spec(tiny_folder, name="recovered", backend__quantize=wish)
    result = pipeline.run(spec.load(path), silent(), out=tiny_folder / "others")
    assert result.bundle is not None
    return bundle.load(result.bundle)


@pytest.fixture(scope="module")
def analysis(recovered: Bundle) -> Analysis:
    pairs, _, _ = pairs_of(recovered.spec.verify, recovered.engine.scaling.rate)
    return analyze.analyze(recovered, pairs, silent())


def test_the_float_network_of_the_bundle_is_the_fp32_model(recovered):
    floats = analyze.float_network(recovered)
    x = np.random.default_rng(0).random((1, 3, 20, 24), dtype=np.float32)
    expected = Session(recovered.engine.fp32).run(x)[0]
    found = FloatValues(floats, [floats.output]).of(x)[floats.output]
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


def test_every_part_is_there_and_the_dearest_comes_first(recovered, analysis):
    floats = analyze.float_network(recovered)
    names = {(c.kind, c.part) for c in analysis.costs}
    assert names >= {("weights", "all"), ("activations", "all")}
    assert names >= {("weights", c.name) for c in floats.convs}
    assert names >= {("activations", p) for p in floats.rounding_points}
    alone = [c.alone_db for c in analysis.costs]
    assert alone == sorted(alone, reverse=True)


def test_the_two_halves_of_the_quantization_complete_each_other(analysis):
    """All activations without weights is the same network as weights' `without`, and conversely."""
    cost = {(c.kind, c.part): c for c in analysis.costs}
    activations, weights = cost["activations", "all"], cost["weights", "all"]
    assert activations.alone_db == pytest.approx(weights.without_db, abs=1e-12)
    assert weights.alone_db == pytest.approx(activations.without_db, abs=1e-12)


def test_qualities_are_in_their_ranges(analysis):
    for tensor in analysis.tensors:
        assert tensor.sqnr_db > 10
        assert 0.9 < tensor.cosine <= 1 + 1e-9
        assert 0 <= tensor.clipped_fraction < 0.2
    analyze.show(silent(), "recovered", analysis)


def test_a_bundle_without_channel_scales_is_refused(recovered, tmp_path: Path):
    missing = Bundle(tmp_path, recovered.spec, recovered.manifest, recovered.engine)
    with pytest.raises(BundleError, match="channel scales"):
        analyze.float_network(missing)
