"""The order in which the peer presents images: its standard library's shuffle, reproduced draw for draw."""

from collections.abc import Iterator

import numpy as np

DRAWS = 4096
"""Raw 32-bit numbers taken from the generator at a time."""
WORD = 1 << 32


def peer_order(n: int, seed: int) -> np.ndarray:
    """Order of the images 0..n-1 in one pass.

    Parameters
    ----------
    n : number of images.
    seed : seed of the pass; the peer uses its ``--seed`` plus the number of the pass.

    Returns
    -------
    order : (n,) int64, a permutation.

    Notes
    -----
    ``std::shuffle`` of libstdc++ (gcc >= 11), driven by mt19937, which is seeded by the first output of
    ``std::default_random_engine`` (16807 * seed modulo 2^31 - 1). specs/pink.md section 6.
    """
    first_output = 16807 * (seed % 2147483647 or 1) % 2147483647
    words = _words(first_output)
    order = list(range(n))
    if n > 65535:
        for i in range(1, n):
            _swap(order, i, _bounded(words, i + 1))
        return np.asarray(order, dtype=np.int64)
    # As two bounds multiply to less than a word, one draw serves two swaps; an even n has one swap left over.
    start = 1
    if n and n % 2 == 0:
        _swap(order, 1, _bounded(words, 2))
        start = 2
    for i in range(start, n, 2):
        first, second = divmod(_bounded(words, (i + 1) * (i + 2)), i + 2)
        _swap(order, i, first)
        _swap(order, i + 1, second)
    return np.asarray(order, dtype=np.int64)


def _swap(order: list[int], i: int, j: int) -> None:
    order[i], order[j] = order[j], order[i]


def _words(seed: int) -> Iterator[int]:
    """Raw outputs of std::mt19937 seeded with ``seed``."""
    state = np.random.RandomState(seed)
    while True:
        yield from state.randint(0, WORD, size=DRAWS, dtype=np.uint32).tolist()


def _bounded(words: Iterator[int], bound: int) -> int:
    """A uniform integer in [0, bound) by multiply-high with rejection (Lemire 2019, arXiv:1805.10941)."""
    product = next(words) * bound
    low = product % WORD
    if low < bound:
        threshold = (WORD - bound) % bound
        while low < threshold:
            product = next(words) * bound
            low = product % WORD
    return product >> 32
