"""The order in which batched training presents images: shuffled, independent of shards and workers.

Images are dealt at random into blocks of 32, the unit of a search: the rounding of a matrix product depends
on its shape and on the place of a column in it, so an image always meets the same neighbours, whoever holds
the block. A batch is a run of consecutive blocks, so that dealing blocks out in turn shares every batch
evenly; each epoch begins at another block and takes its batches in random order.

What does not fit in memory is trained a window at a time: chunks of 64 consecutive images are shuffled and
cut into windows anew each epoch, and images are dealt into blocks within a window.
"""

from dataclasses import dataclass

import numpy as np

from skysom.engine.blocks import BLOCK_IMAGES

CHUNK_IMAGES = 64
"""Consecutive images that stay in one window, so that what is read together is used together."""


@dataclass(frozen=True)
class Window:
    """Images that are in memory together.

    name : unique in a training; places (n,) int64 of the images in the selection: block j is places[32 j : 32 j + 32].
    """

    name: tuple[int, ...]
    places: np.ndarray

    @property
    def blocks(self) -> int:
        """How many blocks there are; the last one may hold fewer than 32 images."""
        return -(-len(self.places) // BLOCK_IMAGES)

    def block(self, number: int) -> np.ndarray:
        """Places of the images of a block, (32,) or fewer."""
        return self.places[number * BLOCK_IMAGES : (number + 1) * BLOCK_IMAGES]


def windows(
    images: int, window_images: int, name: tuple[int, ...], epoch: int, *, shuffle: bool = True
) -> list[Window]:
    """Windows of at most ``window_images`` that hold images 0..images-1 once each.

    name : what the order depends on beside the number of images, e.g. (seed, purpose, stage). A selection of one
    window is dealt once and for all epochs, so that it can stay in memory; several are made anew each ``epoch``.
    """
    chunks = -(-images // CHUNK_IMAGES)
    parts = -(-chunks // max(window_images // CHUNK_IMAGES, 1))
    own = (*name, epoch) if parts > 1 else name
    rng = np.random.default_rng([*own, 0])
    shuffled = rng.permutation(chunks) if shuffle and parts > 1 else np.arange(chunks)
    found = []
    # As equal as they can be: a last window of a few images would be a batch of its own.
    for number, part in enumerate(np.array_split(shuffled, parts) if parts else []):
        places = (np.sort(part)[:, None] * CHUNK_IMAGES + np.arange(CHUNK_IMAGES)).ravel()
        places = places[places < images]
        found.append(Window((*own, number), rng.permutation(places) if shuffle else places))
    return found


def batches(
    window: Window, batch_images: int, name: tuple[int, ...], epoch: int, *, shuffle: bool = True
) -> list[np.ndarray]:
    """Block numbers (b,) of each batch of ``batch_images`` (a multiple of 32), in training order."""
    size, rng = batch_images // BLOCK_IMAGES, np.random.default_rng([*name, epoch, *window.name[-1:], 1])
    sequence = np.arange(window.blocks)
    if not shuffle:
        return [sequence[first : first + size] for first in range(0, len(sequence), size)]
    sequence = np.roll(sequence, rng.integers(len(sequence)))
    found = [sequence[first : first + size] for first in range(0, len(sequence), size)]
    return [found[i] for i in rng.permutation(len(found))]
