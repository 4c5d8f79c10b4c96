"""What a training run depends on."""

from __future__ import annotations

import math
from dataclasses import dataclass

from compiler.errors import SpecError


@dataclass(frozen=True)
class Recipe:
    """All that the weights depend on, beside the photographs and the number of threads."""

    rate: int
    steps: int
    patches: int = 16
    size: int = 48
    """Side of an LR patch in pixels, even."""
    learning_rate: float = 5e-3
    """Peak, reached after `warmup` steps; falls to zero along half a cosine."""
    warmup: int = 100
    momentum: float = 0.95
    luma: float = 1.0
    """Weight of the squared error of luma, added to the mean squared error of RGB."""
    synthetic: float = 0.1
    """Share of the patches that come from drawn images."""
    drawn: int = 60
    """Number of drawn images."""
    factors: tuple[float, ...] = (2, 3, 4, 6)
    """How much the photographs are shrunk before they are taken for the truth."""
    floor: float = 100.0
    """Added to the squared error of a patch, in squared grey levels, before its logarithm is taken:
    the mean of the logarithms is the mean PSNR, and counts smooth patches, where rounding is most
    of the error, as much as others. Without a floor nothing but the smoothest would count."""
    noise: tuple[float, ...] = (4.0, 2.0, 5.0)
    """Simulated rounding of the three tensors, in int8 steps of their range; an int8 build does 1.
    The second tensor costs next to nothing."""
    kernel_noise: float = 0.3
    """Simulated rounding of kernels in int8 steps; rounding to nearest does 1, and costs more than
    ten times as much as GPTQ."""
    exact: float = 0.25
    """Share of the patches that see no simulated rounding."""
    stretched: float = 0.2
    """Share of the patches that are stretched to full contrast, so that ranges fit such too."""
    average: float = 0.998
    """Decay of the moving average of the kernels."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("rate", "steps", "patches", "size", "warmup", "drawn"):
            _require(getattr(self, name) >= 1, self, name, "at least 1")
        for name in ("luma", "kernel_noise", "momentum"):
            _require(getattr(self, name) >= 0, self, name, "at least 0")
        for name in ("synthetic", "average", "exact", "stretched"):
            _require(0 <= getattr(self, name) < 1, self, name, "in [0, 1)")
        _require(
            len(self.noise) == 3 and min(self.noise) >= 0, self, "noise", "3 values, at least 0"
        )
        _require(self.size % 2 == 0, self, "size", "even")
        for name in ("learning_rate", "floor"):
            _require(getattr(self, name) > 0, self, name, "positive")
        _require(bool(self.factors) and min(self.factors) >= 1, self, "factors", "1 or more")

    def learning_rate_at(self, step: int) -> float:
        """Linear warm-up, then half a cosine down to zero."""
        fade = 0.5 * (1 + math.cos(math.pi * step / self.steps))
        return self.learning_rate * min(1.0, (step + 1) / self.warmup) * fade


def _require(holds: bool, recipe: Recipe, name: str, expected: str) -> None:
    if not holds:
        raise SpecError(
            f"{name} is {getattr(recipe, name)}, expected {expected}",
            fix=f"correct --{name.replace('_', '-')}",
            key=name,
        )
