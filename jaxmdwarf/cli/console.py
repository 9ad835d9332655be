"""The terminal: progress bars with ETA, messages, JSON for machines. Everything shown goes here."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any


class Terminal:
    """A `jaxmdwarf.workflows.progress.Progress` on the terminal.

    Bars and messages go to standard error; standard output carries only the result, so that
    ``--json`` can be piped.
    """

    def __init__(self, *, json_only: bool = False) -> None:
        from rich.console import Console

        self.json_only = json_only
        self._console = Console(stderr=True, quiet=json_only, highlight=False)

    @contextmanager
    def stage(self, title: str, total: float | int | None = None) -> Iterator[_Bar]:
        """Show a bar with rate and ETA while the block runs."""
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        columns = (
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        with Progress(*columns, console=self._console) as bars:
            yield _Bar(bars, bars.add_task(title, total=total, note=""))

    def say(self, text: str) -> None:
        """Print one line to standard error."""
        self._console.print(text, markup=False, soft_wrap=True)

    def result(self, summary: Mapping[str, Any]) -> None:
        """Print the outcome of a command to standard output: JSON, or aligned lines."""
        if self.json_only:
            print(json.dumps(summary, default=str))
            return
        width = max((len(key) for key in summary), default=0)
        for key, value in summary.items():
            print(f"{key:<{width}}  {value}")


class _Bar:
    def __init__(self, bars: Any, task_id: Any) -> None:
        self._bars = bars
        self._task_id = task_id

    def advance(self, n: float | int = 1.0, *, note: str = "") -> None:
        self._bars.update(self._task_id, advance=n, **({"note": note} if note else {}))
