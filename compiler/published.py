"""The published performance table of Bicubic++ and how it is shown beside our figures.

Source: the vendor's model zoo, protocol `vendor`, DIV2K_valid_LR_bicubic at X2 and X3.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal, TypeAlias

from rich import box
from rich.table import Table

from compiler.progress import Reporter
from compiler.schema import Protocol

COLUMNS: Final = ("model", "figures", "FLOPs (G)", "params (M)", "PSNR (dB)", "SSIM", "shape")
PUBLISHED_SHAPE: Final = "3x1080x1920"
_WIDTH: Final = 98  # characters

Competitor: TypeAlias = Literal["fp32", "int8"]


@dataclass(frozen=True)
class Published:
    """One row of the vendor's table; None where it shows a dash.

    Attributes:
        flops_g: 2 x MACs / 0.9e9, the vendor's convention.
        params_m: millions of parameters.
        psnr_db, ssim: means over DIV2K validation images, protocol `vendor`, RGB.
    """

    flops_g: float | None
    params_m: float | None
    psnr_db: float
    ssim: float


@dataclass(frozen=True)
class Row:
    """A row of the published table and the spec whose bundle answers it."""

    model: str
    config: str
    competitor: Competitor
    published: Published


@dataclass(frozen=True)
class Measured:
    """Our means of one row under one protocol.

    Attributes:
        dataset: where the images come from.
        excluded: images left out because the build was calibrated on them.
        comparable: whether the published figure has the same protocol and data set.
    """

    protocol: Protocol
    dataset: str
    images: int
    excluded: int
    comparable: bool
    psnr_db: float
    ssim: float


@dataclass(frozen=True)
class Entry:
    """One row with our figures: exact MACs and parameters at the input `shape` [1, C, H, W]."""

    row: Row
    checkpoint: str
    shape: tuple[int, ...]
    macs: int
    params: int
    measured: tuple[Measured, ...]

    @property
    def flops_g(self) -> float:
        """2 x MACs / 1e9."""
        return 2 * self.macs / 1e9

    @property
    def vendor_flops_g(self) -> float:
        """2 x MACs / 0.9e9, as the vendor's table counts."""
        return 2 * self.macs / 0.9e9


ROWS: Final = (
    Row("2x fp32", "bpp2x_int8", "fp32", Published(38.154, 0.033, 32.911, 0.775)),
    Row("2x int8 kl_divergence", "bpp2x_int8", "int8", Published(None, None, 31.559, 0.751)),
    Row("3x fp32", "bpp3x_int8", "fp32", Published(58.061, 0.050, 29.358, 0.885)),
    Row("3x int8 percentile", "bpp3x_int8", "int8", Published(None, None, 28.210, 0.791)),
)


def lines(entry: Entry) -> tuple[tuple[str, ...], ...]:
    """The cells of one row under `COLUMNS`: the published line, and ours of each protocol."""
    published, shape = entry.row.published, "x".join(map(str, entry.shape[1:]))
    first = (
        entry.row.model,
        "published",
        "-" if published.flops_g is None else f"{published.flops_g:.3f}",
        "-" if published.params_m is None else f"{published.params_m:.3f}",
        f"{published.psnr_db:.3f}  ",
        f"{published.ssim:.3f}  ",
        PUBLISHED_SHAPE,
    )
    size = (f"{entry.flops_g:.3f}", f"{entry.params / 1e6:.4f}")
    ours = [
        (
            "",
            f"ours, {m.protocol}",
            *(size if m is entry.measured[0] else ("", "")),
            f"{m.psnr_db:.3f}{' ' if m.comparable else '*'} ",
            f"{m.ssim:.3f}{' ' if m.comparable else '*'} ",
            shape if m is entry.measured[0] else "",
        )
        for m in entry.measured
    ]
    return (first, *ours)


def notes(table: Sequence[Entry]) -> tuple[str, ...]:
    """What the figures mean: FLOPs, protocols, data sets, weights."""
    flops = {f"{e.vendor_flops_g:.3f} ({e.row.model.split()[0]})": None for e in table}
    data = {
        f"{m.protocol}: {m.images} images of {m.dataset}"
        + (f" ({m.excluded} more were calibrated on)" if m.excluded else ""): None
        for e in table
        for m in e.measured
    }
    marks = (
        ()
        if all(m.comparable for e in table for m in e.measured)
        else (
            "* not comparable with the published figure: another protocol, or images that are not "
            "DIV2K's validation set.",
        )
    )
    return (
        *marks,
        f"Ours were measured under {'; '.join(data)}.",
        "Published and ours, vendor: LR stretched to the network's input and ground truth resized "
        "to its output by cv2, no crop, output not rounded. Published on DIV2K_valid_LR_bicubic.",
        "Ours, standard: native size, uint8 output, a border of the rate cropped.",
        "FLOPs: ours are exactly 2 x MACs / 1e9. The vendor's table divides 2 x MACs by 0.9e9; in "
        f"that convention ours are {', '.join(flops)}.",
        "Weights: published 3x by the authors of Bicubic++, published 2x by the vendor; ours "
        f"{', '.join(dict.fromkeys(e.checkpoint for e in table))}.",
    )


def to_json(table: Sequence[Entry]) -> dict[str, Any]:
    """The table as plain values; SSIM and PSNR are RGB means."""
    rows = [
        {
            "model": e.row.model,
            "spec": e.row.config,
            "checkpoint": e.checkpoint,
            "published": asdict(e.row.published)
            | {"shape": PUBLISHED_SHAPE, "protocol": "vendor", "dataset": "DIV2K validation"},
            "ours": {
                "flops_g": e.flops_g,
                "flops_g_vendor_convention": e.vendor_flops_g,
                "macs": e.macs,
                "params": e.params,
                "shape": "x".join(map(str, e.shape[1:])),
                **{m.protocol: asdict(m) for m in e.measured},
            },
        }
        for e in table
    ]
    return {"rows": rows, "notes": list(notes(table))}


def to_markdown(table: Sequence[Entry]) -> str:
    """The table and its notes as Markdown."""
    rows = [COLUMNS, ("---",) * len(COLUMNS), *(line for e in table for line in lines(e))]
    text = "\n".join(f"| {' | '.join(cell.strip() for cell in row)} |" for row in rows)
    return (
        text + "\n\n" + "\n".join(f"- {note.replace('*', chr(92) + '*')}" for note in notes(table))
    )


def show(table: Sequence[Entry], reporter: Reporter) -> None:
    """The table and its notes on a terminal, 98 characters wide."""
    shown = Table(
        title="Bicubic++",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 1, 0, 0),
        width=_WIDTH,
    )
    for title in COLUMNS:
        side: Literal["left", "right"] = "left" if title in ("model", "figures") else "right"
        shown.add_column(title, justify=side, no_wrap=True)
    for entry in table:
        for line in lines(entry):
            shown.add_row(*line, style="bold" if line[0] else None)
        shown.add_section()
    if not reporter.quiet:
        reporter.console.print(shown)
        for note in notes(table):
            reporter.console.print(
                textwrap.fill(note, _WIDTH, subsequent_indent="  "), highlight=False, markup=False
            )
