"""Masks of neurons as bit planes: any number of labels a pixel, one bit each.

Planes are words (..., W) uint8 with W = ceil(P / 8) for P labels; bit p % 8 of word p // 8 belongs to label p. The axes
before the last are those of the pixels: (D, D) of one channel, (C, D, D) of a neuron, (N, C, D, D) of a map.

The peer writes the labels of a pixel as the product of primes, one prime a label (specs/pyink.md, section 5);
`planes_from_products` and `products_from_planes` convert exactly.
"""

from collections.abc import Sequence

import numpy as np

from skysom.engine.errors import ReadingError

PRIMES = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71)
"""The peer's primes in the order in which its labels get them; it has no more than these 20 labels."""

LARGEST_PRODUCT = 2**63 - 1
"""What an int64 pixel of the peer holds."""


def words(labels: int) -> int:
    """W, the uint8 words that hold ``labels`` bits."""
    return -(-labels // 8)


def empty_planes(shape: Sequence[int], labels: int) -> np.ndarray:
    """Planes (*shape, W) uint8 on which no pixel carries a label."""
    return np.zeros((*shape, words(labels)), np.uint8)


def pack(masks: np.ndarray) -> np.ndarray:
    """Planes (..., W) uint8 of masks (P, ...) bool, one a label."""
    return np.packbits(np.moveaxis(np.asarray(masks, bool), 0, -1), axis=-1, bitorder="little")


def unpack(planes: np.ndarray, labels: int) -> np.ndarray:
    """Masks (P, ...) bool of planes (..., W); ReadingError where W words do not hold ``labels`` bits."""
    if planes.shape[-1] < words(labels):
        raise ReadingError(f"planes have {planes.shape[-1]} words, {labels} labels need {words(labels)}")
    return np.moveaxis(np.unpackbits(planes, axis=-1, count=labels, bitorder="little").astype(bool), -1, 0)


def plane(planes: np.ndarray, label: int) -> np.ndarray:
    """Which pixels carry ``label``: (...) bool of planes (..., W)."""
    word, bit = _address(planes, label)
    return (planes[..., word] & bit) != 0


def with_plane(planes: np.ndarray, label: int, mask: np.ndarray) -> np.ndarray:
    """A copy of planes (..., W) on which exactly the pixels of ``mask`` (...) bool carry ``label``.

    Raises
    ------
    ReadingError : a label that the words do not hold, or a mask of another shape.
    """
    word, bit = _address(planes, label)
    _check_mask(planes, mask)
    result = planes.copy()
    result[..., word] = np.where(mask, planes[..., word] | bit, planes[..., word] & ~bit)
    return result


def with_pixels(planes: np.ndarray, label: int, mask: np.ndarray, *, clear: bool = False) -> np.ndarray:
    """A copy of planes (..., W) with ``label`` added to (``clear``: taken from) the pixels of ``mask``; others stay."""
    _check_mask(planes, mask)
    before = plane(planes, label)
    return with_plane(planes, label, before & ~mask if clear else before | mask)


def labels_in(planes: np.ndarray) -> tuple[int, ...]:
    """Labels that any pixel of planes (..., W) carries, in order; of one pixel's words (W,) those of the pixel."""
    together = np.bitwise_or.reduce(planes.reshape(-1, planes.shape[-1]), axis=0)
    return tuple(int(label) for label in np.flatnonzero(np.unpackbits(together, bitorder="little")))


# --- the peer's products of primes ----------------------------------------------------------------


def planes_from_products(values: np.ndarray, primes: Sequence[int]) -> np.ndarray:
    """Planes (..., W) of the peer's values (...) int; label p is the one of ``primes[p]``.

    Raises
    ------
    ReadingError : a value that is no product of distinct ``primes`` (nor 0, no label), with its cause and pixel.
    """
    values = np.asarray(values)
    if values.dtype.kind not in "iu":
        raise ReadingError(f"masks of primes are whole numbers, these are {values.dtype}")
    _check_primes(primes)
    found, inverse = np.unique(values, return_inverse=True)
    table = np.zeros((len(found), len(primes)), bool)
    for row, value in enumerate(found.tolist()):
        cause = _factors(value, primes, table[row])
        if cause:
            where = tuple(int(i) for i in np.argwhere(values == value)[0])
            raise ReadingError(f"the mask has {value} at {where}: {cause}")
    return np.packbits(table, axis=-1, bitorder="little")[inverse.reshape(values.shape)]


def products_from_planes(planes: np.ndarray, primes: Sequence[int]) -> np.ndarray:
    """The peer's values (...) int64 of planes (..., W): the product of the primes of a pixel's labels, 0 for none.

    Raises
    ------
    ReadingError : a label without a prime, or a product above 2^63 - 1, which the peer cannot hold.
    """
    _check_primes(primes)
    found, inverse = np.unique(planes.reshape(-1, planes.shape[-1]), axis=0, return_inverse=True)
    products = np.zeros(len(found), np.int64)
    for row, pixel in enumerate(found):
        labels, product = labels_in(pixel), 1
        if labels and labels[-1] >= len(primes):
            raise ReadingError(f"label {labels[-1]} has no prime; {len(primes)} are given, the peer has {len(PRIMES)}")
        for label in labels:
            product *= primes[label]
        if product > LARGEST_PRODUCT:
            raise ReadingError(
                f"a pixel carries the {len(labels)} labels {labels}: their product {product} exceeds 2^63 - 1, which "
                "the peer's masks cannot hold; export fewer labels"
            )
        products[row] = product if labels else 0
    return products[inverse.reshape(planes.shape[:-1])]


def _factors(value: int, primes: Sequence[int], row: np.ndarray) -> str:
    """Set the labels of ``value`` in ``row`` (P,); what is wrong with it, or nothing."""
    if value == 0:
        return ""
    if value < 0:
        return "a product of primes is not negative"
    if value == 1:
        return "a region was drawn while no label was chosen; draw it again with one, or clear it"
    rest = value
    for label, prime in enumerate(primes):
        if rest % prime == 0:
            row[label] = True
            rest //= prime
    if rest == 1:
        return ""
    twice = [prime for prime in primes if rest % prime == 0]
    if twice:
        return f"it holds the prime {twice[0]} more than once, which no set of labels gives"
    return (
        f"{rest} is left after dividing by the primes of the labels {tuple(primes)}; the label list is of another file"
    )


def _check_primes(primes: Sequence[int]) -> None:
    if len(set(primes)) != len(primes) or any(prime not in PRIMES for prime in primes):
        raise ReadingError(f"the primes are {tuple(primes)}; they must differ and be among {PRIMES}")


def _address(planes: np.ndarray, label: int) -> tuple[int, np.uint8]:
    if not 0 <= label < 8 * planes.shape[-1]:
        raise ReadingError(f"there is no label {label} in planes of {planes.shape[-1]} words; widen them first")
    return label // 8, np.uint8(1 << label % 8)


def _check_mask(planes: np.ndarray, mask: np.ndarray) -> None:
    if np.shape(mask) != planes.shape[:-1]:
        raise ReadingError(f"the mask has shape {np.shape(mask)}, the planes have pixels {planes.shape[:-1]}")
