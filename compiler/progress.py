"""Progress of the long parts: a bar on a terminal, nothing where output is piped or quiet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

T = TypeVar("T")


@dataclass(frozen=True)
class Reporter:
    """Where a stage says what it does; stages get one and never print themselves."""

    console: Console
    quiet: bool = False

    def track(self, items: Sequence[T], label: str) -> Iterator[T]:
        """The items, with a bar that counts them, the time used and the time left."""
        if self.quiet or not self.console.is_terminal:
            yield from items
            return
        columns = (
            TextColumn("{task.description:<24}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self.console, transient=True) as progress:
            yield from progress.track(items, description=label)

    @contextmanager
    def busy(self, label: str) -> Iterator[None]:
        """A spinner with the time used, for a long part without countable steps."""
        if self.quiet or not self.console.is_terminal:
            yield
            return
        columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        with Progress(*columns, console=self.console, transient=True) as progress:
            progress.add_task(label, total=None)
            yield

    def stage(self, text: str) -> None:
        """One line at the start of a stage."""
        if not self.quiet:
            self.console.print(f"[bold]{text}[/bold]", highlight=False)

    def detail(self, text: str) -> None:
        """An indented line under the last one, printed as it stands."""
        if not self.quiet:
            self.console.print(f"  {text}", markup=False, highlight=False)

    def warn(self, text: str) -> None:
        """A warning; shown in quiet mode too."""
        self.console.print(f"[yellow]warning:[/yellow] {text}", highlight=False)


def silent() -> Reporter:
    """A reporter for library use and tests."""
    return Reporter(Console(stderr=True, quiet=True), quiet=True)
