"""One die of the accelerator, from the target file's figures of the card."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from compiler.errors import SpecError
from compiler.target import Figure

NEEDED = ("int8_tops", "dies", "bandwidth_gbs", "on_chip_mb")
"""Entries of the target's `hardware` that the cost model rests on."""


@dataclass(frozen=True)
class Die:
    """One die: the card's figures divided by its dies.

    Attributes:
        figures: the entries of `hardware` that the rest was computed from.
    """

    macs_per_s: float
    bytes_per_s: float
    on_chip_bytes: float
    dies: int
    figures: Mapping[str, Figure] = field(hash=False)

    @property
    def ridge(self) -> float:
        """Multiply-accumulates a byte at which compute and memory take equally long."""
        return self.macs_per_s / self.bytes_per_s

    def assumed(self, entries: Iterable[str]) -> tuple[str, ...]:
        """Those of the named entries that the vendor does not publish."""
        return tuple(dict.fromkeys(e for e in entries if self.figures[e].assumed))


def die(hardware: Mapping[str, Figure]) -> Die:
    """One die of a card.

    Args:
        hardware: of the target file: figures of the card, and how many equal dies share them.
    Raises:
        SpecError: a figure is missing or not positive.
    """
    for name in NEEDED:
        if name not in hardware or not hardware[name].value > 0:
            raise SpecError(
                f"the cost model needs a positive hardware.{name}",
                where="target file",
                key=f"hardware.{name}",
                fix=f"add it to the target file, or say --set hardware.{name}=VALUE",
            )
    dies = hardware["dies"].value
    return Die(
        macs_per_s=hardware["int8_tops"].value * 1e12 / 2 / dies,
        bytes_per_s=hardware["bandwidth_gbs"].value * 1e9 / dies,
        on_chip_bytes=hardware["on_chip_mb"].value * 1e6 / dies,
        dies=int(dies),
        figures={name: hardware[name] for name in NEEDED},
    )
