"""Calibration and the QDQ model: the same bytes from any number of threads and order of images."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest
import threadpoolctl

from calib.images import write_image
from calib.methods import Percentile
from compiler import calibrate, fusion, pipeline, qdq, spec
from compiler.dataset import Photo
from compiler.progress import silent
from tests.compiler.conftest import photograph, tiny_spec
from tests.compiler.test_calibrate import OPS
from tests.graphs import bicubic_plusplus, residual_groups


def pictures(folder: Path) -> list[Photo]:
    made = []
    for i in range(5):
        path = folder / f"{i}.png"
        write_image(path, photograph(i, 64 + 4 * i, 96))
        made.append(Photo(path.name, path))
    return made


@pytest.mark.parametrize("graph", [bicubic_plusplus(2, 32), residual_groups()])
def test_the_table_follows_from_the_set_of_images(graph: object, tmp_path: Path) -> None:
    net, photos = fusion.fuse(graph.model()), pictures(tmp_path)  # type: ignore[attr-defined]

    def table(order: list[Photo], threads: int) -> str:
        seen = calibrate.observe(net, order, OPS, silent(), threads=threads)
        return calibrate.choose(net, seen, Percentile(0.999), symmetric=True)[0].to_json()

    expected = table(photos, 1)
    for threads in (2, 3, 4):
        assert table(photos, threads) == expected, f"{threads} threads"
    for seed in range(3):
        assert table(random.Random(seed).sample(photos, len(photos)), 2) == expected


def quantized(path: Path, out: Path) -> tuple[str, bytes]:
    """calibration.json and qdq.onnx of a build; of what it kept before, only the graph is used."""
    for kept in out.rglob("*"):
        if kept.suffix in (".observed", ".integer", ".equalization"):
            kept.unlink()
    result = pipeline.run(spec.load(path), silent(), out=out, until="quantize")
    assert result.table is not None
    assert result.net is not None
    return result.table.to_json(), qdq.write(result.net).SerializeToString(deterministic=True)


def test_a_build_recovers_the_same_network_whatever_the_threads_and_the_order(
    tmp_path: Path,
) -> None:
    """With everything that recovery does; the order of the images is that of their names."""
    out = tmp_path / "out"

    def wished(threads: int) -> Path:
        return tiny_spec(
            tmp_path,
            backend__quantize__equalize=True,
            backend__quantize__rounding="gptq",
            backend__quantize__search="output",
            backend__compile__host={"isa": "portable", "threads": threads},
        )

    expected = quantized(wished(1), out)
    assert quantized(wished(3), out) == expected
    with threadpoolctl.threadpool_limits(1):
        assert quantized(wished(2), out) == expected
    with threadpoolctl.threadpool_limits(4):
        assert quantized(wished(2), out) == expected
    folder = tmp_path / "calibration"
    names = sorted(path.name for path in folder.iterdir())
    shutil.move(folder, tmp_path / "before")
    folder.mkdir()
    for old, new in zip(names, names[::-1], strict=True):
        shutil.copy(tmp_path / "before" / old, folder / new)
    assert quantized(wished(1), out) == expected
