"""Progress of the long parts: a bar on a terminal, nothing where output is piped or quiet."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

T = TypeVar("T")


@dataclass(frozen=True)
class Reporter:
    """Where a stage says what it does; stages get one and never print themselves."""

    console: Console
    quiet: bool = False

    @property
    def live(self) -> bool:
        """Whether bars are drawn: never into a pipe or a file, whatever colours are asked for."""
        terminal = self.console.is_terminal and self.console.file.isatty()
        return terminal and not self.console.is_dumb_terminal and not self.quiet

    def track(
        self, items: Iterable[T], label: str, *, total: int | None = None, still: bool = False
    ) -> Iterator[T]:
        """The items, with a bar that counts them, their rate, the time used and the time left.

        Args:
            total: how many there are, where `items` does not know; None and unknown draws no end.
            still: draw between the items only, for what would be disturbed while it is measured.
        """
        if not self.live:
            yield from items
            return
        columns = (
            TextColumn("{task.description:<24}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            _RateColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        known = len(items) if total is None and isinstance(items, Sized) else total
        with Progress(
            *columns, console=self.console, transient=True, auto_refresh=not still
        ) as progress:
            bar = progress.add_task(label, total=known)
            progress.refresh()
            for item in items:
                yield item
                progress.update(bar, advance=1, refresh=still)

    @contextmanager
    def busy(self, label: str) -> Iterator[None]:
        """A spinner with the time used, for a long part without countable steps."""
        if not self.live:
            yield
            return
        columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        with Progress(*columns, console=self.console, transient=True) as progress:
            progress.add_task(label, total=None)
            yield

    def stage(self, text: str, style: str = "bold") -> None:
        """One line at the start of a stage, printed as it stands."""
        if not self.quiet:
            self.console.print(Text(text, style))

    def detail(self, text: str) -> None:
        """An indented line under the last one, printed as it stands."""
        if not self.quiet:
            self.console.print(f"  {text}", markup=False, highlight=False)

    def warn(self, text: str) -> None:
        """A warning, printed as it stands; shown in quiet mode too."""
        self.console.print(f"[yellow]warning:[/yellow] {escape(text)}", highlight=False)

    def table(self, table: Table) -> None:
        """A table; nothing in quiet mode."""
        if not self.quiet:
            self.console.print(table)


class _RateColumn(ProgressColumn):
    """Items a second, or seconds an item where that is the larger figure."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        if not speed:
            return Text("")
        rate = f"{speed:.1f}/s" if speed >= 1 else f"{1 / speed:.1f} s each"
        return Text(f"{rate:>10}", style="progress.data.speed")


def silent() -> Reporter:
    """A reporter for library use and tests."""
    return Reporter(Console(stderr=True, quiet=True), quiet=True)
