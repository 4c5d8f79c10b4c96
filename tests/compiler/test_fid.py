from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from calib.errors import DataError
from compiler import bundle, fid, metrics, pipeline
from compiler.data import pair
from compiler.errors import ModelError
from compiler.progress import silent
from tests import graphs

PATCH = 16


def inception(folder: Path) -> Path:
    """A stand-in: one convolution without padding, whose output is the feature vector."""
    g = graphs.Graph(3, (PATCH, PATCH))
    g.conv(2, PATCH - 1, pads=(0, 0, 0, 0))
    path = folder / "inception.onnx"
    path.write_bytes(g.model().SerializeToString())
    return path


def test_fid_of_a_bundle(tiny_build: pipeline.Result, tiny_folder: Path, tmp_path: Path) -> None:
    assert tiny_build.bundle is not None
    engine = bundle.load(tiny_build.bundle).engine
    features = fid.extractor(inception(tmp_path), 1.0)
    pairs = pair(None, tiny_folder / "hr", 2)
    found = fid.measure(engine, pairs, features, patch=PATCH, allow_few=True, reporter=silent())
    assert set(found) == {"fp32", "int8", "bicubic"}
    assert all(f.patches == 3 * 16 and not f.reliable for f in found.values())
    truth = np.concatenate([metrics.patch_features(p.read_hr(), features, PATCH) for p in pairs])
    assert metrics.fid(truth, truth, allow_few=True).value == pytest.approx(0, abs=1e-6)
    assert found["bicubic"].value > 0
    with pytest.raises(DataError, match="48 patches"):
        fid.measure(engine, pairs, features, patch=PATCH, allow_few=False, reporter=silent())


@pytest.mark.parametrize("content", [None, b"no network"])
def test_a_bad_inception_file_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "inception.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelError) as caught:
        fid.extractor(path, 1.0)
    assert caught.value.where == str(path)
