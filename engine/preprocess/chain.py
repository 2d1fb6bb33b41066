"""Running a chain of steps on a batch of images."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from skysom.engine.errors import PreprocessError
from skysom.engine.preprocess.batch import Batch
from skysom.engine.preprocess.registry import SIDES, STEPS


def preprocess(
    images: npt.ArrayLike,
    steps: Sequence[tuple[str, Mapping[str, Any]]],
    *,
    redshift: npt.ArrayLike | None = None,
    pixel_scale_arcsec: float | None = None,
) -> Batch:
    """Run a chain of steps on images; what an image becomes never depends on the others.

    Parameters
    ----------
    images : (B, C, H, W), H == W, NaN where there is no data; not changed.
    steps : names of ``STEPS`` with their keyword parameters, in order.
    redshift : (B,), for ``physical_scale``; NaN where unknown.
    pixel_scale_arcsec : side of a pixel in arcsec, for ``physical_scale``.

    Returns
    -------
    Batch whose images are finite float32: 0 outside the mask and in failed images. ``status`` names the
    first cause of failure. Images with an all-NaN or constant channel fail before the first step, images that
    the chain left without a pixel (``empty_mask``) or with zeros only (``constant``) after the last.

    Raises
    ------
    PreprocessError : an unknown step, or parameters it does not have or accept; never for bad data.
    ShapeError : images not (B, C, side, side).
    """
    for name, parameters in steps:
        check_step(name, parameters)
    batch = Batch.start(images, redshift=redshift, pixel_scale_arcsec=pixel_scale_arcsec)
    for name, parameters in steps:
        batch = STEPS[name](batch, **parameters)
    return _finish(batch)


def output_side(steps: Sequence[tuple[str, Mapping[str, Any]]], side: int) -> int:
    """Side in pixels of the images that a chain makes of images of ``side`` pixels."""
    for name, parameters in steps:
        check_step(name, parameters)
        if name in SIDES:
            side = SIDES[name](side, **parameters)
    return side


def check_step(name: str, parameters: Mapping[str, Any]) -> None:
    """PreprocessError unless ``name`` is a step that takes these parameters."""
    if name not in STEPS:
        raise PreprocessError(f"there is no step '{name}'; the steps are {', '.join(sorted(STEPS))}")
    known = {
        key: value
        for key, value in inspect.signature(STEPS[name]).parameters.items()
        if value.kind is inspect.Parameter.KEYWORD_ONLY
    }
    unknown = [key for key in parameters if key not in known]
    if unknown:
        raise PreprocessError(f"step '{name}' has no parameter {', '.join(unknown)}; it takes {', '.join(known)}")
    missing = [key for key, value in known.items() if value.default is value.empty and key not in parameters]
    if missing:
        raise PreprocessError(f"step '{name}' needs {', '.join(missing)}; add it to the step")


def _finish(batch: Batch) -> Batch:
    """Zero what is masked, not finite or failed; fail the images that hold nothing."""
    mask = batch.mask & np.isfinite(batch.images)
    batch = replace(batch, mask=mask).fail(~mask.any(axis=(1, 2, 3)), "empty_mask")
    images = np.where(mask, batch.images, np.float32(0))
    batch = batch.fail(images.min(axis=(1, 2, 3)) == images.max(axis=(1, 2, 3)), "constant")
    failed = ~batch.ok[:, None, None, None]
    return replace(batch, images=np.where(failed, np.float32(0), images).astype(np.float32), mask=mask & ~failed)
