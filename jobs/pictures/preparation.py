"""What preprocessing does to an image, step by step."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from skysom.engine.errors import ReadingError
from skysom.engine.preprocess import STEPS, Batch
from skysom.engine.preprocess import preprocess as run_chain
from skysom.engine.preprocess.chain import check_step
from skysom.jobs.pictures import style
from skysom.jobs.pictures.images import draw_image

Steps = Sequence[tuple[str, Mapping[str, Any]]]


@dataclass(frozen=True)
class Stage:
    """One image after a step: image (C, H, W) float32, NaN where masked; noise (C,); status; share of pixels kept."""

    name: str
    image: np.ndarray
    noise: np.ndarray
    status: str
    kept: float


def preparation_stages(
    image: np.ndarray,
    steps: Steps,
    *,
    redshift: float | None = None,
    pixel_scale_arcsec: float | None = None,
) -> list[Stage]:
    """An image as it was, after every step, and as the map sees it (masked pixels 0), through engine.preprocess.

    Parameters
    ----------
    image : (C, H, H), NaN where there is no data. steps : as `skysom.engine.preprocess.preprocess` takes them.

    Raises
    ------
    PreprocessError, ShapeError : as there; a failed image is a status.
    """
    for name, parameters in steps:
        check_step(name, parameters)
    z = None if redshift is None else [redshift]
    batch = Batch.start(image[None], redshift=z, pixel_scale_arcsec=pixel_scale_arcsec)
    stages = [_stage("as observed", batch)]
    for name, parameters in steps:
        batch = STEPS[name](batch, **parameters)
        words = ", ".join(f"{key} {_short(value)}" for key, value in parameters.items())
        stages.append(_stage(f"{name.replace('_', ' ')}{f' ({words})' if words else ''}", batch))
    done = run_chain(image[None], steps, redshift=z, pixel_scale_arcsec=pixel_scale_arcsec)
    final = Stage("what the map sees", done.images[0], done.noise[0], str(done.status[0]), float(done.mask[0].mean()))
    return [*stages, final]


def draw_preparation(
    axes: Any, stages: Sequence[Stage], *, channel: int = 0, unit: str = "", stretch: style.Stretch = "auto"
) -> np.ndarray:
    """The stages of `preparation_stages` side by side; masked pixels are grey.

    Parameters
    ----------
    axes : as many as stages; None makes a figure. unit : of the image as observed.

    Raises
    ------
    ReadingError : another number of axes, or a channel the image has not.
    """
    if not stages or not 0 <= channel < len(stages[0].image):
        raise ReadingError(f"channel {channel} of {len(stages)} stages; give stages and a channel of the image")
    columns = min(len(stages), 4)
    if axes is None:
        sheet = style.new_sheet(-(-len(stages) // columns), columns, 2.6, -0.15).ravel()
        for left in sheet[len(stages) :]:
            left.set_axis_off()
        axes = sheet[: len(stages)]
    flat = style.axes_grid(axes, (len(stages),))
    for number, (where, stage) in enumerate(zip(flat, stages, strict=True)):
        plane = stage.image[channel]
        draw_image(where, plane, unit=unit if number == 0 else "", stretch=stretch)
        style.titled(where, stage.name, 9)
        words = [] if stage.kept == 1 else [f"{100 * stage.kept:.2g} % of pixels"]
        words += [f"noise {stage.noise[channel]:.2g}"] if np.isfinite(stage.noise[channel]) else []
        words += [f"failed: {stage.status}"] if stage.status != "ok" else []
        where.set_xlabel(", ".join(words), fontsize=8.5, color=style.SECOND if stage.status != "ok" else style.MUTED)
    return flat


def _stage(name: str, batch: Batch) -> Stage:
    image = np.where(batch.mask[0], batch.images[0], np.float32(np.nan))
    return Stage(name, image, batch.noise[0], str(batch.status[0]), float(batch.mask[0].mean()))


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, int | float) and not isinstance(value, bool) else str(value)
