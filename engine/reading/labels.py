"""Labels of sources and of neurons: counted on a map, carried over to neurons, and back to sources.

Labels may be missing (None, NaN, NA); such sources are left out of the counts and counted as missing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from skysom.engine.errors import ReadingError
from skysom.engine.lattice import Lattice

if TYPE_CHECKING:
    import pandas as pd


def encode_labels(labels: Any) -> tuple[np.ndarray, list[Any]]:
    """Codes (n,) int32 of labels (n,), -1 where missing, and the classes they number, sorted.

    labels : array, list or pandas column of texts, numbers or booleans. ReadingError where they do not sort together,
    or none is there.
    """
    import pandas as pd

    try:
        codes, classes = pd.factorize(pd.Series(labels, dtype=None if len(labels) else object), sort=True)
    except TypeError as error:
        raise ReadingError(f"labels mix types ({error}); give texts, or numbers") from None
    if not len(classes):
        raise ReadingError(f"all {len(codes)} labels are missing; give a column that has some")
    return codes.astype(np.int32), classes.tolist()


@dataclass(frozen=True)
class LabelCounts:
    """Labels of the members of every neuron.

    classes : L labels. counts : (N, L) int64. missing : members without a label. unmapped : labelled rows without a
    neuron.
    """

    classes: tuple[Any, ...]
    counts: np.ndarray
    missing: int
    unmapped: int

    @property
    def class_totals(self) -> np.ndarray:
        """(L,) int64 labelled members of the whole map."""
        return self.counts.sum(axis=0)

    @property
    def labelled(self) -> np.ndarray:
        """(N,) int64 labelled members of each neuron."""
        return self.counts.sum(axis=1)

    @property
    def normalised(self) -> np.ndarray:
        """(N, L) float64 counts over the class totals: the share of a class that a neuron holds; 0 of an empty one."""
        return self.counts / np.maximum(self.class_totals, 1)

    def shares(self, *, normalised: bool = False) -> np.ndarray:
        """(N, L) float64 shares of the classes among a neuron's labelled members, NaN without any.

        normalised: of the counts over the class totals, as if all classes had as many sources.
        """
        values = self.normalised if normalised else self.counts.astype(np.float64)
        total = values.sum(axis=1, keepdims=True)
        return values / np.where(total > 0, total, np.nan)

    def purity(self, *, normalised: bool = False) -> np.ndarray:
        """(N,) float64 share of the most frequent class; NaN without labelled members."""
        return self.shares(normalised=normalised).max(axis=1)

    def entropy_bits(self, *, normalised: bool = False) -> np.ndarray:
        """(N,) float64 Shannon entropy of the shares in bits: 0 where all have one label, log2 L at most."""
        shares = self.shares(normalised=normalised)
        terms = shares * np.log2(np.where(shares > 0, shares, 1))
        return np.abs(terms.sum(axis=1))


class LabelSums:
    """Adds up the `LabelCounts` of a map of ``neurons`` neurons while blocks of rows stream by."""

    def __init__(self, neurons: int, classes: Sequence[Any]) -> None:
        self._classes, self._counts = tuple(classes), np.zeros((neurons, len(classes)), np.int64)
        self._missing = self._unmapped = 0

    def update(self, bmu: np.ndarray, codes: np.ndarray) -> None:
        """Add rows by their best unit (B,) and label code (B,) of `encode_labels`; -1 for none of each.

        ReadingError for lengths that differ, or numbers beyond the neurons or classes.
        """
        neurons, classes = self._counts.shape
        bmu, codes = np.asarray(bmu), np.asarray(codes)
        if bmu.shape != codes.shape:
            raise ReadingError(f"there are {len(codes)} labels for {len(bmu)} sources; give one each, in their order")
        if bmu.max(initial=-1) >= neurons or codes.max(initial=-1) >= classes:
            raise ReadingError(
                f"best units reach {bmu.max(initial=-1)} of {neurons} neurons, label codes {codes.max(initial=-1)} of "
                f"{classes} classes; give those of one map and one column"
            )
        mapped, known = bmu >= 0, codes >= 0
        both = mapped & known
        pairs = bmu[both].astype(np.int64) * classes + codes[both]
        self._counts += np.bincount(pairs, minlength=self._counts.size).reshape(neurons, classes)
        self._missing += int(np.count_nonzero(mapped & ~known))
        self._unmapped += int(np.count_nonzero(~mapped & known))

    def result(self) -> LabelCounts:
        """Counts of the rows so far."""
        return LabelCounts(self._classes, self._counts.copy(), self._missing, self._unmapped)


def label_counts(bmu: np.ndarray, labels: Any, neurons: int) -> LabelCounts:
    """Counts of the labels (n,) of sources whose best units are ``bmu`` (n,).

    ReadingError for labels of another length, of mixed types or all missing, or a neuron the map has not.
    """
    codes, classes = encode_labels(labels)
    sums = LabelSums(neurons, classes)
    sums.update(bmu, codes)
    return sums.result()


@dataclass(frozen=True)
class NeuronLabels:
    """The label of every neuron.

    label : (N,) object, None where undecided. share : (N,) float64 of that class among the labelled members, of the
    most frequent class where undecided, NaN without any. count : (N,) int64 labelled members.
    """

    label: np.ndarray
    share: np.ndarray
    count: np.ndarray


def majority_labels(
    counts: LabelCounts, *, fewest: int = 1, least_share: float = 0.0, normalised: bool = False
) -> NeuronLabels:
    """The most frequent label of each neuron, of equally frequent ones the first class.

    A neuron with fewer than ``fewest`` labelled members, or whose most frequent class has less than ``least_share``
    of them, stays undecided. normalised: every class counts as if it had as many sources.

    ReadingError for a number below 1 or a share outside 0 to 1.
    """
    if fewest < 1 or not 0 <= least_share <= 1:
        raise ReadingError(f"at least {fewest} labels and a share of {least_share} are asked for; give >= 1 and 0 to 1")
    share, count = counts.purity(normalised=normalised), counts.labelled
    label = np.full(len(count), None, object)
    best = (counts.normalised if normalised else counts.counts).argmax(axis=1)
    for n in np.flatnonzero((count >= fewest) & (share >= least_share)):
        label[n] = counts.classes[best[n]]
    return NeuronLabels(label, share, count)


def transfer(bmu: np.ndarray, values: Any) -> "pd.api.extensions.ExtensionArray":
    """What neurons are labelled with, carried to their members: a nullable pandas array (n,).

    bmu : (n,) best units; values : (N,) texts, numbers or booleans, missing ones among them. Missing where a source
    has no neuron or its neuron no value. ReadingError where a source has a neuron beyond the values.
    """
    import pandas as pd

    bmu = np.asarray(bmu)
    if bmu.max(initial=-1) >= len(values):
        raise ReadingError(
            f"{len(values)} neurons are labelled, a source has neuron {bmu.max()}; give a value for each of this map"
        )
    known = pd.array([None if pd.isna(value) else value for value in values])
    return known.take(np.where(bmu >= 0, bmu, -1), allow_fill=True)


def neuron_values(table: "pd.DataFrame", lattice: Lattice, column: str, *, som_sha256: str | None = None) -> np.ndarray:
    """(N,) object of the values a table of neurons gives in ``column``, None where it has none.

    table : a row a neuron, by ``neuron`` (its number) or by ``row`` and ``col`` (and ``depth``), which are the first,
    second and third lattice index; where it has both they must agree. som_sha256 : hash of the map; a table with a
    column of that name is of that map.

    Raises
    ------
    ReadingError : a column that is not there, neurons the map has not, one named twice, or a table of another map.
    """
    import pandas as pd

    if column not in table:
        raise ReadingError(f"the table of neurons has no column {column!r}; it has {list(table.columns)}")
    if som_sha256 is not None and "som_sha256" in table:
        others = [found for found in table["som_sha256"].dropna().unique() if found != som_sha256]
        if others:
            raise ReadingError(
                f"the table of neurons is of the map with hash {others[0]}, this map has {som_sha256}; give the table "
                "of this map, or leave its column som_sha256 out where its neurons are the same"
            )
    number = _numbers_of(table, lattice)
    twice = pd.Series(number).duplicated().to_numpy()
    if twice.any():
        raise ReadingError(f"the table names neuron {number[twice][0]} more than once; give each a row")
    values = np.full(lattice.size, None, object)
    values[number] = [None if pd.isna(value) else value for value in table[column]]
    return values


def _numbers_of(table: "pd.DataFrame", lattice: Lattice) -> np.ndarray:
    """Neuron numbers (n,) int64 of the rows of a table."""
    if "neuron" in table and {"row", "col"} <= set(table.columns):  # as `skysom analyse` writes them: all must agree
        wanted = ["neuron", "row", "col"] + ["depth"] * ("depth" in table)
        own = np.column_stack([np.arange(lattice.size), lattice.positions()])[:, : len(wanted)]
    elif "neuron" in table:
        wanted, own = ["neuron"], np.arange(lattice.size)[:, None]
    elif "row" in table and "col" in table:
        wanted = ["row", "col", "depth"] if "depth" in table else ["row", "col"]
        own = lattice.positions()[:, : len(wanted)]
        if lattice.depth > 1 and "depth" not in table:
            raise ReadingError(f"the map has {lattice.depth} depths, the table of neurons no column 'depth'; add it")
    else:
        raise ReadingError(f"the table of neurons has columns {list(table.columns)}; give 'neuron', or 'row' and 'col'")
    places = {tuple(place): n for n, place in enumerate(own.tolist())}
    try:
        found = [places[tuple(place)] for place in table[wanted].to_numpy().tolist()]
    except KeyError as missing:
        raise ReadingError(
            f"the table names {', '.join(wanted)} {missing}; the map {lattice} has {lattice.size} neurons and not that "
            "one: give the table of this map"
        ) from None
    return np.array(found, np.int64)
