"""What a network should cost on the accelerator: `python -m compiler.cost SPEC_OR_BUNDLE`.

`workload` counts operators and bytes, `model` turns them into time, `checks` compares the model
with the vendor's published rates, `show` prints it.
"""

from compiler.cost.checks import Check, checks
from compiler.cost.model import Cost, Die, Part, Schedule, die, estimate
from compiler.cost.workload import Feature, Work, Workload, workload

__all__ = [
    "Check",
    "Cost",
    "Die",
    "Feature",
    "Part",
    "Schedule",
    "Work",
    "Workload",
    "checks",
    "die",
    "estimate",
    "workload",
]
