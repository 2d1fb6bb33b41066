"""The picture of a dry run: a field with its components, links and hosts, and its sources of most components."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from skysom.jobs.pictures import style

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

SHOWN = 4
"""Sources that are drawn large."""
MARKERS = ("x", "+", "1", "2")
LENGTHS = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200)
"""Of the bars of small panels, arcsec."""
CROWDED = 1000
"""Components of a field whose marks have the normal size."""


def draw_field(
    components: np.ndarray,
    sources: "pd.DataFrame",
    links: np.ndarray,
    hosts: Mapping[str, np.ndarray],
    *,
    title: str = "",
) -> Figure:
    """A field, east to the left, and beside it the sources of most components.

    Parameters
    ----------
    components : (n, 2) offsets east and north of all components, arcmin. sources : with columns members (rows of
    ``components``), components, name and inside (bool, whether it counts). links : (k, 2) pairs of components.
    hosts : (h, 2) offsets by label.
    """
    figure = Figure(figsize=(12.4, 6.8))  # placed by hand: a layout engine takes as long as the collation
    grid = figure.add_gridspec(
        2, 4, width_ratios=[2, 0.02, 1, 1], left=0.05, right=0.99, bottom=0.12, top=0.95, wspace=0.06, hspace=0.14
    )
    several = np.zeros(len(components), bool)
    for members in sources.loc[sources["components"] > 1, "members"]:
        several[members] = True
    inside = sources[sources["inside"]]
    field = figure.add_subplot(grid[:, 0])
    crowded = len(components) / CROWDED
    _draw(field, components, several, links, hosts, np.zeros(2), 31.0, float(np.clip(1 / np.sqrt(crowded), 0.4, 2)))
    style.charted(field)
    field.plot(*np.array([[-30, 30, 30, -30, -30], [-30, -30, 30, 30, -30]]), color=style.FRAME, lw=1)
    field.set_title(title, fontsize=10, color=style.INK, parse_math=False)
    field.set(xlabel="east (arcmin)", ylabel="north (arcmin)")
    largest = inside[inside["components"] > 1].sort_values(["components", "source"], ascending=[False, True])[:SHOWN]
    for number, (_, source) in enumerate(largest.iterrows()):
        axes = figure.add_subplot(grid[number // 2, 2 + number % 2])
        where = components[source["members"]]
        centre = (where.min(axis=0) + where.max(axis=0)) / 2
        half = max(float(np.abs(where - centre).max()) * 1.6, 0.3)
        _draw(axes, components, several, links, hosts, centre, half, 4.0)
        axes.scatter(where[:, 0], where[:, 1], s=90, facecolors="none", edgecolors=style.INK, linewidths=0.8)
        _scale(axes, centre, half)
        named = f"{source['name']}: {source['components']} components"
        axes.set_title(named, fontsize=8, color=style.INK, parse_math=False)
    _legend(figure, hosts)
    return figure


def _draw(
    axes: "Axes",
    components: np.ndarray,
    several: np.ndarray,
    links: np.ndarray,
    hosts: Mapping[str, np.ndarray],
    centre: np.ndarray,
    half: float,
    size: float,
) -> None:
    near = (np.abs(components - centre) <= half * 1.05).all(axis=1)
    alone, linked = components[near & ~several], components[near & several]
    axes.scatter(alone[:, 0], alone[:, 1], s=7 * size, color=style.MUTED, marker="o", linewidths=0)
    shown = links[near[links].any(axis=1)] if len(links) else links
    axes.add_collection(LineCollection(list(components[shown]), colors=style.ACCENT, linewidths=0.6 + 0.2 * size))
    axes.scatter(linked[:, 0], linked[:, 1], s=9 * size, color=style.ACCENT, marker="o", linewidths=0)
    for marker, colour, where in _looks(hosts):
        seen = where[(np.abs(where - centre) <= half * 1.05).all(axis=1)]
        axes.scatter(
            seen[:, 0], seen[:, 1], s=16 * size, color=colour, marker=marker, linewidths=0.6 + 0.15 * size, zorder=3
        )
    axes.set(xlim=(centre[0] + half, centre[0] - half), ylim=(centre[1] - half, centre[1] + half), aspect="equal")


def _scale(axes: "Axes", centre: np.ndarray, half: float) -> None:
    """A bar of a round number of arcsec in the lower corner, and no ticks."""
    style.bare(axes)
    arcsec = max(length for length in LENGTHS if length <= max(half * 60, LENGTHS[0]))
    start, level = centre[0] + 0.9 * half, centre[1] - 0.9 * half
    axes.plot([start, start - arcsec / 60], [level, level], color=style.INK, lw=1.5)
    axes.annotate(f"{arcsec:g} arcsec", (start, level + 0.04 * half), fontsize=8, color=style.INK)


def _looks(hosts: Mapping[str, np.ndarray]) -> list[tuple[str, str, np.ndarray]]:
    colours = [style.SECOND, *style.CATEGORIES[1:4]]
    return [
        (MARKERS[n % len(MARKERS)], colours[n % len(colours)], where.reshape(-1, 2))
        for n, where in enumerate(hosts.values())
    ]


def _legend(figure: Figure, hosts: Mapping[str, np.ndarray]) -> None:
    """In a line below the field, where nothing is drawn."""
    from matplotlib.lines import Line2D

    look: dict[str, Any] = {"ls": "none", "ms": 5}
    handles = [
        Line2D([], [], marker="o", color=style.MUTED, label="alone", **look),
        Line2D([], [], marker="o", color=style.ACCENT, label="linked", **look),
    ]
    for label, (marker, colour, _) in zip(hosts, _looks(hosts), strict=True):
        handles.append(Line2D([], [], marker=marker, color=colour, label=style.plain(label), **look))
    found = figure.legend(
        handles=handles, loc="lower left", bbox_to_anchor=(0.04, 0.0), ncols=len(handles), fontsize=9, frameon=False
    )
    for text in found.get_texts():
        text.set_parse_math(False)
