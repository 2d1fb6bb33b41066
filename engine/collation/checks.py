"""What compiled loops must be able to trust, checked before they run: they read wherever an index points."""

import numpy as np
import numpy.typing as npt

from skysom.engine.errors import CollationError


def check_lengths(name: str, values: np.ndarray, of: str, wanted: int) -> None:
    """CollationError unless there are ``wanted`` values, one each of something else."""
    if values.shape != (wanted,):
        raise CollationError(f"there are {name} of shape {values.shape} for {wanted} {of}; give one each")


def checked_pairs(
    base_index: npt.ArrayLike, rows: int, other_index: npt.ArrayLike, others: int
) -> tuple[np.ndarray, np.ndarray]:
    """Both indices (P,) int64 of pairs; CollationError for lengths that differ, and as `checked_index`."""
    base, other = checked_index("base_index", base_index, rows), checked_index("other_index", other_index, others)
    if base.shape != other.shape:
        raise CollationError(f"there are {len(base)} base rows and {len(other)} neighbours; give them in pairs")
    return base, other


def checked_index(name: str, index: npt.ArrayLike, rows: int) -> np.ndarray:
    """The index (P,) int64 of a table of ``rows``; CollationError for rows that it has not: kernels do not look."""
    given = np.asarray(index)
    if given.ndim != 1 or (given.size and given.dtype.kind not in "iu"):
        raise CollationError(f"{name} has shape {given.shape} and type {given.dtype}; give (P,) whole numbers")
    found = np.ascontiguousarray(given, np.int64)
    if found.size and not 0 <= found.min() <= found.max() < rows:
        raise CollationError(
            f"{name} has the rows {given.min()} to {given.max()}, there are 0 to {rows - 1}; give rows that exist"
        )
    return found


def checked_starts(starts: np.ndarray, members: int) -> np.ndarray:
    """The starts (G + 1,) int64, ascending from 0 to ``members``; CollationError for others."""
    starts = np.ascontiguousarray(starts, np.int64)
    if starts.ndim != 1 or not len(starts) or starts[0] != 0 or starts[-1] != members or np.any(np.diff(starts) < 0):
        raise CollationError(
            f"starts {starts.shape} do not run from 0 to {members} members; give ascending ones, one more than groups, "
            "the number of members last"
        )
    return starts
