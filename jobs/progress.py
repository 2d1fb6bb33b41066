"""Progress of a pass: a bar with rate and remaining time in a terminal, plain lines in a log."""

import sys
import time
from types import TracebackType
from typing import Any

LINE_EVERY_S = 10.0
"""Seconds between lines where there is no terminal."""


class Progress:
    """Context manager; call it with (done, total) as work goes on. Writes to standard error only."""

    def __init__(self, title: str, unit: str = "images") -> None:
        self.title, self.unit = title, unit
        self.terminal = sys.stderr.isatty()
        self._bar: Any = None
        self._task: Any = None
        self._first: int | None = None
        self._started = self._spoken = time.perf_counter()

    def __enter__(self) -> "Progress":
        if self.terminal:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as RichProgress

            self._bar = RichProgress(
                TextColumn("{task.description:<11}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self._bar.start()
            self._task = self._bar.add_task(self.title, total=None, rate="")
        return self

    def __call__(self, done: int, total: int) -> None:
        now = time.perf_counter()
        if self._first is None:
            self._first, self._started = done, now
        rate = (done - self._first) / max(now - self._started, 1e-9)
        if self._bar is not None:
            shown = f"{rate:.1f} {self.unit}/s" if done > self._first else ""
            self._bar.update(self._task, completed=done, total=total, rate=shown)
        elif now - self._spoken > LINE_EVERY_S and done < total:
            self._spoken = now
            remaining = (total - done) / rate if rate > 0 else float("nan")
            self._say(f"{self.title}: {done:,} of {total:,} {self.unit}, {rate:.1f}/s, {remaining:.0f} s to go")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def _say(self, text: str) -> None:
        sys.stderr.write(text + "\n")
        sys.stderr.flush()


def say(text: str) -> None:
    """One line for the user on standard error."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
