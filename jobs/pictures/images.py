"""Pictures of images and neurons: one, a source beside its neuron in either frame, sheets of members.

The first pixel row is at the bottom. Images in the neuron's frame are those that the search compares with the neuron
(bilinear, engine.reading.frames).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize

from skysom.engine.errors import ReadingError
from skysom.engine.geometry import Geometry
from skysom.engine.reading.frames import angle_and_flip, to_image_frame, to_neuron_frame, trimmed
from skysom.jobs.pictures import style

FRAMES = ("source", "neuron", "source in the neuron's frame", "neuron in the source's frame")

LONGEST_NAME = 18
"""Characters of a source's name that fit above its picture; the middle of a longer one is left out."""


def draw_image(
    axes: Axes | None,
    image: np.ndarray,
    *,
    title: str = "",
    unit: str = "",
    stretch: style.Stretch = "auto",
    norm: Normalize | None = None,
    colour_map: str = style.IMAGE_COLOURS,
    bar: bool = True,
    pixel_scale_arcsec: float | None = None,
) -> Axes:
    """An image (H, W), first row at the bottom; missing pixels (NaN) are grey.

    Parameters
    ----------
    axes : where to draw, also axes of `positions.sky_axes`; None makes a figure.
    unit : of the colour bar. stretch, norm : brightness, see `style.brightness`; ``norm`` wins.
    bar : whether there is a colour bar.
    pixel_scale_arcsec : draws a bar of a round number of arcseconds.

    Raises
    ------
    ReadingError : not one plane.
    """
    plane = np.asarray(image)
    if plane.ndim != 2:
        raise ReadingError(f"an image of shape {plane.shape}; give one channel, (H, W)")
    axes = style.new_axes(axes)
    artist = style.put_image(axes, plane, style.brightness(plane, stretch) if norm is None else norm, colour_map)
    if bar:
        style.colour_bar(axes, artist, unit)
    if pixel_scale_arcsec is not None:
        scale_bar(axes, plane.shape, pixel_scale_arcsec)
    return style.titled(style.bare(axes), title)


def draw_neuron(
    axes: Axes | None,
    neuron: np.ndarray,
    *,
    title: str = "Neuron",
    side: int | None = None,
    stretch: style.Stretch = "auto",
    bar: bool = True,
) -> Axes:
    """A neuron's channel (D, D), its central ``side`` pixels (by default floor(D / sqrt 2)); see `draw_image`."""
    return draw_image(axes, trimmed(neuron, side), title=title, stretch=stretch, bar=bar)


def draw_frames(
    axes: Any,
    image: np.ndarray,
    neuron: np.ndarray,
    transform: int,
    geometry: Geometry,
    *,
    channels: Sequence[str] = (),
    distance: float | None = None,
    titles: Sequence[str] = FRAMES,
    side: int | None = None,
    stretch: style.Stretch = "auto",
) -> np.ndarray:
    """A source beside its neuron, and each of the two in the frame of the other; a row a channel.

    Parameters
    ----------
    axes : C x 4 axes (or four for one channel); None makes a figure.
    image : (C, H, H) as it was compared. neuron : (C, D, D).
    transform : t that takes the image onto the neuron.
    channels : C names, written at the left. distance : written beside the angle.
    side : central pixels that are shown (one less where the parities differ); by default all of the source.

    Returns
    -------
    Axes (C, 4). All panels show as many pixels; in each row the two of the source have one brightness scale, and the
    two of the neuron another.

    Raises
    ------
    ReadingError : sides or channels that do not fit together.
    """
    if image.ndim != 3 or neuron.ndim != 3 or len(image) != len(neuron):
        raise ReadingError(f"image {image.shape} and neuron {neuron.shape}; give (C, H, H) and (C, D, D)")
    if axes is None:
        axes = style.new_sheet(len(image), 4, 2.3, 0.4)
    grid = style.axes_grid(axes, (len(image), 4))
    shown = _shown(geometry, side)
    whole = (
        image,
        neuron,
        to_neuron_frame(image[None], transform, geometry)[0],
        to_image_frame(neuron[None], transform, geometry)[0],
    )
    planes = [trimmed(plane, shown) for plane in whole]
    angle, flip = angle_and_flip(transform, geometry)
    words = f"turned {np.rad2deg(angle[0]):.0f}°" + (", mirrored" if flip[0] else "")
    words += "" if distance is None else f", distance {distance:.3g}"
    for row in range(len(image)):
        source, own = (style.brightness(planes[i][row], stretch) for i in (0, 1))
        for column, norm in enumerate((source, own, source, own)):
            title = titles[column] if row == 0 else ""
            draw_image(grid[row, column], planes[column][row], title=title, norm=norm, bar=False)
        if channels:
            grid[row, 0].set_ylabel(channels[row], fontsize=9.5, color=style.INK)
    grid[-1, 2].set_xlabel(words, fontsize=9, color=style.INK)
    return grid


def draw_members(
    axes: Any,
    images: np.ndarray,
    transform: np.ndarray,
    geometry: Geometry,
    *,
    neuron: np.ndarray | None = None,
    names: Sequence[str] = (),
    distance: np.ndarray | None = None,
    channel: int = 0,
    columns: int = 6,
    side: int | None = None,
    stretch: style.Stretch = "auto",
    title: str | None = None,
) -> np.ndarray:
    """A sheet of members turned onto their neuron: where they are one family, all look alike.

    Parameters
    ----------
    axes : one for the neuron, if it is given, and one for each image; None makes a sheet of ``columns``.
    images : (M, C, H, H) as they were compared. transform : (M,) t of each. neuron : (C, D, D).
    names, distance : M titles and distances, written above each.
    side : central pixels that are shown (one less where the parities differ); by default as many as a source has.
    title : of the figure that is made.

    Returns
    -------
    All axes, flat; those left over are empty. Every panel shows the middle of the neuron's frame, each from its
    faintest to its brightest pixel.

    Raises
    ------
    ReadingError : arrays, names or axes that do not fit together.
    """
    count = len(images)
    given = {"transforms": transform, "names": names or None, "distances": distance}
    wrong = {key: len(values) for key, values in given.items() if values is not None and len(values) != count}
    if wrong:
        raise ReadingError(f"{wrong} for {count} images; give one an image")
    panels = count + (neuron is not None)
    if axes is None:
        axes = style.new_sheet(-(-panels // columns), min(columns, panels))
        words = f"{count} sources turned onto their neuron" if title is None else title
        axes.flat[0].figure.suptitle(words, x=0.01, ha="left", fontsize=10.5, color=style.INK)
    flat = np.asarray(axes, dtype=object).ravel()
    if flat.size < panels:
        raise ReadingError(f"{flat.size} axes for {panels} pictures; give more")
    shown = _shown(geometry, side)
    if neuron is not None:
        draw_image(flat[0], trimmed(neuron[channel], shown), title="neuron", stretch=stretch, bar=False)
        flat[0].spines[:].set(color=style.SECOND, linewidth=2)
    turned = trimmed(to_neuron_frame(images[:, channel], transform, geometry), shown)
    for i, plane in enumerate(turned):
        words = _caption(names, distance, i)
        where = draw_image(flat[i + panels - count], plane, stretch=stretch, bar=False)
        style.titled(where, words, 8)
    for left in flat[panels:]:
        left.set_axis_off()
    return flat


def draw_worst(
    axes: Any,
    images: np.ndarray,
    neurons: np.ndarray,
    transform: np.ndarray,
    distance: np.ndarray,
    geometry: Geometry,
    *,
    names: Sequence[str] = (),
    channel: int = 0,
    stretch: style.Stretch = "auto",
) -> np.ndarray:
    """The worst matches: each source above its best neuron, which is turned into the source's frame.

    Parameters
    ----------
    axes : (2, M) axes; None makes a figure. images : (M, C, H, H); neurons : (M, C, D, D), the best of each;
    transform, distance : (M,).

    Raises
    ------
    ReadingError : arrays or axes that do not fit together.
    """
    count = len(images)
    if not len(neurons) == len(transform) == len(distance) == count or len(names) not in (0, count):
        raise ReadingError(
            f"{count} images, {len(neurons)} neurons, {len(transform)} transforms, {len(distance)} distances, "
            f"{len(names)} names; give one each"
        )
    if axes is None:
        axes = style.new_sheet(2, count)
        words = f"The {count} worst matches: source (top), and the nearest neuron turned onto it"
        axes.flat[0].figure.suptitle(words, x=0.01, ha="left", fontsize=10.5, color=style.INK)
    grid = style.axes_grid(axes, (2, count))
    back = to_image_frame(neurons[:, channel], transform, geometry)
    for i in range(count):
        draw_image(grid[0, i], images[i, channel], stretch=stretch, bar=False)
        draw_image(grid[1, i], back[i], stretch=stretch, bar=False)
        style.titled(grid[0, i], _caption(names, distance, i), 8)
    for row, word in enumerate(("source", "neuron")):
        grid[row, 0].set_ylabel(word, fontsize=9.5, color=style.INK)
    return grid


def scale_bar(axes: Axes, shape: tuple[int, ...], pixel_scale_arcsec: float) -> Axes:
    """A bar of a round number of arcseconds or arcminutes, about a quarter of the width, at the lower left."""
    steps = np.array([1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600])
    wanted = shape[1] * pixel_scale_arcsec / 4
    length = float(steps[np.argmin(np.abs(np.log(steps / wanted)))])
    words = f"{length / 60:.0f}′" if length >= 60 else f"{length:.0f}″"
    left, low, pixels = 0.05 * shape[1], 0.05 * shape[0], length / pixel_scale_arcsec
    for colour, width in ((style.INK, 4), ("white", 2)):
        axes.plot([left, left + pixels], [low, low], color=colour, lw=width, solid_capstyle="butt")
    axes.text(left + pixels / 2, low + 0.02 * shape[0], words, color="white", fontsize=8.5, ha="center", va="bottom")
    return axes


def _shown(geometry: Geometry, side: int | None) -> int:
    """Central pixels to show: ``side``, or one less, so that the image itself is never resampled."""
    most = min(geometry.image_side, geometry.neuron_side)
    wanted = most if side is None else side
    if not 2 <= wanted <= most:
        raise ReadingError(f"a side of {side} pixels to show; give 2 to {most}")
    return wanted if side is None else wanted - (wanted - geometry.image_side) % 2


def _caption(names: Sequence[str], distance: np.ndarray | None, i: int) -> str:
    far = "" if distance is None or not np.isfinite(distance[i]) else f"d = {distance[i]:.3g}"
    name = str(names[i]) if len(names) else ""
    short = name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME // 2]}…{name[1 - LONGEST_NAME // 2 :]}"
    return ", ".join(part for part in (short, far) if part)
