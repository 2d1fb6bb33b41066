"""Pictures of the report: palette PNGs of images, SVGs of lattices, matplotlib charts; all as embeddable text."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

from skysom.engine.reading.crops import central

WHITE = 255
"""Palette entry left blank; images use 0..254."""
CELL = 100.0
"""Size of a lattice cell in SVG units."""
HEX_PITCH = np.sqrt(3) / 2
INK, MUTED, ACCENT, SECOND = "#1f2430", "#6b7280", "#3b5ba5", "#d1793b"
TOOLTIP_NEURONS = 2500


@dataclass(frozen=True)
class Layout:
    """Where the N neurons of a lattice are drawn: cell positions x, y, panel (depth) and the size in cells."""

    x: np.ndarray
    y: np.ndarray
    panel: np.ndarray
    hexagonal: bool
    rows: int
    columns: int
    names: tuple[str, ...]

    @property
    def panels(self) -> int:
        return int(self.panel.max()) + 1

    @property
    def pitch(self) -> float:
        """Distance of rows in units of the distance of columns."""
        return HEX_PITCH if self.hexagonal else 1.0


def layout_of(lattice: Any) -> Layout:
    """Drawing positions of a Cartesian or Hexagonal lattice: first index down, second across, third by panel.

    A one-dimensional lattice is folded into lines that read like text.
    """
    position = lattice.positions()
    row, column, depth = (position[:, i] if i < position.shape[1] else 0 * position[:, 0] for i in range(3))
    if lattice.kind == "hexagonal":
        names = tuple(f"row {r}, column {c}" for r, c in zip(row, column, strict=True))
        x = column + (row - (lattice.width - 1) / 2) / 2
        return Layout(x, row.astype(float), 0 * row, True, lattice.width, lattice.width, names)
    if lattice.rank == 1:
        columns = int(min(lattice.size, max(8, np.ceil(np.sqrt(lattice.size)))))
        i = np.arange(lattice.size)
        names = tuple(f"position {n}" for n in i)
        return Layout(i % columns, i // columns, 0 * i, False, -(-lattice.size // columns), columns, names)
    third = [f", depth {d}" if lattice.depth > 1 else "" for d in depth]
    names = tuple(f"row {r}, column {c}{d}" for r, c, d in zip(row, column, third, strict=True))
    return Layout(column, row, depth, False, lattice.width, lattice.height, names)


# --- images ---------------------------------------------------------------------------------------


def thumbnail(image: np.ndarray, side: int) -> np.ndarray:
    """(side, side) uint8 palette levels 0..254 of an image (y, x): its own minimum to its own maximum.

    Levels follow the square root where the background is dark, so that faint emission shows, and turn linear as it
    brightens (noise). The first row comes last, as FITS images are drawn: north up where north is towards higher rows.
    """
    from PIL import Image

    finite = image[np.isfinite(image)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    scaled = (np.nan_to_num(image, nan=low, posinf=high, neginf=low) - low) / (high - low if high > low else 1.0)
    filter_ = Image.Resampling.LANCZOS if image.shape[0] > side else Image.Resampling.BICUBIC
    resized = np.asarray(Image.fromarray(scaled.astype(np.float32)).resize((side, side), filter_))
    power = 0.5 + 0.5 * min(float(np.median(scaled)) / 0.3, 1.0)
    return np.rint(np.clip(resized[::-1], 0, 1) ** power * (WHITE - 1)).astype(np.uint8)


def palette_png(levels: np.ndarray, colour_map: str = "inferno") -> str:
    """Data URI of a palette PNG of levels (y, x) uint8; 255 is white."""
    from matplotlib import colormaps
    from PIL import Image

    colours = (colormaps[colour_map](np.linspace(0, 1, WHITE))[:, :3] * 255).round().astype(np.uint8)
    image = Image.frombytes("P", levels.shape[::-1], levels.tobytes())
    image.putpalette([*colours.ravel().tolist(), 255, 255, 255])
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return _data_uri(buffer.getvalue(), "image/png")


def thumbnails(images: np.ndarray, side: int) -> np.ndarray:
    """(C, side, side) uint8 palette levels of the channels (C, y, x)."""
    return np.stack([thumbnail(image, side) for image in images])


def strip(groups: Sequence[Sequence[np.ndarray | None]], side: int, channels: int) -> str:
    """Data URI of thumbnails (C, side, side) uint8 in a line, groups set apart; ``None`` leaves a place empty."""
    blank = np.full((channels, side, side), WHITE, np.uint8)
    columns = []
    for group in groups:
        for image in group:
            tall = np.pad(blank if image is None else image, ((0, 0), (0, 2), (0, 2)), constant_values=WHITE)
            columns.append(tall.reshape(channels * (side + 2), side + 2))
        columns.append(np.full((channels * (side + 2), side // 6), WHITE, np.uint8))
    return palette_png(np.concatenate(columns[:-1], axis=1))


def mosaic(layout: Layout, panel: int, neurons: np.ndarray, side: int, pixels: int = 1400) -> str:
    """Data URI of one panel of neurons (N, D, D), tiled where the lattice has them.

    ``side`` central pixels are shown; hexagonal cells are cut out as hexagons, which reach a little further.
    """
    width = int(np.clip(pixels // max(layout.columns, layout.rows), 6, 200))
    height = round(width * 2 / np.sqrt(3)) if layout.hexagonal else width
    shown = min(round(side * height / width), neurons.shape[-1])
    down = width * layout.pitch
    canvas = np.full((round(down * (layout.rows - 1)) + height, width * layout.columns), WHITE, np.uint8)
    mask = _cell_mask(layout, width, height)
    for i in np.flatnonzero(layout.panel == panel):
        left = (height - width) // 2
        cell = thumbnail(central(neurons[i], shown), height)[:, left : left + width]
        top, start = round(layout.y[i] * down), round(layout.x[i] * width)
        where = canvas[top : top + height, start : start + width]
        where[mask] = cell[mask]
    return palette_png(canvas)


def _cell_mask(layout: Layout, width: int, height: int) -> np.ndarray:
    """(height, width) bool: pixels of a cell, less a hairline that sets cells apart."""
    y, x = np.mgrid[:height, :width]
    if not layout.hexagonal:
        return (x < width - 1) & (y < height - 1) if width > 12 else np.ones((height, width), bool)
    across = np.abs(x + 0.5 - width / 2) / (width / 2)
    up = np.abs(y + 0.5 - height / 2) / (height / 2)
    line = 2 / width if width > 12 else 0.0
    return (across <= 1 - line) & (up <= 1 - line - across / 2)


# --- lattices -------------------------------------------------------------------------------------


def lattice_svg(
    layout: Layout,
    panel: int,
    *,
    fills: Sequence[str] | None = None,
    image: str = "",
    texts: Sequence[str] | None = None,
    titles: Sequence[str] | None = None,
    linked: frozenset[int] = frozenset(),
    label: str = "",
) -> str:
    """One panel of a lattice as SVG: a mosaic ``image`` or cells of colours ``fills``, with text and tooltips.

    Cells of ``linked`` neurons lead to ``#neuron-<i>``.
    """
    down = CELL * layout.pitch
    tall = CELL * 2 / np.sqrt(3) if layout.hexagonal else CELL
    width, height = layout.columns * CELL, (layout.rows - 1) * down + tall
    margin = 0.028 * max(width, height)
    parts = [
        f'<svg class="lattice" role="img" aria-label="{escape(label)}" '
        f'viewBox="{-2 * margin:.1f} {-2 * margin:.1f} {width + 3 * margin:.1f} {height + 2.5 * margin:.1f}">'
    ]
    if image:
        parts.append(f'<image width="{width:.1f}" height="{height:.1f}" href="{image}" preserveAspectRatio="none"/>')
    detailed = layout.x.size <= TOOLTIP_NEURONS
    if fills is not None or detailed:
        for i in np.flatnonzero(layout.panel == panel):
            parts.append(
                _cell(layout, int(i), fills, texts if detailed else None, titles if detailed else None, linked)
            )
    parts += [_axis_labels(layout, margin, down, tall, (0.6 if image else 0.85) * margin), "</svg>"]
    return "".join(parts)


def _cell(
    layout: Layout,
    i: int,
    fills: Sequence[str] | None,
    texts: Sequence[str] | None,
    titles: Sequence[str] | None,
    linked: frozenset[int],
) -> str:
    left, top = layout.x[i] * CELL, layout.y[i] * CELL * layout.pitch
    fill = fills[i] if fills is not None else "transparent"
    if layout.hexagonal:
        h = CELL * 2 / np.sqrt(3)
        corners = [(0.5, 0), (1, 0.25), (1, 0.75), (0.5, 1), (0, 0.75), (0, 0.25)]
        points = " ".join(f"{left + a * CELL:.0f},{top + b * h:.0f}" for a, b in corners)
        shape = f'<polygon points="{points}" fill="{fill}"'
    else:
        h = CELL
        shape = f'<rect x="{left:.0f}" y="{top:.0f}" width="{CELL:.0f}" height="{CELL:.0f}" fill="{fill}"'
    shape += f"><title>{escape(titles[i])}</title></{shape[1:].split()[0]}>" if titles else "/>"
    if texts:
        size = min(34.0, 150.0 / max(len(texts[i]), 1))
        shape += (
            f'<text x="{left + CELL / 2:.0f}" y="{top + h / 2 + size * 0.36:.0f}" font-size="{size:.0f}" '
            f'fill="{_contrast(fill)}">{escape(texts[i])}</text>'
        )
    return f'<a href="#neuron-{i}">{shape}</a>' if i in linked else shape


def _axis_labels(layout: Layout, margin: float, down: float, tall: float, size: float) -> str:
    parts = []
    every = max(1, layout.rows // 12)
    for row in range(0, layout.rows, every):
        y = row * down + tall / 2 + size * 0.36
        left = float(layout.x[np.round(layout.y) == row].min(initial=layout.columns)) * CELL
        x = (left if layout.hexagonal else 0) - 0.5 * margin
        parts.append(
            f'<text class="axis" x="{x:.0f}" y="{y:.0f}" font-size="{size:.1f}" text-anchor="end">{row}</text>'
        )
    for column in range(0, 0 if layout.hexagonal else layout.columns, max(1, layout.columns // 12)):
        x = (column + 0.5) * CELL
        parts.append(f'<text class="axis" x="{x:.0f}" y="{-0.5 * margin:.0f}" font-size="{size:.1f}">{column}</text>')
    return "".join(parts)


def value_colours(values: np.ndarray, colour_map: str = "viridis", power: float = 1.0) -> list[str]:
    """Hex colours of values (N,); NaN is light grey. ``power`` below 1 stretches the low end."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    low, high = value_range(values)
    scaled = (np.clip((np.nan_to_num(values, nan=low) - low) / (high - low), 0, 1)) ** power
    colours = [to_hex(colour) for colour in colormaps[colour_map](scaled)]
    return ["#e9eaee" if np.isnan(value) else colour for value, colour in zip(values, colours, strict=True)]


def value_range(values: np.ndarray) -> tuple[float, float]:
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    return low, high if high > low else low + 1.0


def colour_bar(values: np.ndarray, colour_map: str, unit: str, power: float = 1.0) -> str:
    """A strip of the colour map with its two ends written out."""
    if not np.isfinite(values).any():
        return ""
    low, high = value_range(values)
    steps = np.linspace(0, 1, 9)
    stops = ",".join(value_colours(steps, colour_map, power))
    if not np.nanmax(values) > np.nanmin(values):
        return f'<div class="bar"><span>{low:.3g} {escape(unit)} everywhere</span></div>'
    return (
        f'<div class="bar"><span>{low:.3g}</span><i style="background:linear-gradient(90deg,{stops})"></i>'
        f"<span>{high:.3g} {escape(unit)}</span></div>"
    )


def _contrast(fill: str) -> str:
    red, green, blue = (int(fill[i : i + 2], 16) for i in (1, 3, 5))
    return "#1f2430" if 0.3 * red + 0.59 * green + 0.11 * blue > 140 else "#ffffff"


# --- charts ---------------------------------------------------------------------------------------


def distance_chart(edges: np.ndarray, counts: np.ndarray, marks: dict[str, float], worst: np.ndarray) -> str:
    """Histogram of BMU distances with ``marks`` as lines and the worst matches as ticks on the axis."""
    figure, axes = _figure(7.6, 3.1)
    step = max(len(counts) // 64, 1)
    grouped = counts[: len(counts) // step * step].reshape(-1, step).sum(axis=1)
    axes.stairs(grouped, edges[::step][: len(grouped) + 1], fill=True, color=ACCENT, alpha=0.85)
    top = float(max(grouped.max(), 1))
    for number, (name, value) in enumerate(marks.items()):
        axes.axvline(value, color=INK, lw=1, ls=("-", "--", ":")[number % 3])
        axes.text(value, top * 1.08, f" {name} {value:.3g}", fontsize=8.5, color=INK, va="bottom")
    axes.plot(worst, np.full(len(worst), -0.02 * top), "|", color=SECOND, ms=9, mew=1.6, clip_on=False)
    axes.set(xlabel="distance to the best-matching neuron", ylabel="sources", ylim=(0, 1.2 * top))
    return _png(figure)


def angle_chart(counts: np.ndarray) -> str:
    """Histogram of best angles (2, R), flipped sources on top, with the quarter turns marked."""
    figure, axes = _figure(7.6, 3.1)
    rotations = counts.shape[1]
    # equally many angles a bin, or the histogram would have a comb of its own
    bins = max([b for b in range(24, 121, 4) if rotations % b == 0], default=rotations)
    each = rotations // bins
    grouped = np.roll(counts, each // 2, axis=1).reshape(2, bins, each).sum(axis=2)
    width = 360 / bins
    angle = np.arange(bins) * width + ((each - 1) / 2 - each // 2) * 360 / rotations
    axes.bar(angle, grouped[0], width, color=ACCENT, label="as it is")
    axes.bar(angle, grouped[1], width, bottom=grouped[0], color="#9db2de", label="mirrored")
    axes.axhline(counts.sum() / bins, color=INK, lw=1, ls="--")
    axes.text(360 + width, counts.sum() / bins, " uniform", fontsize=8.5, va="center", color=INK)
    axes.set(xlabel="best angle (degrees, clockwise)", ylabel="sources", xlim=(-width, 360))
    axes.set_xticks(np.arange(0, 361, 45))
    axes.legend(frameon=False, fontsize=8.5, ncols=2, loc="lower right", bbox_to_anchor=(1, 1))
    return _png(figure)


def training_chart(seen: np.ndarray, distance: np.ndarray, factor: np.ndarray, stage: np.ndarray) -> str:
    """Mean BMU distance and update factor against images seen, training stages shaded."""
    figure, axes = _figure(7.6, 3.4)
    axes.plot(seen, distance, "o-", color=ACCENT, ms=3.5, lw=1.6)
    for number in np.unique(stage):
        own = stage == number
        first = seen[own].min() if number == stage.min() else seen[stage < number].max()
        if len(np.unique(stage)) > 1:
            axes.axvspan(first, seen[own].max(), color=MUTED, alpha=0.05 + 0.07 * (int(number) % 2), lw=0)
            axes.text((first + seen[own].max()) / 2, 1.01, f"stage {int(number) + 1}", fontsize=8.5, ha="center",
                      va="bottom", color=MUTED, transform=axes.get_xaxis_transform())  # fmt: skip
    axes.set(xlabel="images seen in training", ylabel="mean distance")
    if np.isfinite(factor).any():
        other = axes.twinx()
        other.plot(seen, factor, color=SECOND, lw=1.2, ls="--", drawstyle="steps-pre")
        other.set_ylabel("update factor", color=SECOND)
        other.set_ylim(0, None)
        other.tick_params(colors=SECOND, labelsize=8.5)
        other.spines[["top", "left"]].set_visible(False)
        other.spines["right"].set_color("#c9cdd6")
    return _png(figure)


def _figure(width: float, height: float) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#c9cdd6")
    axes.tick_params(colors=MUTED, labelsize=8.5)
    axes.xaxis.label.set(color=INK, fontsize=9.5)
    axes.yaxis.label.set(color=INK, fontsize=9.5)
    return figure, axes


def _png(figure: Any) -> str:
    """Data URI of a figure as palette PNG (charts have few colours)."""
    from PIL import Image

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    image = Image.open(buffer).convert("RGB").quantize(64)
    small = io.BytesIO()
    image.save(small, "PNG", optimize=True)
    return _data_uri(small.getvalue(), "image/png")


def _data_uri(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
