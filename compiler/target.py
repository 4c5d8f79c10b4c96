"""The target: what the accelerator can do, as one file of configs/targets says."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from compiler import yaml_source
from compiler.errors import SpecError
from compiler.spec import SpecFile
from compiler.spec_faults import at

TARGETS = Path(__file__).parents[1] / "configs" / "targets"


class Figure(BaseModel):
    """One figure of the hardware, its unit and where it comes from."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    value: float
    unit: str
    source: str
    assumed: bool = False


class Target(BaseModel):
    """One file of configs/targets.

    Attributes:
        dtypes: what `backend.dtype` may be; more than is built here cannot be promised.
        activations: symmetric (all zero points 0) or asymmetric.
        mixed_precision: whether single layers may stay in a higher precision; none does here.
        operators: ONNX operators, each with the data types it has a kernel for.
        hardware: figures for the cost model.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    name: str
    description: str
    dtypes: list[Literal["int8"]]
    activations: Literal["symmetric", "asymmetric"]
    mixed_precision: Literal[False]
    operators: dict[str, list[str]]
    hardware: dict[str, Figure]

    @property
    def symmetric(self) -> bool:
        """Whether activations have no zero point."""
        return self.activations == "symmetric"


def load(file: SpecFile) -> Target:
    """The target that a spec names: a name in configs/targets, or a path.

    Raises:
        SpecError: no such target, or its file is not valid.
    """
    name = file.spec.backend.target
    path = Path(name) if name.endswith((".yaml", ".yml")) else TARGETS / f"{name}.yaml"
    if not path.is_file():
        known = sorted(p.stem for p in TARGETS.glob("*.yaml"))
        raise SpecError(
            f"there is no target {name!r}",
            fix=f"use one of {', '.join(known)}, or the path of a target file",
            **file.at("backend", "target"),
        )
    document = yaml_source.read(path)
    try:
        return Target.model_validate(document.data)
    except ValidationError as error:
        problem = error.errors()[0]
        raise SpecError(
            f"target file: {problem['msg']}",
            fix="compare it with configs/targets/vacc.yaml",
            **at(document, *problem["loc"]),
        ) from error
