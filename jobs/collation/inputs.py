"""What a collation is made from, checked: mapped components, catalogues, masks, actions and their order.

`jobs.collation.inputs_output` makes it of an output of skysom, `jobs.collation.pyink` of the peer's files.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from skysom.jobs.collation.inputs_catalogue import CatalogueFile

if TYPE_CHECKING:
    from skysom.engine.collation.actions import Action
    from skysom.engine.collation.grouping import Corrections

__all__ = ["STATUSES", "CatalogueFile", "CollationInputs", "Mapped"]

STATUSES = ("ok", "not_mapped", "no_position", "duplicate_id", "unannotated_neuron", "empty_mask")
"""Why the mask of a row of the base is not used ("ok": it may be); the index is the code."""


@dataclass(frozen=True)
class Mapped:
    """Best units of the rows of the base that were mapped; arrays of one length m.

    row : (m,) int64 rows of the base, ascending. neuron : (m,) int32. angle_rad : (m,) float32, the rotation that takes
    the source's sky into its neuron's frame, in the peer's convention (specs/pyink.md, sections 2 and 3). flip : (m,)
    int8, 1 where rows are reversed after it. distance : (m,) float32 to the neuron.
    """

    row: np.ndarray
    neuron: np.ndarray
    angle_rad: np.ndarray
    flip: np.ndarray
    distance: np.ndarray

    def __len__(self) -> int:
        return len(self.row)


@dataclass(frozen=True)
class CollationInputs:
    """All that a collation depends on, but for what it is asked to do again by hand.

    mapped : best units of base rows. catalogues : one a channel of the map, the first is the base; base_channels : (C,)
    bool, channels whose catalogue is the base. labels : names of the masks, label p is bit p of planes, (N, C, D, D)
    uint64. actions : one a label. rank : (rows of base,) int64, the place of a row in the global order, 0.. without
    gaps, -1 where its mask is not used. status : (rows of base,) uint8, codes of `STATUSES`. neuron_labels : of each of
    the N neurons its text labels. pixel_scale_arcsec : arcsec a pixel in x and y. limit_arcsec : neighbours further
    away are not looked up. flux_columns, redshift_column : of the base, for the source table. origin : plain values
    that say what it was made from, with hashes. corrections : groups made by hand, None without.
    """

    mapped: Mapped
    catalogues: tuple[CatalogueFile, ...]
    base_channels: np.ndarray
    labels: tuple[str, ...]
    planes: np.ndarray
    actions: tuple["Action", ...]
    rank: np.ndarray
    status: np.ndarray
    neuron_labels: tuple[tuple[str, ...], ...]
    pixel_scale_arcsec: tuple[float, float]
    limit_arcsec: float
    float32_angles: bool = False
    flux_columns: tuple[str, ...] = ()
    redshift_column: str | None = None
    origin: Mapping[str, Any] = field(default_factory=dict)
    corrections: "Corrections | None" = None

    @property
    def base(self) -> CatalogueFile:
        """The catalogue whose rows are grouped."""
        return self.catalogues[0]

    @property
    def side(self) -> int:
        """D, pixels of a mask's side."""
        return int(self.planes.shape[-1])

    def matchable(self) -> np.ndarray:
        """(rows of base,) bool: rows that others may reach. Those without a position and repeated ids stay alone."""
        return ~np.isin(self.status, [STATUSES.index("no_position"), STATUSES.index("duplicate_id")])

    def status_names(self, rows: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Status (n,) as object array of text."""
        return np.array(STATUSES, object)[self.status[rows]]
