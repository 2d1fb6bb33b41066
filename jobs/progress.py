"""Progress of a pass: a bar with rate and remaining time in a terminal, plain lines in a log."""

import sys
import time
from types import TracebackType
from typing import Any

from skysom.jobs.report_words import duration

LINE_EVERY_S = 10.0
"""Seconds between lines where there is no terminal."""


class Progress:
    """Context manager; call it with (done, total) as work goes on. Writes to standard error only.

    stage: its number among how many, to be shown with the title; unit: what is counted.
    """

    def __init__(self, title: str, unit: str = "images", stage: tuple[int, int] | None = None) -> None:
        self.title, self.unit = title + (f" {stage[0]}/{stage[1]}" if stage else ""), unit
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
                TextColumn("{task.description:<14}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self._bar.start()
            self._task = self._bar.add_task(self.title, total=None, rate="")
        return self

    def __call__(self, done: int, total: int, workers: int | None = None) -> None:
        """``done`` of ``total`` so far, by ``workers`` at work (None: not told)."""
        now = time.perf_counter()
        if self._first is None:
            self._first, self._started = done, now
        rate = (done - self._first) / max(now - self._started, 1e-9)
        by = f", {workers} worker{'s' * (workers != 1)}" if workers else ""
        if self._bar is not None:
            shown = f"{rate:.1f} {self.unit}/s{by}" if done > self._first else ""
            self._bar.update(self._task, completed=done, total=total, rate=shown)
        elif now - self._spoken > LINE_EVERY_S and done < total:
            self._spoken = now
            to_go = f", {duration((total - done) / rate)} to go" if rate > 0 else ""
            say(f"{self.title}: {done:,} of {total:,} {self.unit}, {rate:.1f}/s{by}{to_go}")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()


def say(text: str) -> None:
    """One line for the user on standard error."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
