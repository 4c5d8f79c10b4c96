"""What changed between two bundles: `python -m compiler.diff BUNDLE_A BUNDLE_B`.

`side` reads a bundle, `changes` compares two of them, `show` prints the answer. Nothing is run.
"""

from compiler.diff.changes import Difference, Limits, compare
from compiler.diff.side import Side, read

__all__ = ["Difference", "Limits", "Side", "compare", "read"]
