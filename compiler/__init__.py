"""From a trained network to a verified int8 build for a VACC-like accelerator.

import compiler
net = compiler.load("artifacts/bpp3x_int8")
y = net(x)                 # float32 [1, C, H, W] in [0, 1], or a uint8 [H, W, 3] RGB frame
g = compiler.golden("artifacts/bpp3x_int8")(x)     # the golden model's answer
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from compiler.api import golden, load

__all__ = ["golden", "load"]


def __getattr__(name: str) -> Any:
    """Loads the API, and with it TVM and ONNX Runtime, at first use (PEP 562)."""
    if name in __all__:
        from compiler import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
