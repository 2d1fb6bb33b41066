"""Why components are one source: an image with the members, the masks that were used as they lie on the sky, hosts.

Places are offsets (east, north) in arcsec from the middle of the picture; north is up and east to the left.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import AsinhNorm
from matplotlib.lines import Line2D

from skysom.engine.errors import ReadingError
from skysom.engine.reading.frames import PixelMap
from skysom.jobs.pictures import style
from skysom.jobs.pictures.images import draw_image
from skysom.jobs.pictures.masks import OUTLINES, outline

MEMBER, HOST, NEIGHBOUR, ISOLATED = "#ffffff", "#ff9f1c", "#9aa3b2", "#ff5d5d"
LEGEND_GROUND = "#3a3f4b"
MARKED = (
    *dict.fromkeys([*OUTLINES, MEMBER, HOST, NEIGHBOUR, ISOLATED, LEGEND_GROUND, style.ACCENT, style.INK, style.MUTED]),
)
"""Colours that must stay what they are where a picture is given fewer."""
MOST_NAMED = 9
"""Members that are numbered in a picture; of more the others are dots."""
LINEAR_SCATTERS = 3.0
"""Brightness rises linearly to so many standard deviations of the noise."""
THIN, THIN_WIDTH = "#dfe3ea", 0.9
"""Of the line in the legend that stands for all thin ones."""


@dataclass(frozen=True, eq=False)
class MaskOnSky:
    """The outline of a label of one neuron, laid on the sky by the component whose neuron it is.

    label : its name. number : of the label, which sets its colour. lines : closed lines (n, 2) east, north. first : by
    the mask of the representative.
    """

    label: str
    number: int
    lines: Sequence[np.ndarray]
    first: bool


@dataclass(frozen=True, eq=False)
class SourcePicture:
    """What is drawn of a source; places are (k, 2) arcsec east, north of the middle.

    image : (H, W), row 0 in the south and column 0 in the east, its middle in the middle; NaN where there is none.
    pixel_arcsec : of the image. members : places of all components. representative : number of the member whose mask
    gave the source its hosts, -1 for none. isolated : (k,) bool, members that a label isolated. neighbours : places of
    components of other sources. hosts : candidates, the first is ranked first. other_hosts : candidates by other masks
    than the representative's. masks : outlines to draw, the representative's first.
    """

    image: np.ndarray
    pixel_arcsec: float
    members: np.ndarray
    representative: int
    isolated: np.ndarray
    neighbours: np.ndarray
    masks: Sequence[MaskOnSky] = ()
    hosts: np.ndarray = field(default_factory=lambda: np.empty((0, 2)))
    other_hosts: np.ndarray = field(default_factory=lambda: np.empty((0, 2)))


def mask_on_sky(
    mask: np.ndarray,
    angle_rad: float,
    flip: int,
    pixel_scale_arcsec: tuple[float, float],
    offset_arcsec: tuple[float, float] = (0.0, 0.0),
) -> list[np.ndarray]:
    """The outline of a mask (D, D) of a neuron as the projection of a collation lays it on the sky.

    Parameters
    ----------
    angle_rad, flip : that take the component's image onto the neuron (specs/pyink.md, section 3).
    pixel_scale_arcsec : of the mask in x and y. offset_arcsec : east, north of the component from the middle.

    Returns
    -------
    Closed lines (n, 2) of offsets east, north: the edges of the mask's pixels. Exact near the component; the sky is
    taken as flat over the picture.
    """
    cosine, sine = np.cos(angle_rad), np.sin(angle_rad)
    # x = x' cos a + y' sin a, y = -x' sin a + y' cos a, with y' reversed first where flipped
    turn = PixelMap(np.array([[cosine, sine], [-sine, cosine]]) @ np.diag([1.0, -1.0 if flip else 1.0]), np.zeros(2))
    scale = np.array([-pixel_scale_arcsec[0], pixel_scale_arcsec[1]])
    middle = (mask.shape[0] - 1) / 2
    return [turn(line - middle) * scale + np.asarray(offset_arcsec) for line in outline(mask)]


def draw_grouping(
    axes: Axes | None,
    picture: SourcePicture,
    *,
    title: str = "",
    stretch: style.Stretch = "asinh",
    legend: Sequence[SourcePicture] | None = None,
) -> Axes:
    """A source with everything that made it one, on its image.

    Members are numbered, the representative is a star, those of other sources are faint crosses; masks are outlines
    along the edges of their pixels, those of the representative bold; candidates for the host are numbered by rank.

    Parameters
    ----------
    axes : where to draw; None makes a figure.
    legend : the pictures that the legend at the right is of, so that one will do for several channels; default this
        one, and none where it is empty.

    Raises
    ------
    ReadingError : no members, or flags of another length.
    """
    if not len(picture.members) or len(picture.isolated) != len(picture.members):
        raise ReadingError(
            f"{len(picture.members)} members and {len(picture.isolated)} flags of isolation; give one member or more "
            "and a flag each"
        )
    axes = style.new_axes(axes, 6.4, 4.6)
    shape = picture.image.shape
    norm = _contrast(picture.image, stretch)
    draw_image(axes, picture.image, norm=norm, colour_map="gray", bar=False, pixel_scale_arcsec=picture.pixel_arcsec)
    _draw_masks(axes, picture)
    for points in _points_of(picture):
        points.draw(axes, _pixels(picture, points.places))
    _compass(axes)
    axes.set(xlim=(-0.5, shape[1] - 0.5), ylim=(-0.5, shape[0] - 0.5))
    if handles := _handles([picture] if legend is None else legend):
        look = {"facecolor": LEGEND_GROUND, "labelcolor": "white", "framealpha": 1, "handlelength": 1.8}
        style.legend(axes, handles=handles, loc="upper left", bbox_to_anchor=(1.02, 1), borderaxespad=0, **look)
    return style.titled(axes, title)


def _contrast(image: np.ndarray, stretch: style.Stretch) -> Any:
    """From about the noise below the background to nearly the brightest pixels of the middle, where the source is.

    ``asinh`` is linear to `LINEAR_SCATTERS` of the noise, so that faint hosts show beside a bright star.
    """
    quarter = [size // 4 for size in image.shape]
    inner = image[quarter[0] : image.shape[0] - quarter[0], quarter[1] : image.shape[1] - quarter[1]]
    finite, near = image[np.isfinite(image)], inner[np.isfinite(inner)]
    if not finite.size:
        return style.brightness(np.zeros((1, 1)), "linear")
    middle = float(np.median(finite))
    scatter = 1.4826 * float(np.median(np.abs(finite - middle)))
    high = max(float(np.quantile(near if near.size else finite, 0.99)), middle + 8 * scatter)
    low = middle - 1.5 * scatter
    if stretch == "asinh" and scatter > 0:
        return AsinhNorm(LINEAR_SCATTERS * scatter, low, high)
    return style.brightness(image, stretch, low, high)


def _pixels(picture: SourcePicture, places: np.ndarray) -> np.ndarray:
    """Columns and rows (k, 2) of places."""
    middle = (np.array(picture.image.shape[::-1]) - 1) / 2
    return middle + np.reshape(places, (-1, 2)) * [-1, 1] / picture.pixel_arcsec


@dataclass(frozen=True, eq=False)
class _Points:
    """Places of one kind: how they are called and drawn; ``numbers`` are written beside them."""

    name: str
    places: np.ndarray
    marker: str
    size: float
    colour: str
    numbers: Sequence[int] = ()
    shift: tuple[int, int] = (6, 6)
    thin: bool = False

    def draw(self, axes: Axes, pixels: np.ndarray) -> None:
        look: dict[str, Any] = {"marker": self.marker, "s": self.size, "zorder": 4}
        # a dark rim shows on bright pixels
        for colour, width in ((style.INK, 2.2 if self.thin else 3.2), (self.colour, self._width)):
            own: dict[str, Any] = {"c": colour} if self.marker == "x" else {"edgecolors": colour, "facecolors": "none"}
            axes.scatter(pixels[:, 0], pixels[:, 1], linewidths=width, **look, **own)
        for number, place in zip(self.numbers, pixels, strict=False):
            if number < MOST_NAMED:
                _write(axes, str(number + 1), place, self.colour, self.shift)

    @property
    def _width(self) -> float:
        return 0.9 if self.thin else 1.5

    def handle(self) -> Line2D:
        size = 0.9 * np.sqrt(self.size)
        look = {"marker": self.marker, "ms": size, "color": self.colour, "mfc": "none", "ls": "", "mew": self._width}
        return Line2D([], [], label=f"{self.name} ({len(self.places)})", **look)


def _points_of(picture: SourcePicture) -> list[_Points]:
    """What is marked on a picture, what lies on top last."""
    numbers = np.arange(len(picture.members))
    first, alone = numbers == picture.representative, picture.isolated
    half = picture.pixel_arcsec * np.array(picture.image.shape[::-1]) / 2
    inside = (np.abs(picture.neighbours) <= half).all(axis=1)
    ranks = range(len(picture.hosts))
    found = [
        _Points("of other sources", picture.neighbours[inside], "x", 30, NEIGHBOUR),
        _Points("candidates by other masks", picture.other_hosts, "D", 150, HOST, thin=True),
        _Points("host candidates, by rank", picture.hosts, "D", 26, HOST, ranks, (6, -11)),
    ]
    gives = "member whose mask gives the hosts" if ranks else "member whose mask counts"
    kinds = (
        (~first & ~alone, "member", "o", 46, MEMBER),
        (first & ~alone, gives, "*", 150, MEMBER),
        (alone, "isolated", "X", 60, ISOLATED),
    )
    for chosen, name, marker, size, colour in kinds:
        found.append(_Points(name, picture.members[chosen], marker, size, colour, numbers[chosen].tolist()))
    return [points for points in found if len(points.places)]


def _handles(pictures: Sequence[SourcePicture]) -> list[Line2D]:
    """One entry a label and a kind of point, in the order of the pictures; masks first."""
    found: dict[str, Line2D] = {}
    masks = [mask for picture in pictures for mask in picture.masks]
    for mask in masks:
        if mask.first or mask.label not in found:
            found[mask.label] = Line2D([], [], label=f"mask “{style.plain(mask.label)}”", **_look(mask))
    if {mask.first for mask in masks} == {True, False}:
        found["thin"] = Line2D([], [], label="thin: masks of other members", color=THIN, linewidth=THIN_WIDTH)
    for points in (points for picture in pictures for points in _points_of(picture)):
        found.setdefault(f"points {points.name}", points.handle())
    return list(found.values())


def _look(mask: MaskOnSky) -> dict[str, Any]:
    width, alpha = (2.0, 1.0) if mask.first else (THIN_WIDTH, 0.75)
    dash = style.DASHES[mask.number % len(style.DASHES)]
    return {"color": OUTLINES[mask.number % len(OUTLINES)], "linewidth": width, "linestyle": dash, "alpha": alpha}


def _draw_masks(axes: Axes, picture: SourcePicture) -> None:
    # the representative's on top of the others
    for mask in sorted(picture.masks, key=lambda mask: mask.first):
        lines = [_pixels(picture, line) for line in mask.lines]
        axes.add_collection(LineCollection(lines, **_look(mask)), autolim=False)


def _write(axes: Axes, text: str, place: np.ndarray, colour: str, shift: tuple[int, int]) -> None:
    from matplotlib.patheffects import withStroke

    axes.annotate(
        text, tuple(place), xytext=shift, textcoords="offset points", color=colour, fontsize=9, fontweight="bold",
        zorder=5, path_effects=[withStroke(linewidth=2.2, foreground=style.INK)], annotation_clip=True,
    )  # fmt: skip


def _compass(axes: Axes) -> None:
    """North and east at the lower right."""
    from matplotlib.patheffects import withStroke

    corner, ends = (0.94, 0.06), {"N": (0.94, 0.16), "E": (0.84, 0.06)}
    rim = [withStroke(linewidth=3.0, foreground=style.INK)]
    for word, tip in ends.items():
        arrow = {"arrowstyle": "->", "color": "white", "lw": 1.3, "shrinkA": 0, "shrinkB": 0, "path_effects": rim}
        axes.annotate("", tip, corner, xycoords="axes fraction", textcoords="axes fraction", arrowprops=arrow)
        up = word == "N"
        axes.text(
            tip[0] if up else tip[0] - 0.01, tip[1] + 0.005 if up else tip[1], word, transform=axes.transAxes,
            color="white", fontsize=8.5, ha="center" if up else "right", va="bottom" if up else "center",
            path_effects=rim,
        )  # fmt: skip


def draw_components(axes: Axes | None, counts: np.ndarray, *, title: str = "") -> Axes:
    """Sources by their number of components, on a logarithmic scale, with the numbers above the bars.

    counts : (k,), entry c the sources of c components, the last one of that many and more. Empty ends are left out.

    Raises
    ------
    ReadingError : no source.
    """
    values = np.asarray(counts)
    there = np.flatnonzero(values)
    if not len(there):
        raise ReadingError(f"none of {len(values)} counts is above 0; collate components first")
    shown = np.arange(1, there[-1] + 1)
    axes = style.new_axes(axes, 6.8, 2.9)
    axes.bar(shown, values[shown], color=style.ACCENT, width=0.78)
    axes.set_yscale("log")
    axes.set_ylim(0.7, 3.0 * values.max())
    for count in there.tolist():
        axes.text(count, values[count] * 1.12, f"{values[count]:,}", ha="center", fontsize=8, color=style.INK)
    names = [f"{count}+" if count == len(values) - 1 else str(count) for count in shown]
    axes.set_xticks(shown, names)
    axes.set(xlabel="components of a source", ylabel="sources")
    return style.titled(style.charted(axes), title)
