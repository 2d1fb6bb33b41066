"""Pictures on the lattice: the map itself, one value a neuron, labels.

The first lattice index (bmu_row) counts downwards, the second (bmu_col) to the right; neuron n of a Cartesian map of
depth 1 is in row n // height and column n % height. A one-dimensional map is folded into lines that read like text.
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.colors import ListedColormap, Normalize, PowerNorm
from matplotlib.image import AxesImage
from matplotlib.patches import Patch, Polygon, Rectangle

from skysom.engine.errors import ReadingError
from skysom.engine.lattice import Lattice
from skysom.engine.reading.crops import reduced
from skysom.engine.reading.frames import trimmed
from skysom.jobs.pictures import style
from skysom.jobs.report_figures import Layout, layout_of

LEGIBLE_CELLS = 400
"""Numbers are written into cells of maps up to this size."""
MAX_CLASSES = len(style.CATEGORIES)


def draw_map(
    axes: Axes | None,
    weights: np.ndarray,
    lattice: Lattice,
    *,
    channel: int = 0,
    panel: int = 0,
    side: int | None = None,
    scale: Literal["neuron", "map"] = "neuron",
    stretch: style.Stretch = "auto",
    colour_map: str = style.IMAGE_COLOURS,
    pixels: int | None = 2400,
    title: str | None = None,
) -> Axes:
    """The map: every neuron's picture in its place.

    Parameters
    ----------
    axes : where to draw; None makes a figure.
    weights : (N, C, D, D) in the order of ``lattice``.
    channel, panel : which channel, and which depth of a three-dimensional map.
    side : central pixels that are shown; by default floor(D / sqrt 2), what turned images always fill.
    scale : brightness from the faintest to the brightest pixel of each neuron (0 to 1), or of the whole map.
    pixels : the mosaic is reduced to about so many pixels across (box averages); None keeps all.

    Returns
    -------
    Axes : neuron (row, column) is centred at x = column, y = row (y times sqrt(3)/2 on hexagonal maps).

    Raises
    ------
    ReadingError : weights, channel or panel that the lattice has not, an unknown scale.
    """
    layout = _layout(lattice, weights, panel)
    if weights.ndim != 4 or not 0 <= channel < weights.shape[1]:
        raise ReadingError(f"channel {channel} of weights {weights.shape}; give (N, C, D, D) and a channel of them")
    if scale not in ("neuron", "map"):
        raise ReadingError(f"scale {scale!r}; use 'neuron' or 'map'")
    chosen = np.flatnonzero(layout.panel == panel)
    planes = trimmed(weights[chosen, channel], side).astype(np.float32)
    most = planes.shape[-1] if pixels is None else max(pixels // max(layout.columns, layout.rows), 8)
    if most < planes.shape[-1]:
        planes = reduced(planes[:, None], most)[:, 0]
    norm = Normalize(0, 1)
    if scale == "map":
        norm = style.brightness(planes, stretch)
    else:
        planes = np.stack([np.ma.filled(style.brightness(plane, stretch)(plane), np.nan) for plane in planes])
    axes = style.new_axes(axes, *_size(layout))
    draw = _hexagonal_mosaic if layout.hexagonal else _square_mosaic
    artist = draw(axes, layout, chosen, planes, norm, colour_map)
    if scale == "map":
        style.colour_bar(axes, artist, "neuron value")
    _lattice_axes(axes, layout, lattice.rank == 1)
    depth = f", depth {panel}" if layout.panels > 1 else ""
    which = f", channel {channel}" if weights.shape[1] > 1 else ""
    words = f"{len(chosen)} neurons, each from its faintest to its brightest pixel"
    if scale == "map":
        words = f"{len(chosen)} neurons on one brightness scale"
    return style.titled(axes, f"The map: {words}{which}{depth}" if title is None else title)


def draw_values(
    axes: Axes | None,
    values: np.ndarray,
    lattice: Lattice,
    *,
    title: str = "",
    label: str = "",
    panel: int = 0,
    colour_map: str = style.VALUE_COLOURS,
    low: float | None = None,
    high: float | None = None,
    power: float = 1.0,
    number_format: str | None = None,
) -> Axes:
    """One value a neuron, as the colour of its cell; neurons without a value (NaN, masked) are grey.

    Parameters
    ----------
    values : (N,) in the order of ``lattice``.
    label : of the colour bar, with the unit.
    low, high : ends of the colour bar; the least and greatest value otherwise. power : below 1 spreads low values.
    number_format : such as ".0f" writes the values into the cells of maps of up to 400 neurons.

    Raises
    ------
    ReadingError : values of another length, or a panel that the lattice has not.
    """
    cells = np.ma.masked_invalid(np.ma.asarray(values, dtype=np.float64))
    layout = _layout(lattice, cells, panel)
    low, high = style.limits_of(cells.compressed(), low, high)
    norm = Normalize(low, high) if power == 1 else PowerNorm(power, low, high)
    axes = style.new_axes(axes, *_size(layout))
    artist = _put_cells(axes, layout, panel, cells, colour_map, norm)
    style.colour_bar(axes, artist, label)
    _lattice_axes(axes, layout, lattice.rank == 1)
    if number_format is not None:
        texts = ["" if value is None else format(value, number_format) for value in cells.tolist()]
        _write(axes, layout, panel, texts, artist.to_rgba(cells))
    return style.titled(axes, title)


def draw_hits(axes: Axes | None, hits: np.ndarray, lattice: Lattice, *, panel: int = 0) -> Axes:
    """How many sources have each neuron (N,) as their best match; grey: none."""
    members = np.where(np.asarray(hits) > 0, hits, np.nan).astype(np.float64)
    empty = int((~(np.asarray(hits) > 0)).sum())
    title = f"Hit map: {int(np.nansum(members)):,} sources" + (f", {empty} neurons without any (grey)" if empty else "")
    return draw_values(
        axes, members, lattice, title=title, label="sources", panel=panel, low=0, power=0.5, number_format=".0f"
    )


def draw_u_matrix(axes: Axes | None, distance: np.ndarray, lattice: Lattice, *, panel: int = 0) -> Axes:
    """Mean distance (N,) of each neuron to its neighbours on the lattice."""
    title, label = "U-matrix: bright ridges part families of shapes", "mean distance to the neighbours"
    return draw_values(axes, distance, lattice, title=title, label=label, panel=panel, colour_map=style.BORDER_COLOURS)


def draw_coherence(axes: Axes | None, coherence: np.ndarray, lattice: Lattice, *, panel: int = 0) -> Axes:
    """Share (N,) of each neuron's sources whose second-best neuron is its neighbour on the lattice."""
    title, label = "Coherence: sources whose second-best neuron is a neighbour", "share of the neuron's sources"
    return draw_values(
        axes, coherence, lattice, title=title, label=label, panel=panel, low=0, high=1, number_format=".2f"
    )


def draw_labels(
    axes: Axes | None,
    labels: Sequence[str | None] | np.ndarray,
    lattice: Lattice,
    *,
    names: Sequence[str] | None = None,
    panel: int = 0,
    title: str = "Labels of the neurons",
) -> Axes:
    """One label a neuron (N,), as a colour with a legend that counts them; grey where there is none (None, "", NaN).

    ``names`` fixes which labels there are and their order (and colours); otherwise they are sorted. Labels beyond the
    eighth share colours, so then every cell carries the number of its label in the legend.

    Raises
    ------
    ReadingError : labels of another length, or not among ``names``.
    """
    given = ["" if _is_missing(label) else str(label) for label in labels]
    layout = _layout(lattice, np.array(given), panel)
    order = sorted(set(given) - {""}) if names is None else [str(name) for name in names]
    strange = sorted(set(given) - {""} - set(order))
    if strange:
        raise ReadingError(f"labels {strange[:5]} are not among the names {order[:8]}; add them")
    codes = np.array([order.index(label) if label else -1 for label in given])
    axes = style.new_axes(axes, *_size(layout))
    colours = ListedColormap([style.category_colour(i) for i in range(max(len(order), 1))])
    cells = np.ma.masked_less(codes.astype(np.float64), 0)
    norm = Normalize(-0.5, max(len(order), 1) - 0.5)
    artist = _put_cells(axes, layout, panel, cells, colours, norm)
    _lattice_axes(axes, layout, lattice.rank == 1)
    numbered = len(order) > MAX_CLASSES
    if numbered:
        _write(axes, layout, panel, [str(c + 1) if c >= 0 else "" for c in codes], artist.to_rgba(cells))
    here = codes[layout.panel == panel]
    handles = [
        Patch(
            facecolor=style.category_colour(i),
            label=f"{f'{i + 1}  ' if numbered else ''}{name} ({int((here == i).sum())})",
        )
        for i, name in enumerate(order)
    ]
    if (here < 0).any():
        handles.append(Patch(facecolor=style.MISSING, label=f"no label ({int((here < 0).sum())})"))
    style.legend(axes, handles=handles, loc="upper left", bbox_to_anchor=(1.01, 1), borderaxespad=0)
    return style.titled(axes, title)


def draw_label_counts(
    axes: Any, counts: np.ndarray, names: Sequence[str], lattice: Lattice, *, label: str = "sources", panel: int = 0
) -> np.ndarray:
    """How the sources of each label lie on the map: one lattice a label, each with its own colour bar.

    Parameters
    ----------
    axes : L axes, or None. counts : (N, L) sources of each label on each neuron, or shares. names : L labels.

    Raises
    ------
    ReadingError : counts or axes that do not fit the names.
    """
    if counts.ndim != 2 or counts.shape[1] != len(names):
        raise ReadingError(f"counts {counts.shape} for {len(names)} labels; give (N, L)")
    if axes is None:
        width, height = _size(layout_of(lattice))
        axes = style.new_sheet(1, len(names), width, height - width)
    grid = style.axes_grid(axes, (len(names),))
    whole = np.issubdtype(counts.dtype, np.integer)
    for where, name, column in zip(grid, names, counts.T, strict=True):
        values = np.where(column > 0, column, np.nan).astype(np.float64)
        shown = f"{name}: {int(column.sum()):,} sources" if whole else f"{name}"
        draw_values(where, values, lattice, title=shown, label=label, panel=panel, low=0)
    return grid


# --- parts ----------------------------------------------------------------------------------------


def _layout(lattice: Lattice, values: Any, panel: int) -> Layout:
    if len(values) != lattice.size:
        raise ReadingError(f"{len(values)} neurons are given for {lattice}, which has {lattice.size}")
    layout = layout_of(lattice)
    if not 0 <= panel < layout.panels:
        raise ReadingError(f"panel {panel} was asked for; the lattice has {layout.panels} (depth)")
    return layout


def _size(layout: Layout) -> tuple[float, float]:
    """Width and height in inches of a picture of the lattice, with room for ticks and a colour bar."""
    longest = max(layout.columns, layout.rows * layout.pitch)
    return 1.4 + 4.2 * layout.columns / longest, 0.9 + 4.2 * max(layout.rows * layout.pitch / longest, 0.25)


def _hexagon(layout: Layout, neuron: int) -> np.ndarray:
    """Corners (6, 2) of a cell of width 1, a corner on top."""
    corner = np.array([[0, -1], [0.5, -0.5], [0.5, 0.5], [0, 1], [-0.5, 0.5], [-0.5, -0.5]]) * [1, 1 / np.sqrt(3)]
    return corner + np.array([layout.x[neuron], layout.y[neuron] * layout.pitch])


def _square_mosaic(
    axes: Axes, layout: Layout, chosen: np.ndarray, planes: np.ndarray, norm: Normalize, colour_map: str
) -> AxesImage:
    """All planes (n, s, s) in one image (rows s, columns s); each is upside down in it, as its first row is lowest."""
    side = planes.shape[-1]
    canvas = np.full((layout.rows * side, layout.columns * side), np.nan, np.float32)
    for neuron, plane in zip(chosen, planes, strict=True):
        top, left = int(layout.y[neuron]) * side, int(layout.x[neuron]) * side
        canvas[top : top + side, left : left + side] = plane[::-1]
    extent = (-0.5, layout.columns - 0.5, layout.rows - 0.5, -0.5)
    artist = style.put_image(axes, canvas, norm, colour_map, origin="upper", extent=extent, interpolation="auto")
    axes.hlines(np.arange(1, layout.rows) - 0.5, extent[0], extent[1], colors="white", lw=0.5)
    axes.vlines(np.arange(1, layout.columns) - 0.5, extent[2], extent[3], colors="white", lw=0.5)
    return artist


def _hexagonal_mosaic(
    axes: Axes, layout: Layout, chosen: np.ndarray, planes: np.ndarray, norm: Normalize, colour_map: str
) -> AxesImage:
    """One image a plane (n, s, s), as high as its hexagon, which cuts it out."""
    half = 1 / np.sqrt(3)
    for neuron, plane in zip(chosen, planes, strict=True):
        x, y = layout.x[neuron], layout.y[neuron] * layout.pitch
        # the axis counts downwards, so the first row goes to the larger y
        extent = (x - half, x + half, y + half, y - half)
        artist = style.put_image(axes, plane, norm, colour_map, extent=extent, interpolation="auto")
        outline = Polygon(_hexagon(layout, int(neuron)), facecolor="none", edgecolor="white", lw=0.6)
        axes.add_patch(outline)
        artist.set_clip_path(outline)
    return artist


def _put_cells(
    axes: Axes, layout: Layout, panel: int, cells: np.ma.MaskedArray, colour_map: Any, norm: Normalize
) -> Any:
    """Cells coloured by value: an image (rows, columns) where they are squares, polygons in order where hexagons."""
    from matplotlib import colormaps

    colours = (colormaps[colour_map] if isinstance(colour_map, str) else colour_map).with_extremes(bad=style.MISSING)
    chosen = np.flatnonzero(layout.panel == panel)
    if layout.hexagonal:
        corners = [_hexagon(layout, int(neuron)) for neuron in chosen]
        artist: Any = PolyCollection(corners, array=cells[chosen], cmap=colours, norm=norm, edgecolors="white", lw=0.6)
        return axes.add_collection(artist, autolim=True)
    table = np.ma.masked_all((layout.rows, layout.columns))
    table[layout.y[chosen].astype(int), layout.x[chosen].astype(int)] = cells[chosen]
    return axes.imshow(table, cmap=colours, norm=norm, origin="upper", interpolation="nearest")


def _write(axes: Axes, layout: Layout, panel: int, texts: Sequence[str], colours: np.ndarray) -> None:
    """A text into each cell, smaller where there are more cells or letters."""
    chosen = np.flatnonzero(layout.panel == panel).tolist()
    if len(chosen) > LEGIBLE_CELLS:
        return
    room = 150 / max(layout.columns, layout.rows)
    size = min(9.0, room / max(0.55 * max((len(texts[n]) for n in chosen), default=1), 1.4))
    for neuron in chosen:
        x, y = layout.x[neuron], layout.y[neuron] * layout.pitch
        colour = style.text_colour(colours[neuron])
        axes.text(x, y, texts[neuron], ha="center", va="center", fontsize=size, color=colour, clip_on=True)


def _lattice_axes(axes: Axes, layout: Layout, folded: bool) -> None:
    """Indices along the sides: rows downwards, columns to the right, named by their place in the catalogue."""
    half = 1 / np.sqrt(3) if layout.hexagonal else 0.5
    axes.set(xlim=(-0.5, layout.columns - 0.5), ylim=((layout.rows - 1) * layout.pitch + half, -half), aspect="equal")
    rows = np.arange(0, layout.rows, max(1, -(-layout.rows // 12)))
    columns = np.arange(0, layout.columns, max(1, -(-layout.columns // 12)))
    axes.set_yticks(rows * layout.pitch, [] if folded else [str(row) for row in rows])
    axes.set_xticks([] if layout.hexagonal or folded else columns)
    axes.xaxis.tick_top()
    axes.xaxis.set_label_position("top")
    axes.tick_params(colors=style.MUTED, labelsize=8.5, length=0)
    axes.spines[:].set_visible(False)
    across = "bmu_col"
    if layout.hexagonal:
        across = f"bmu_col is axial: {layout.rows // 2} to {layout.rows - 1} in row 0"
    axes.set_xlabel("one-dimensional: reads like text" if folded else across, fontsize=9, color=style.INK)
    if folded:
        # places after the last neuron are no neurons, which grey would make them
        last, left = layout.rows - 1.5, layout.x.size - (layout.rows - 1) * layout.columns - 0.5
        axes.add_patch(Rectangle((left, last), layout.columns - 0.5 - left, 1, facecolor="white", zorder=2))
    axes.set_ylabel("" if folded else "bmu_row", fontsize=9, color=style.INK)


def _is_missing(label: Any) -> bool:
    return label is None or label == "" or label != label or str(label) == "<NA>"
