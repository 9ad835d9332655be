"""The terminal: progress with rates and ETA, messages, results. Everything shown goes here."""

from __future__ import annotations

import io
import json
import shutil
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

from jaxmdwarf.catalogue.texts import escape_lines, escape_text

LINE_EVERY_S = 10.0
"""Seconds between two lines of a stage where there is no terminal to draw a bar on."""

RATE_OVER_S = 60.0
"""The live rate is that of the last minute: it forgets what the first chunk spent on compiling."""


class Meter:
    """How far a stage is, how fast it goes, how long it will still take.

    Parameters
    ----------
    title : str
    total : float, optional
        None where nobody knows.
    unit : str
        What is counted, in the plural.
    done : float
        Units that an earlier run did.
    clock : callable
        Seconds, for tests.
    """

    def __init__(
        self,
        title: str,
        total: float | None,
        unit: str = "",
        done: float = 0.0,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.title, self.total, self.unit, self.note = title, total, unit, ""
        self.count = self._done = float(done)
        self._clock = clock
        self.began = clock()
        self._seen: deque[tuple[float, float]] = deque([(self.began, self.count)])

    def advance(self, n: float) -> None:
        """Count `n` more units."""
        self.count += n
        now = self._clock()
        self._seen.append((now, self.count))
        while len(self._seen) > 2 and self._seen[1][0] <= now - RATE_OVER_S:
            self._seen.popleft()

    @property
    def elapsed_s(self) -> float:
        """Seconds since the stage began."""
        return self._clock() - self.began

    @property
    def rate(self) -> float | None:
        """Units a second over the last minute; None before the first."""
        (first, before), (_, count) = self._seen[0], self._seen[-1]
        seconds = self._clock() - first
        return (count - before) / seconds if count > before and seconds > 0 else None

    @property
    def overall_rate(self) -> float | None:
        """Units a second from the beginning to now, waiting and compiling included."""
        seconds = self.elapsed_s
        return (self.count - self._done) / seconds if self.count > self._done and seconds else None

    @property
    def eta_s(self) -> float | None:
        """Seconds that are left at the present rate; None where nobody knows."""
        rate = self.rate
        if self.total is None or rate is None:
            return None
        return max(0.0, self.total - self.count) / rate

    def describe_rate(self, rate: float | None) -> str:
        """``278 spectra/s``, ``12 steps/min``, or nothing."""
        if rate is None or not self.unit:
            return ""
        if rate < 0.5:
            return f"{60 * rate:.2g} {self.unit}/min"
        return f"{rate:.{0 if rate >= 10 else 1}f} {self.unit}/s"

    def describe(self) -> str:
        """One line: counts, rate, ETA and the note."""
        counts = f"{self.count:.0f}"
        if self.total:
            counts += f"/{self.total:.0f} ({100 * self.count / self.total:.0f} %)"
        eta = self.eta_s
        parts = (
            counts,
            self.describe_rate(self.rate),
            f"{format_seconds(self.elapsed_s)} so far",
            "" if eta is None else f"ETA {format_seconds(eta)}",
            self.note,
        )
        return f"{self.title}: {', '.join(part for part in parts if part)}"

    def conclude(self) -> str:
        """One line after the end: counts, time, and the rate end to end."""
        counts = f"{self.count - self._done:.0f}"
        if self.total and self.count < self.total:
            counts += f" of {self.total - self._done:.0f}"
        rate = self.describe_rate(self.overall_rate)
        return (
            f"{self.title}: {counts}{f' {self.unit}' if self.unit else ''} in "
            f"{format_seconds(self.elapsed_s)}"
            + (f", {rate} end to end" if rate else "")
            + (f"; {self._done:.0f} were done before" if self._done else "")
        )


def format_seconds(seconds: float) -> str:
    """``1:02:03``."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


class Terminal:
    """A `jaxmdwarf.workflows.progress.Progress` on the terminal.

    Progress and messages go to standard error: bars on a terminal, plain lines elsewhere. Standard
    output carries only the result, so that ``--json`` can be piped.

    Parameters
    ----------
    json_only : bool
        Print the result as JSON.
    quiet : bool
        Show errors and the result alone.
    verbose : bool
        Show details, and the traceback of errors.
    log_file : path, optional
        Where everything is written besides, with the time; appended to what is there.

    Raises
    ------
    UsageError
        If the log file cannot be written.
    """

    def __init__(
        self,
        *,
        json_only: bool = False,
        quiet: bool = False,
        verbose: bool = False,
        log_file: str | None = None,
    ) -> None:
        self.json_only, self.quiet, self.verbose = json_only, quiet, verbose
        self._log = None if log_file is None else _open_log(log_file)
        self._console: Any = None
        self._lock = threading.Lock()
        if not quiet and sys.stderr.isatty():
            from rich.console import Console

            self._console = Console(stderr=True, highlight=False)

    @contextmanager
    def stage(
        self, title: str, total: float | int | None = None, *, unit: str = "", done: float | int = 0
    ) -> Iterator[_Stage]:
        """Show counts, rate and ETA while the block runs."""
        meter = Meter(title, None if total is None else float(total), unit, float(done))
        with ExitStack() as stack:
            bar = None
            if self._console is not None:
                bar = stack.enter_context(_show_bar(self._console, meter))
            if self._log is not None or not (self.quiet or bar):
                stack.enter_context(_repeat(lambda: self._write(meter.describe(), bar is None)))
            yield _Stage(meter, bar)
        self._write(meter.conclude(), bar is None)

    def say(self, text: str) -> None:
        """Show one line."""
        self._write(text, True)

    def show_table(self, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Show a small table, numbers to the right."""
        from rich import box
        from rich.console import Console
        from rich.table import Table

        table = Table(box=box.SIMPLE, show_edge=False)
        for name, *values in zip(columns, *rows, strict=True):
            numbers = all(isinstance(value, int | float) for value in values)
            table.add_column(name, justify="right" if numbers else "left")
        for row in rows:
            table.add_row(*map(str, row))
        text = io.StringIO()
        Console(file=text, width=shutil.get_terminal_size((100, 24)).columns).print(table)
        self._write("\n".join(line.rstrip() for line in text.getvalue().splitlines()), True)

    def detail(self, text: str) -> None:
        """Show one line if details are wanted; the log file has it always."""
        self._write(text, self.verbose)

    def fail(self, text: str) -> None:
        """Show the line that says why the work ended."""
        self._log_line(text)
        print(escape_lines(text), file=sys.stderr, flush=True)

    def result(self, summary: Mapping[str, Any]) -> None:
        """Print the outcome of a command to standard output: JSON, or aligned lines."""
        from jaxmdwarf.io.json_files import plain_json

        text = json.dumps(plain_json(summary), default=str)
        self._log_line(f"result: {text}")
        if self.json_only:
            print(text)
            return
        width = max((len(key) for key in summary), default=0)
        for key, value in summary.items():
            print(escape_text(f"{key:<{width}}  {_as_words(value)}"))

    def close(self) -> None:
        """Let go of the log file."""
        if self._log is not None:
            self._log.close()
            self._log = None

    def _write(self, text: str, shown: bool) -> None:
        text = escape_lines(text)
        self._log_line(text)
        if self.quiet or not shown:
            return
        if self._console is not None:
            self._console.print(text, markup=False, soft_wrap=True)
        else:
            print(text, file=sys.stderr, flush=True)

    def _log_line(self, text: str) -> None:
        with self._lock:
            if self._log is not None:
                text = escape_lines(text)
                self._log.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S')} {text}\n")
                self._log.flush()


class _Stage:
    def __init__(self, meter: Meter, bar: Callable[[], None] | None) -> None:
        self._meter, self._bar = meter, bar

    def advance(self, n: float | int = 1.0, *, note: str = "") -> None:
        self._meter.advance(float(n))
        if note:
            self._meter.note = note
        if self._bar is not None:
            self._bar()


@contextmanager
def _show_bar(console: Any, meter: Meter) -> Iterator[Callable[[], None]]:
    """A bar of rich; yields what brings it up to date."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
    )

    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[about]}", markup=False),
    )
    with Progress(*columns, console=console) as bars:
        task = bars.add_task(meter.title, total=meter.total, about="")

        def update() -> None:
            eta = meter.eta_s
            parts = (
                "" if eta is None else f"ETA {format_seconds(eta)}",
                meter.describe_rate(meter.rate),
                meter.note,
            )
            about = "  ".join(part for part in parts if part)
            bars.update(task, completed=meter.count, about=about)

        update()
        yield update


@contextmanager
def _repeat(action: Callable[[], None]) -> Iterator[None]:
    """Do something every `LINE_EVERY_S` while the block runs, even while it compiles."""
    ended = threading.Event()

    def run() -> None:
        while not ended.wait(LINE_EVERY_S):
            action()

    thread = threading.Thread(target=run, name="jaxmdwarf-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _as_words(value: Any) -> str:
    """A value of a result as people write it."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_as_words(one)}" for key, one in value.items()) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(map(_as_words, value)) or "none"
    return str(value)


def _open_log(path: str) -> IO[str]:
    from jaxmdwarf.errors import UsageError

    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        return open(path, "a", encoding="utf-8")
    except OSError as error:
        raise UsageError(
            f"the log file {path} cannot be written: {error.strerror}.",
            "give --log-file a path in a folder that you may write to.",
        ) from None
