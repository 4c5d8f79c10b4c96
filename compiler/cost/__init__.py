"""What a network should cost on the accelerator: `python -m compiler.cost SPEC_OR_BUNDLE`.

`workload` counts operators and bytes, `schedule` cuts them into parts for one die (`hardware`),
`model` is the answer, `checks` compares it with the vendor's published rates, `show` prints it.
"""

from compiler.cost.checks import Check, checks
from compiler.cost.hardware import Die, die
from compiler.cost.model import Cost, Part, Schedule
from compiler.cost.schedule import estimate, of_spec
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
    "of_spec",
    "workload",
]
