"""A tiny build, made once: Bicubic++ 2x with few channels, small generated photographs."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from calib.images import write_image
from compiler import pipeline, spec
from compiler.progress import silent
from tests import graphs

SIZE = (32, 48)


def photograph(seed: int, height: int, width: int) -> np.ndarray:
    """A smooth picture with edges, uint8 [H, W, 3]."""
    rng = np.random.default_rng(seed)
    low = rng.random((height // 8 + 2, width // 8 + 2, 3)).astype(np.float32)
    image = cv2.resize(low, (width, height), interpolation=cv2.INTER_CUBIC)
    image[height // 3 : height // 2, width // 4 : width // 2] *= 0.3
    return np.clip(image * 255, 0, 255).astype(np.uint8)


def tiny_spec(folder: Path, **changes: object) -> Path:
    """A complete spec with its network and images under `folder`; `changes` are dotted keys."""
    model = folder / "tiny.onnx"
    if not model.exists():
        model.write_bytes(graphs.bicubic_plusplus(2).model().SerializeToString())
        for i in range(3):
            write_image(folder / "calibration" / f"{i}.png", photograph(i, 40, 56))
            write_image(folder / "hr" / f"{i}.png", photograph(10 + i, 66 + i, 70 + 2 * i))
    data: dict = {
        "name": "tiny",
        "frontend": {"type": "onnx", "checkpoint": str(model), "shape": {"input": [1, 3, *SIZE]}},
        "backend": {"type": "tvm_vacc", "dtype": "int8", "quantize": {"calibrate_mode": "max"}},
        "dataset": {"path": str(folder / "calibration"), "sampler": {"suffix": "png"}},
        "workspace": {"path": str(folder / "artifacts")},
        "verify": {"hr": str(folder / "hr"), "gate": {"psnr_drop_db": 20.0}},
    }
    for key, value in changes.items():
        *path, last = key.split("__")
        node = data
        for part in path:
            node = node.setdefault(part, {})
        if value is None:
            node.pop(last, None)
        else:
            node[last] = value
    path = folder / f"spec{len(list(folder.glob('spec*')))}.yaml"
    path.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tiny")


@pytest.fixture(scope="session")
def tiny_build(tiny_folder: Path) -> pipeline.Result:
    """The finished build of the tiny spec; treat it as read-only."""
    return pipeline.run(spec.load(tiny_spec(tiny_folder)), silent())
