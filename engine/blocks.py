"""Images in blocks: searches take 32 at a time, image innermost, so that a tap of an interpolation is one vector."""

import numpy as np

from skysom.engine.errors import ShapeError
from skysom.engine.match import finite_images

BLOCK_IMAGES = 32
"""Images searched together. The shape of a matrix product decides its rounding, so it is fixed."""
TURNS = 10
"""Base rotations sampled together, whose samples wait in the first cache: nine times of 90, one per degree."""


def check_block(count: int) -> None:
    """ShapeError where a block has more than 32 images."""
    if count > BLOCK_IMAGES:
        raise ShapeError(f"a block holds {count} images; search at most {BLOCK_IMAGES} at a time")


def padded(images: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """A block of 32 float32 images, which are finite (32,), and how many were given; ShapeError above 32."""
    count = images.shape[0]
    check_block(count)
    images, finite = finite_images(np.asarray(images, np.float32), xp=np)
    missing = BLOCK_IMAGES - count
    if missing:
        images = np.concatenate([images, np.zeros((missing, *images.shape[1:]), np.float32)])
        finite = np.concatenate([finite, np.ones(missing, bool)])
    return images, finite, count


def image_innermost(images: np.ndarray) -> np.ndarray:
    """(C, H*H, B) from (B, C, H, H), contiguous."""
    batch, channels = images.shape[:2]
    return np.ascontiguousarray(images.reshape(batch, channels, -1).transpose(1, 2, 0))
