"""The middle of images, and images made small: what pictures and comparisons of neurons look at."""

import numpy as np


def central(images: np.ndarray, side: int) -> np.ndarray:
    """The central ``side`` x ``side`` pixels of (..., y, x); all where there are fewer."""
    top, left = ((full - side) // 2 for full in images.shape[-2:])
    return images[..., max(top, 0) : max(top, 0) + side, max(left, 0) : max(left, 0) + side]


def reduced(images: np.ndarray, side: int) -> np.ndarray:
    """(N, C, side, side) float32 of images (N, C, y, x), by box averages."""
    from PIL import Image

    if images.shape[-1] == side:
        return np.ascontiguousarray(images, dtype=np.float32)
    planes = images.reshape(-1, *images.shape[-2:]).astype(np.float32)
    small = [np.asarray(Image.fromarray(p).resize((side, side), Image.Resampling.BOX)) for p in planes]
    return np.stack(small).reshape(*images.shape[:2], side, side)
