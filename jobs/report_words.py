"""Words and frames of the report: how numbers are written, and what a section is."""

import math
from dataclasses import dataclass
from html import escape
from importlib import metadata

import numpy as np


@dataclass(frozen=True)
class Section:
    """A part of the page with its anchor; ``body`` is HTML."""

    anchor: str
    title: str
    body: str

    def html(self) -> str:
        return f'<section id="{self.anchor}"><h2>{escape(self.title)}</h2>\n{self.body}\n</section>'


def duration(seconds: float) -> str:
    if seconds < 1:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"


def compact(count: int) -> str:
    """A count in at most five characters: 812, 4.2k, 130k, 2.1M."""
    for size, letter in ((1_000_000, "M"), (1000, "k")):
        if count >= 10 * size or (size > 1000 and count >= size):
            value = count / size
            return f"{value:.1f}{letter}" if value < 100 else f"{value:.0f}{letter}"
    return str(int(count))


def number(count: float) -> str:
    return f"{int(count):,}" if math.isfinite(count) else "unknown"


def rate(count: float, seconds: float) -> str:
    """``count`` a second to three digits; empty where nothing was counted."""
    if not (count > 0 and seconds > 0):
        return ""
    value = count / seconds
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def with_error(value: float, error: float | None) -> str:
    """``value`` to two significant digits and ``error`` to as many decimals."""
    decimals = int(np.clip(1 - np.floor(np.log10(value)), 0, 8)) if value > 0 else 2
    return f"{value:.{decimals}f}" + ("" if error is None else f" ± {error:.{decimals}f}")


def as_float(value: object) -> float:
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return float("nan")


def version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
