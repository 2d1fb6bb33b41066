"""Masks over a neuron: outlines of labelled regions with a legend."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.lines import Line2D

from skysom.engine.errors import ReadingError
from skysom.jobs.pictures import style
from skysom.jobs.pictures.images import draw_image

OUTLINES = ("#56b4e9", "#e69f00", "#00c590", "#f0e442", "#ff7fc8", "#ffffff", "#ff8c5a", "#9aa5ff")
"""Bright colours that are told apart on a dark picture, also by the colour-blind; dashes differ too."""

FINER = 4
"""Parts of a pixel's side; outlines cut its corners by half of one."""


def draw_masks(
    axes: Axes | None,
    neuron: np.ndarray,
    masks: np.ndarray,
    labels: Sequence[str],
    *,
    title: str = "Masks on the neuron",
    stretch: style.Stretch = "auto",
    colour_map: str = "gray",
) -> Axes:
    """A neuron, or an image, with the outline of every mask on it, along the edges of its pixels.

    Parameters
    ----------
    axes : where to draw; None makes a figure.
    neuron : (D, D). masks : (P, D, D) bool, one a label (`engine.reading.masks.unpack`); they may overlap.
    labels : P names for the legend, which gives the pixels of each. Empty masks stay out of the picture.

    Raises
    ------
    ReadingError : masks of another size than the neuron, or as many as there are not labels.
    """
    planes = np.asarray(masks)
    if planes.ndim != 3 or planes.shape[1:] != neuron.shape or len(planes) != len(labels):
        raise ReadingError(
            f"masks {planes.shape} and {len(labels)} labels on a neuron {neuron.shape}; give (P, D, D) and P names"
        )
    axes = style.new_axes(axes, 5.4, 4.4)
    draw_image(axes, neuron, stretch=stretch, colour_map=colour_map, bar=False)
    handles = []
    for number, (mask, label) in enumerate(zip(planes.astype(bool), labels, strict=True)):
        if not mask.any():
            continue
        colour, dash = OUTLINES[number % len(OUTLINES)], style.DASHES[number % len(style.DASHES)]
        # earlier outlines are wider, so that those on top leave them visible
        width = 1.3 + 0.5 * max(2 - number, 0)
        lines = LineCollection(list(outline(mask)), colors=colour, linestyles=[dash], linewidths=width, label=label)
        axes.add_collection(lines, autolim=False)
        handles.append(Line2D([], [], color=colour, ls=dash, lw=2, label=f"{label} ({int(mask.sum()):,} pixels)"))
    if handles:
        # on dark, as the outlines are
        look = {"facecolor": "#3a3f4b", "labelcolor": "white", "framealpha": 1}
        style.legend(axes, handles=handles, loc="upper left", bbox_to_anchor=(1.02, 1), borderaxespad=0, **look)
    return style.titled(axes, title)


def outline(mask: np.ndarray) -> list[np.ndarray]:
    """Closed lines ((n, 2) x, y) along the edges of the pixels of ``mask`` (H, W) bool, to 1/8 pixel; also of holes."""
    from skimage.measure import find_contours

    fine = np.kron(np.pad(mask, 1), np.ones((FINER, FINER)))
    contours = find_contours(fine, 0.5, fully_connected="high")
    return [((contour + 0.5) / FINER - 1.5)[:, ::-1] for contour in contours]
