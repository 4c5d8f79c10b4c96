"""The report as one HTML file: no network, no fonts, no frameworks."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from markupsafe import Markup

from compiler import svg
from compiler.cost import show
from compiler.cost.roofline import roofline
from compiler.crops import Crop
from compiler.metrics import psnr_db
from compiler.report import graph, plots, speed
from compiler.report.data import ReportData
from compiler.report.template import template, text
from compiler.scaling import Rgb

_LOSSLESS = [cv2.IMWRITE_WEBP_QUALITY, 101]  # above 100: exact pixels


def page(data: ReportData) -> str:
    """The whole page; the same data gives the same text."""
    accuracy = data.accuracy.to_json()
    gate = data.spec.verify.gate
    return template("report.html").render(
        data=data,
        accuracy=accuracy,
        gate=gate,
        metrics=data.accuracy.metrics,
        style=Markup(svg.MARKS + text("style.css")),
        script=Markup(text("script.js")),
        crops=Markup(_script_json([_crop(c) for c in data.accuracy.crops])),
        drops=Markup(plots.drops(data.accuracy, gate.psnr_drop_db)),
        histograms=[Markup(plots.histogram(t)) for t in data.tensors],
        channels=[Markup(plots.channels(t.channels)) for t in data.tensors],
        weights=[Markup(plots.channels(w)) for w in data.weights],
        method_kind=plots.method_kind,
        places={place: speed.render(place, data.speed) for place in speed.PLACES},
        roofline=Markup(roofline(data.cost)),
        verdicts=(*show.verdicts(data.cost), show.saving(data.cost)),
        notes=(*show.notes(data.cost), *show.check_notes(data.checks)),
        graph=Markup(graph.graph(data.floats)),
        manifest=json.dumps(data.manifest, indent=2),
    )


def _crop(crop: Crop) -> dict[str, Any]:
    """What the script needs of a crop: caption figures and pixels."""
    images = {"fp32": crop.fp32, "int8": crop.int8, "bicubic": crop.bicubic}
    return {
        "image": crop.image,
        "place": f"row {crop.top}, column {crop.left}",
        "difference": round(crop.difference, 3),
        "psnr": {n: _finite(psnr_db(crop.truth, image, 0)) for n, image in images.items()},
        "pixels": {n: _uri(image) for n, image in (images | {"truth": crop.truth}).items()},
    }


def _finite(value: float) -> float | None:
    return round(value, 2) if np.isfinite(value) else None


def _uri(image: Rgb) -> str:
    """The exact pixels as a data URI."""
    bgr = image[..., ::-1] if image.shape[2] == 3 else image[..., :1].repeat(3, axis=2)
    encoded = cv2.imencode(".webp", np.ascontiguousarray(bgr), _LOSSLESS)[1]
    return "data:image/webp;base64," + base64.b64encode(encoded.tobytes()).decode("ascii")


def _script_json(value: Sequence[Any]) -> str:
    """JSON that cannot end the script element it stands in."""
    return json.dumps(value).replace("<", "\\u003c")
