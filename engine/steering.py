"""From the coefficients of a correlation to its values at the rotations of a geometry.

With c_m the coefficient of order m, the correlation at angle alpha is sum_m Re(c_m exp(i m alpha)). At the four
quarter turns of a base rotation it is made of four sums,

    even  Re over m = 0 (mod 4)      one  Re over odd m
    odd   Re over m = 2 (mod 4)      two  Im over m = 1 minus Im over m = 3 (mod 4)
    c0, c1, c2, c3 = even + odd + one, even - odd - two, even + odd - one, even - odd + two

so only R / 4 angles are evaluated, as matrix products over the orders.
"""

from functools import lru_cache
from typing import Any

import numpy as np

from skysom.engine.geometry import Geometry
from skysom.engine.rings import Rings

Array = Any


@lru_cache(maxsize=4)
def steering(table: Rings, step: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Matrices of ``steer``, float32: (k, M/2) for the orders 0 and 2 (mod 4), (2 k, M) for "one" and "two"."""
    angle = base_angles(table.geometry)[::step]
    zero, two, odd = (np.exp(1j * np.outer(angle, table.orders[group])) for group in table.groups)
    sign = np.where(table.orders[table.groups[2]] % 4 == 1, 1.0, -1.0)
    # Re(z c) = Re z Re c - Im z Im c; Im(z c) = Im z Re c + Re z Im c.
    real = [_columns(part.real, -part.imag) for part in (zero, two, odd)]
    both = np.concatenate([real[2], _columns(odd.imag * sign, odd.real * sign)])
    return tuple(np.ascontiguousarray(part, np.float32) for part in (real[0], real[1], both))  # type: ignore[return-value]


def base_angles(geometry: Geometry) -> np.ndarray:
    """(R/4,) angles of the base rotations in radians."""
    return 2 * np.pi * np.arange(geometry.base_rotations) / geometry.rotations


def _columns(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(k, 2 M) from two (k, M): their columns in turn."""
    return np.stack([first, second], axis=2).reshape(len(first), -1)


def steer(coefficients: Array, table: Rings, step: int = 1, *, xp: Any = np) -> Array:
    """The four sums at every base rotation, or at each ``step``-th, (F, 4, k, columns).

    coefficients (F, M, 2, columns).
    """
    flips, _, _, columns = coefficients.shape
    zero, two, odd = steering(table, step)
    one_group, two_group, odd_group = table.groups
    found = []
    for f in range(flips):
        part = coefficients[f, ...]
        groups = [part[group, ...] for group in (one_group, two_group, odd_group)]
        rows = [xp.reshape(group, (2 * group.shape[0], columns)) for group in groups]
        found.append(xp.matmul(xp.asarray(zero), rows[0]))
        found.append(xp.matmul(xp.asarray(two), rows[1]))
        found.append(xp.matmul(xp.asarray(odd), rows[2]))
    return xp.reshape(xp.concat(found), (flips, 4, len(zero), columns))


def turned(steered: Array, *, xp: Any = np) -> Array:
    """Values at all transforms, (T, columns) in the order of t, from the four sums (F, 4, k, columns)."""
    even, odd, one, two = (steered[:, i, ...] for i in range(4))
    quarters = [even + odd + one, even - odd - two, even + odd - one, even - odd + two]
    flips, four, bases, columns = steered.shape
    return xp.reshape(xp.stack(quarters, axis=1), (flips * four * bases, columns))
