"""The HTML templates, filled strictly: an unknown name is an error."""

from __future__ import annotations

import functools
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

TEMPLATES = Path(__file__).parent / "templates"
DASH, MINUS = "\u2013", "\u2212"


def template(name: str) -> Template:
    """A template of the folder; values are escaped."""
    return _environment().get_template(name)


def text(name: str) -> str:
    """A file of the folder as it stands."""
    return (TEMPLATES / name).read_text("utf-8")


@functools.cache
def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["db"] = _number
    made.filters["grouped"] = lambda value: f"{value:,}"
    return made


def _number(value: float | None, digits: int = 2) -> str:
    """A number for a table; a dash where nothing was measured, a true minus sign."""
    return DASH if value is None else f"{value:.{digits}f}".replace("-", MINUS)
