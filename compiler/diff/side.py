"""One bundle as a comparison sees it: files only, nothing is loaded to run."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import yaml

from calib.table import CalibrationTable
from compiler import bundle, qdq
from compiler.errors import BundleError
from compiler.network import Network

Scores = Mapping[str, Mapping[str, float]]  # image -> column of accuracy.csv -> value


@dataclass(frozen=True)
class Side:
    """What two bundles are compared by.

    Attributes:
        spec: spec.yaml, all defaults written out.
        latency: measured/latency.json; None where nothing was measured.
    """

    path: Path
    manifest: Mapping[str, Any]
    spec: Mapping[str, Any]
    table: CalibrationTable
    net: Network
    accuracy: Mapping[str, Any]
    scores: Scores
    latency: Mapping[str, Any] | None

    @property
    def name(self) -> str:
        """Name of the build."""
        return str(self.manifest["name"])

    @property
    def seed(self) -> int:
        """Seed of the build's bootstrap."""
        return int(self.spec["backend"]["quantize"]["seed"])


def read(path: Path) -> Side:
    """Reads a bundle after its digests were checked.

    Raises:
        BundleError: not a bundle, changed after it was built, or of another format.
    """
    manifest = bundle.check(path)

    def text(name: str) -> str:
        return (path / name).read_text(encoding="utf-8")

    try:
        measured = path / bundle.MEASURED / "latency.json"
        return Side(
            path=path,
            manifest=manifest,
            spec=yaml.safe_load(text("spec.yaml")),
            table=CalibrationTable.from_json(text("calibration.json"), str(path)),
            net=qdq.read(onnx.load(path / "qdq.onnx")),
            accuracy=json.loads(text("accuracy.json")),
            scores=_scores(text("accuracy.csv")),
            latency=json.loads(measured.read_text("utf-8")) if measured.is_file() else None,
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError(
            f"the bundle cannot be compared: {error}",
            where=str(path),
            fix="build it again with this version",
        ) from error


def _scores(text: str) -> Scores:
    rows = csv.DictReader(io.StringIO(text))
    return {
        row["image"]: {k: float(v) for k, v in row.items() if k != "image" and v} for row in rows
    }
