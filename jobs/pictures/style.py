"""How pictures look: colours, stretches, figures without global state.

Images and neurons are drawn with the first pixel row at the bottom, as FITS images are: north is up where it is
towards higher rows. Lattices are drawn with the first lattice index (bmu_row) counting downwards and the second
(bmu_col) to the right. Colour maps are perceptually uniform, categories are the colour-blind-safe ones of Okabe and
Ito (2008), and no difference is shown by colour alone.
"""

import unicodedata
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import AsinhNorm, Normalize, PowerNorm, to_rgb
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator

from skysom.engine.errors import ReadingError

INK, MUTED, FRAME = "#1f2430", "#6b7280", "#c9cdd6"
ACCENT, SECOND = "#0072b2", "#d55e00"
MISSING = "#d9dbe1"
"""Colour of what has no value."""
CATEGORIES = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#7f7f7f")
DASHES: tuple[Any, ...] = ("-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (5, 1.5, 1, 1.5)))
IMAGE_COLOURS, VALUE_COLOURS, LOSS_COLOURS, BORDER_COLOURS = "inferno", "viridis", "cividis", "magma"

Stretch = Literal["auto", "linear", "sqrt", "asinh"]
"""How brightness follows pixel values: ``auto`` is the square root on a dark background and linear on a bright one."""


def new_axes(axes: Axes | None, width: float = 4.6, height: float = 4.6) -> Axes:
    """``axes``, or those of a new figure of this size in inches (reach it by ``axes.figure``)."""
    if axes is not None:
        return axes
    return Figure(figsize=(width, height), layout="compressed").add_subplot()


def new_sheet(rows: int, columns: int, panel: float = 1.9, heading: float = 0.35) -> np.ndarray:
    """Axes (rows, columns) of a new figure, panels of ``panel`` inches with ``heading`` inches for a title each."""
    figure = Figure(figsize=(columns * panel, rows * (panel + heading)), layout="compressed")
    return figure.subplots(rows, columns, squeeze=False)


def axes_grid(axes: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Axes as an array of ``shape``; ReadingError where they are another number."""
    found = np.asarray(axes, dtype=object)
    if found.size != int(np.prod(shape)):
        raise ReadingError(f"{found.size} axes are given, this picture needs {shape}; make them with new_sheet{shape}")
    return found.reshape(shape)


def bare(axes: Axes) -> Axes:
    """Axes without ticks, in a thin frame."""
    if not hasattr(axes, "coords"):
        axes.set_xticks([])
        axes.set_yticks([])
    axes.spines[:].set_color(FRAME)
    return axes


def charted(axes: Axes) -> Axes:
    """Axes of a chart: two thin spines, small ticks."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FRAME)
    axes.tick_params(colors=MUTED, labelsize=8.5)
    axes.xaxis.label.set(color=INK, fontsize=9.5)
    axes.yaxis.label.set(color=INK, fontsize=9.5)
    return axes


def titled(axes: Axes, title: str, size: float = 9.5) -> Axes:
    """Axes with a title at the left; none where it is empty."""
    if title:
        axes.set_title(title, loc="left", fontsize=size, color=INK, parse_math=False)
    return axes


def legend(axes: Axes, **options: Any) -> Any:
    """A small legend on white, which lines behind it do not cross; its labels are no mathematics."""
    look = {"fontsize": 8.5, "facecolor": "white", "edgecolor": "none", "framealpha": 0.9}
    found = axes.legend(**(look | options))
    for text in found.get_texts():
        text.set_parse_math(False)
    return found


# --- texts that come from data --------------------------------------------------------------------


def plain(text: str) -> str:
    """``text`` without control characters and halves of surrogate pairs, which no font has."""
    return "".join(letter for letter in text if unicodedata.category(letter) not in ("Cc", "Cs"))


@contextmanager
def any_letters() -> Iterator[None]:
    """Letters that the font lacks are drawn as boxes meanwhile, without a warning for each."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph .* missing from font", UserWarning)
        yield


# --- brightness -----------------------------------------------------------------------------------


def limits_of(values: np.ndarray, low: float | None = None, high: float | None = None) -> tuple[float, float]:
    """Least and greatest finite value, or those given; (0, 1) where there is none, never equal."""
    finite = np.asarray(values)[np.isfinite(values)]
    bottom = low if low is not None else (float(finite.min()) if finite.size else 0.0)
    top = high if high is not None else (float(finite.max()) if finite.size else bottom + 1.0)
    return bottom, top if top > bottom else bottom + 1.0


def brightness(
    image: np.ndarray, stretch: Stretch = "auto", low: float | None = None, high: float | None = None
) -> Normalize:
    """How values of ``image`` become brightness: its least (``low``) to its greatest (``high``) finite value.

    ``auto``: exponent 1/2 where the median lies at the bottom of the range (faint emission on a dark background)
    rising to 1 where it lies at 0.3 of it or higher (noise). ``asinh``: linear to 5 % of the range.

    Raises
    ------
    ReadingError : an unknown stretch.
    """
    bottom, top = limits_of(image, low, high)
    if stretch == "linear":
        return Normalize(bottom, top)
    if stretch == "asinh":
        return AsinhNorm(0.05 * (top - bottom), bottom, top)
    if stretch not in ("auto", "sqrt"):
        raise ReadingError(f"stretch {stretch!r}; use auto, linear, sqrt or asinh")
    finite = np.asarray(image)[np.isfinite(image)]
    middle = (float(np.median(finite)) - bottom) / (top - bottom) if finite.size else 0.0
    power = 0.5 if stretch == "sqrt" else 0.5 + 0.5 * min(max(middle, 0.0) / 0.3, 1.0)
    return PowerNorm(power, bottom, top)


def put_image(
    axes: Axes, image: np.ndarray, norm: Normalize, colour_map: str = IMAGE_COLOURS, **options: Any
) -> AxesImage:
    """``image`` (H, W) on ``axes``, first row at the bottom, pixels as squares, missing ones grey."""
    from matplotlib import colormaps

    colours = colormaps[colour_map].with_extremes(bad=MISSING)
    shown = np.ma.masked_invalid(image)
    settings = {"origin": "lower", "interpolation": "nearest", **options}
    return axes.imshow(shown, cmap=colours, norm=norm, **settings)


def colour_bar(axes: Axes, artist: Any, label: str) -> Any:
    """A thin colour bar to the right of ``axes``, with whole numbers beside it where all values are whole."""
    values = np.ma.masked_invalid(artist.get_array()).compressed()
    ticks = MaxNLocator(5, integer=bool((values == np.round(values)).all()))
    bar = axes.figure.colorbar(artist, ax=axes, fraction=0.045, pad=0.02, ticks=ticks)
    bar.set_label(label, fontsize=9, color=INK)
    bar.ax.tick_params(labelsize=8, colors=MUTED)
    bar.outline.set_visible(False)  # type: ignore[operator]
    return bar


def text_colour(background: Any) -> str:
    """Dark or white, whichever is read better on ``background``."""
    red, green, blue = to_rgb(background)
    return INK if 0.3 * red + 0.59 * green + 0.11 * blue > 0.55 else "#ffffff"


def category_colour(number: int) -> str:
    """Colour of the category ``number``; they repeat after eight, so names are written beside them."""
    return CATEGORIES[number % len(CATEGORIES)]
