"""The value that flows through a preprocessing chain: images, what is kept of them, and what failed."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from skysom.engine.errors import PreprocessError, ShapeError

OK = "ok"


@dataclass(frozen=True)
class Batch:
    """Images with their bookkeeping; a step takes one and returns a new one.

    Attributes
    ----------
    images : (B, C, H, W) float32, in image units until a step changes them; NaN where there is no data.
    mask : (B, C, H, W) bool, the pixels kept so far; never true where an image is not finite.
    noise : (B, C) float32 in the units of ``images``, NaN until estimated and again after a step that
        changes the relation of values to noise (a block mean, a transfer function, a weighting).
    status : (B,) str, ``"ok"`` or the first cause of failure: ``all_nan``, ``constant``,
        ``empty_mask``, ``no_noise``, ``bad_redshift``. A failed image keeps its row.
    redshift : (B,) float64 or None.
    pixel_scale_arcsec : side of a pixel in arcsec, or None where unknown (or different per image).
    """

    images: npt.NDArray[np.float32]
    mask: npt.NDArray[np.bool_]
    noise: npt.NDArray[np.float32]
    status: npt.NDArray[np.str_]
    redshift: npt.NDArray[np.float64] | None = None
    pixel_scale_arcsec: float | None = None

    @classmethod
    def start(
        cls,
        images: npt.ArrayLike,
        *,
        redshift: npt.ArrayLike | None = None,
        pixel_scale_arcsec: float | None = None,
    ) -> "Batch":
        """Make a batch of (B, C, H, W) images: every finite pixel kept, all-NaN and constant images failed.

        The check is per channel: an image fails when one of its channels holds no finite pixel or
        only one value, since a map would compare that channel with nothing.

        Raises
        ------
        ShapeError : images not (B, C, H, W) with H == W, or another number of redshifts than images.
        """
        data = np.array(images, dtype=np.float32)  # a copy: the caller's array is never changed
        if data.ndim != 4 or data.shape[-1] != data.shape[-2] or 0 in data.shape[1:]:
            raise ShapeError(
                f"images have shape {data.shape}, not (images, channels, side, side); add the missing axis, "
                "or cut square images"
            )
        z = None if redshift is None else np.array(redshift, dtype=np.float64)
        if z is not None and z.shape != data.shape[:1]:
            raise ShapeError(f"redshift has shape {z.shape} for {len(data)} images; give one value an image")
        mask = np.isfinite(data)
        batch = cls(
            images=np.where(mask, data, np.float32(np.nan)),
            mask=mask,
            noise=np.full(data.shape[:2], np.nan, dtype=np.float32),
            status=np.full(len(data), OK, dtype="<U16"),
            redshift=z,
            pixel_scale_arcsec=pixel_scale_arcsec,
        )
        low, high = batch.extremes()
        return batch.fail(~np.any(mask, axis=(2, 3)), "all_nan").fail(low == high, "constant")

    @property
    def side(self) -> int:
        """Pixels along a side of the images."""
        return self.images.shape[-1]

    @property
    def ok(self) -> npt.NDArray[np.bool_]:
        """(B,) bool, the images that have not failed."""
        return self.status == OK

    def fail(self, rows: Any, cause: str) -> "Batch":
        """Give ``cause`` to the selected images that were still ok; (B,) bool, or (B, C): any channel."""
        if rows.ndim == 2:
            rows = np.any(rows, axis=1)
        return replace(self, status=np.where(self.ok & rows, cause, self.status).astype("<U16"))

    def keep(self, mask: npt.NDArray[np.bool_], channels: npt.NDArray[np.bool_] | None = None) -> "Batch":
        """Reduce the mask to ``mask`` (broadcast to (B, C, H, W)) in the (C,) bool selection of channels.

        An image of which one selected channel keeps no pixel fails with ``empty_mask``.
        """
        chosen = self.select(None) if channels is None else channels
        kept = self.mask & (mask | ~chosen[None, :, None, None])
        empty = ~kept.any(axis=(2, 3)) & chosen
        return replace(self, mask=kept).fail(empty, "empty_mask")

    def select(self, channels: Sequence[int] | None) -> npt.NDArray[np.bool_]:
        """(C,) bool for a tuple of channel numbers, None: every one; PreprocessError when out of range."""
        count = self.images.shape[1]
        if channels is None:
            return np.ones(count, dtype=bool)
        wrong = [channel for channel in channels if not 0 <= channel < count]
        if wrong or not channels:
            raise PreprocessError(
                f"channels {tuple(channels)} asked for, the images have 0 to {count - 1}; name at least one"
            )
        return np.isin(np.arange(count), channels)

    def extremes(self, everywhere: bool = False) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """(B, C) least and greatest of the kept pixels, or of all finite ones; +inf, -inf where none."""
        use = np.isfinite(self.images) if everywhere else self.mask
        low = np.where(use, self.images, np.float32(np.inf)).min(axis=(2, 3))
        return low, np.where(use, self.images, np.float32(-np.inf)).max(axis=(2, 3))

    def need_noise(self, step: str) -> "Batch":
        """Return self; PreprocessError when an image that has not failed has no noise estimate."""
        if np.isnan(self.noise[self.ok]).any():
            raise PreprocessError(
                f"step '{step}' needs the noise and there is no estimate for it at this place of the chain; "
                "put a 'noise' step before it, after any step that changes pixel values"
            )
        return self
