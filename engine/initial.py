"""Weights a training starts from, equal to the peer's for the same seed."""

import numpy as np

from skysom.engine.errors import EngineError

INITIAL_KINDS = ("zero", "random", "random_with_preferred_direction")


def initial_weights(kind: str, neurons: int, channels: int, side: int, seed: int = 1234) -> np.ndarray:
    """Weights before the first image.

    Parameters
    ----------
    kind : ``"zero"``; ``"random"``: uniform in [0, 1); ``"random_with_preferred_direction"``: as random, with
        ones on the main diagonal of the first ``neurons`` planes. With several channels these are not one
        plane of every neuron; the peer does it so.
    neurons, channels, side : N, C and D.
    seed : seed of mt19937, 0 <= seed < 2^32; one draw an element in storage order.

    Returns
    -------
    weights : (N, C, D, D) float32.

    Raises
    ------
    EngineError : another ``kind``.

    Notes
    -----
    specs/pink.md section 6.
    """
    shape = (neurons, channels, side, side)
    if kind == "zero":
        return np.zeros(shape, dtype=np.float32)
    if kind not in INITIAL_KINDS:
        raise EngineError(f"initial weights {kind!r} are unknown; use one of {', '.join(INITIAL_KINDS)}")
    words = np.random.RandomState(seed).randint(0, 1 << 32, size=shape, dtype=np.uint32)
    weights = words.astype(np.float32)
    weights *= np.float32(2.0**-32)
    # The largest words round up to 1, which the half-open interval excludes.
    np.minimum(weights, np.nextafter(np.float32(1), np.float32(0)), out=weights)
    if kind == "random_with_preferred_direction":
        planes = weights.reshape(neurons * channels, side, side)
        diagonal = np.arange(side)
        planes[:neurons, diagonal, diagonal] = 1
    return weights
