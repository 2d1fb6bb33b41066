"""What the masks carry: neighbours of sources that lie under a label of the source's neuron, in columns."""

from collections.abc import Iterable
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from skysom.engine.errors import CollationError

MOST_LABELS = 64
"""Labels are bits of 64-bit words: of ``bits``, of a pixel of a mask, of an action."""

_TYPES = {
    "source": np.int64,
    "channel": np.int8,
    "row": np.int64,
    "bits": np.uint64,
    "separation_arcsec": np.float32,
}


@dataclass(frozen=True, eq=False)
class Carried:
    """Pairs of a source and a neighbour with at least one label, sorted by (source, channel, row), each once.

    source : (n,) int64, row of the base catalogue whose neuron's mask it is.
    channel : (n,) int8, of the mask, and so the catalogue of the neighbour.
    row : (n,) int64, the neighbour's row in the catalogue of that channel.
    bits : (n,) uint64, bit p set where the neighbour lies under label p.
    separation_arcsec : (n,) float32, between the two.

    Raises
    ------
    CollationError : columns of different lengths.
    """

    source: np.ndarray
    channel: np.ndarray
    row: np.ndarray
    bits: np.ndarray
    separation_arcsec: np.ndarray

    def __post_init__(self) -> None:
        for name, dtype in _TYPES.items():
            object.__setattr__(self, name, np.ascontiguousarray(getattr(self, name), dtype))
        shapes = {name: getattr(self, name).shape for name in _TYPES}
        if len(set(shapes.values())) != 1 or self.source.ndim != 1:
            raise CollationError(f"carried pairs have columns of shapes {shapes}; give columns of one length")

    def __len__(self) -> int:
        return len(self.source)

    @classmethod
    def empty(cls) -> "Carried":
        """No pair."""
        return cls(*(np.empty(0, dtype) for dtype in _TYPES.values()))

    @classmethod
    def concatenate(cls, parts: Iterable["Carried"]) -> "Carried":
        """The pairs of all parts together, sorted, whatever the order of the parts.

        Raises
        ------
        CollationError : a (source, channel, row) that is there twice.
        """
        columns = [[getattr(part, field.name) for field in fields(cls)] for part in parts]
        if not columns:
            return cls.empty()
        together = cls(*(np.concatenate(column) for column in zip(*columns, strict=True))).sorted()
        same = np.ones(max(len(together) - 1, 0), bool)
        for column in (together.source, together.channel, together.row):
            same &= column[1:] == column[:-1]
        if same.any():
            at = int(np.argmax(same))
            raise CollationError(
                f"row {together.row[at]} of channel {together.channel[at]} is carried by source {together.source[at]} "
                f"twice ({int(same.sum())} such pairs); give each part the sources of its own box"
            )
        return together

    def sorted(self) -> "Carried":
        """The pairs by source, then channel, then row."""
        order = _order(self.source, self.channel, self.row)
        return self if order is None else self.take(order)

    def take(self, index: npt.ArrayLike) -> "Carried":
        """The pairs at ``index`` (positions, a mask or a slice), in that order.

        That they are still sorted, and each there once, is the caller's business: nothing is checked.
        """
        where = index if isinstance(index, slice) else np.asarray(index)
        return Carried(*(getattr(self, field.name)[where] for field in fields(self)))

    def of_sources(self, rows: npt.ArrayLike) -> "Carried":
        """The pairs whose source is among ``rows`` (k,) int; in the order they have here, which is the caller's."""
        return self.take(np.isin(self.source, np.asarray(rows, np.int64)))


def _order(source: np.ndarray, channel: np.ndarray, row: np.ndarray) -> np.ndarray | None:
    """Positions that sort by (source, channel, row); None where they are sorted."""
    before, after = slice(None, -1), slice(1, None)
    later = row[before] <= row[after]
    for column in (channel, source):
        later = (column[before] < column[after]) | ((column[before] == column[after]) & later)
    return None if later.all() else np.lexsort((row, channel, source))
