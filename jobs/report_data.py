"""What the report shows, gathered from an output in one pass of bounded memory.

Only sums a neuron, histograms and a fixed number of remarkable rows are kept, so a survey of millions of sources
needs no more memory than one of hundreds.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from skysom.engine.reading.crops import central
from skysom.jobs import report_figures as figures
from skysom.jobs.report_history import History
from skysom.storage.place import Place
from skysom.storage.survey import Survey

if TYPE_CHECKING:
    from skysom.jobs.report_groups import GroupsContent

BLOCK_ROWS = 65_536
FINE_BINS = 2048
BEST, RANDOM, WORST = 3, 3, 12
IDS_A_CAUSE = 5


@dataclass
class Cause:
    """Why rows failed: how many, and the ids of the first."""

    count: int = 0
    ids: list[str] = field(default_factory=list)


@dataclass
class Counts:
    """Rows of the catalogue: all, usable, padded (usable with part of the cut-out without data), causes."""

    sources: int = 0
    usable: int = 0
    padded: int = 0
    causes: dict[str, Cause] = field(default_factory=dict)


@dataclass
class MappingSummary:
    """Statistics of a mapping of N neurons.

    hits (N,) int; mean, std (N,) float64 of the BMU distances, NaN without members; edges (bins + 1,) and
    histogram (bins,) of all BMU distances; angles (2, R) counts without and with flip, None where the store has
    no angles; best, random (N, k) rows, -1 where there are fewer members; worst: rows of the largest distances,
    largest first.
    """

    mapped: int
    hits: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    edges: np.ndarray
    histogram: np.ndarray
    angles: np.ndarray | None
    best: np.ndarray
    random: np.ndarray
    worst: np.ndarray
    attrs: dict[str, Any]

    def quantile(self, share: float) -> float:
        """Distance below which ``share`` of the sources lie, to 1/2048 of the range; NaN without sources."""
        if not self.mapped:
            return float("nan")
        cumulative = np.concatenate([[0], np.cumsum(self.histogram)]) / self.mapped
        return float(np.interp(share, cumulative, self.edges))


class SmallestPerGroup:
    """The ``keep`` rows with the smallest keys of each group, while rows stream by."""

    def __init__(self, groups: int, keep: int) -> None:
        self.rows = np.full((groups, keep), -1, dtype=np.int64)
        self.keys = np.full((groups, keep), np.inf)

    def update(self, groups: np.ndarray, rows: np.ndarray, keys: np.ndarray) -> None:
        """Offer ``rows`` (n,) of ``groups`` (n,) with ``keys`` (n,)."""
        count, keep = self.rows.shape
        group = np.concatenate([np.repeat(np.arange(count), keep), groups])
        row = np.concatenate([self.rows.ravel(), rows])
        key = np.concatenate([self.keys.ravel(), keys])
        order = np.lexsort((key, group))
        group, row, key = group[order], row[order], key[order]
        rank = np.arange(len(group)) - np.searchsorted(group, np.arange(count))[group]
        kept = rank < keep
        self.rows[group[kept], rank[kept]] = row[kept]
        self.keys[group[kept], rank[kept]] = key[kept]


def count_rows(survey: Survey) -> Counts:
    """Usable and failed rows, with the first ids of every cause."""
    counts = Counts(sources=len(survey))
    for start, stop in _blocks(survey):
        names = survey.statuses(slice(start, stop))
        usable = names == "ok"
        counts.usable += int(usable.sum())
        if "coverage" in survey:
            coverage = survey.read("coverage", start, stop)
            counts.padded += int((usable & (coverage < 1)).sum())
        for name in np.unique(names[~usable]):
            cause = counts.causes.setdefault(str(name), Cause())
            rows = np.flatnonzero(names == name)
            cause.count += len(rows)
            for row in rows[: IDS_A_CAUSE - len(cause.ids)]:
                cause.ids.append(str(np.asarray(survey["source_id"][start + row])))
    return counts


def summarise_mapping(survey: Survey, name: str, neurons: int, seed: int = 1) -> MappingSummary:
    """Statistics of ``mappings/<name>`` on a map of ``neurons`` neurons; ``seed`` of the random members."""
    prefix = f"mappings/{name}"
    attrs: dict[str, Any] = dict(survey.group[prefix].attrs)
    rotations = max(int(attrs.get("rotations") or attrs.get("geometry", {}).get("rotations") or 1), 1)
    sums = np.zeros((3, neurons))
    turned = f"{prefix}/bmu_rotation" in survey  # an imported mapping may have none
    angles = np.zeros((2, rotations), dtype=np.int64) if turned else None
    best, random = SmallestPerGroup(neurons, BEST), SmallestPerGroup(neurons, BEST + RANDOM)
    worst = SmallestPerGroup(1, WORST)
    low, high = np.inf, -np.inf
    for start, stop in _blocks(survey):
        bmu, distance, row = _mapped_rows(survey, prefix, start, stop)
        if not len(row):
            continue
        sums += [np.bincount(bmu, weights=w, minlength=neurons) for w in (np.ones(len(row)), distance, distance**2)]
        low, high = min(low, distance.min()), max(high, distance.max())
        if angles is not None:
            turn = survey.read(f"{prefix}/bmu_rotation", start, stop)[row - start].astype(np.int64)
            flip = survey.read(f"{prefix}/bmu_flip", start, stop)[row - start].astype(np.int64)
            np.add.at(angles, (flip, turn % rotations), 1)
        best.update(bmu, row, distance)
        random.update(bmu, row, np.random.default_rng([seed, start]).random(len(row)))
        worst.update(np.zeros(len(row), dtype=np.int64), row, -distance)
    edges, histogram = _distance_histogram(survey, prefix, low, high)
    hits, mean, std = _moments(sums)
    others = _without(random.rows, best.rows)[:, :RANDOM]
    found = worst.rows[0][worst.rows[0] >= 0]
    return MappingSummary(int(hits.sum()), hits, mean, std, edges, histogram, angles, best.rows, others, found, attrs)


def _blocks(survey: Survey) -> Iterator[tuple[int, int]]:
    step = max(BLOCK_ROWS // survey.shard_images, 1) * survey.shard_images
    for start in range(0, len(survey), step):
        yield start, min(start + step, len(survey))


def _mapped_rows(survey: Survey, prefix: str, start: int, stop: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """BMU, its distance (float64) and row number of the mapped rows of a block."""
    bmu = survey.read(f"{prefix}/bmu", start, stop).astype(np.int64)
    distance = survey.read(f"{prefix}/bmu_distance", start, stop).astype(np.float64)
    mapped = np.flatnonzero((bmu >= 0) & np.isfinite(distance))
    return bmu[mapped], distance[mapped], mapped + start


def _distance_histogram(survey: Survey, prefix: str, low: float, high: float) -> tuple[np.ndarray, np.ndarray]:
    if not np.isfinite(low):
        return np.linspace(0, 1, FINE_BINS + 1), np.zeros(FINE_BINS, dtype=np.int64)
    edges = np.linspace(low, high if high > low else low + 1e-6 + abs(low) * 1e-6, FINE_BINS + 1)
    histogram = np.zeros(FINE_BINS, dtype=np.int64)
    for start, stop in _blocks(survey):
        histogram += np.histogram(_mapped_rows(survey, prefix, start, stop)[1], bins=edges)[0]
    return edges, histogram


def _moments(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    hits = sums[0].astype(np.int64)
    members = np.where(hits > 0, hits, np.nan)
    mean = sums[1] / members
    std = np.sqrt(np.maximum(sums[2] / members - mean**2, 0))
    return hits, mean, std


def _without(rows: np.ndarray, taken: np.ndarray) -> np.ndarray:
    """``rows`` (N, k) with those in the same row of ``taken`` moved out, -1 last."""
    keep = (rows >= 0) & ~(rows[:, :, None] == taken[:, None, :]).any(axis=2)
    order = np.argsort(~keep, axis=1, kind="stable")
    return np.take_along_axis(np.where(keep, rows, -1), order, axis=1)


@dataclass(frozen=True)
class QuarterTurns:
    """Share of best angles within 5 degrees of a quarter turn, observed and expected of a flat distribution.

    verdict: "preferred" or "avoided" where the observed share is off by a quarter of the expected one and by
    five standard deviations of a binomial, "flat" where not, "unknown" with fewer than 36 rotations (too few
    angles in between to tell).
    """

    observed: float
    expected: float
    verdict: str


def quarter_turns(angles: np.ndarray) -> QuarterTurns:
    """Whether best angles (2, R), counts without and with flip, favour multiples of 90 degrees."""
    counts = angles.sum(axis=0)
    total, rotations = int(counts.sum()), len(counts)
    angle = np.arange(rotations) * 360 / rotations
    near = np.abs((angle + 45) % 90 - 45) <= 5
    expected = float(near.mean())
    observed = float(counts[near].sum() / total) if total else 0.0
    if not total or rotations < 36:
        return QuarterTurns(observed, expected, "unknown")
    excess = observed - expected
    clear = abs(excess) > max(0.25 * expected, 5 * np.sqrt(expected * (1 - expected) / total))
    verdict = ("preferred" if excess > 0 else "avoided") if clear else "flat"
    return QuarterTurns(observed, expected, verdict)


@dataclass(frozen=True)
class WorstMatch:
    """One of the sources that lie farthest from the map; positions in degrees, coverage as a fraction."""

    row: int
    source_id: str
    status: str
    distance: float
    bmu: int
    ra: float
    dec: float
    coverage: float


def source_ids(survey: Survey, rows: np.ndarray) -> dict[int, str]:
    """Ids of ``rows`` by row; negative rows are left out."""
    wanted = np.unique(rows[rows >= 0])
    if not len(wanted):
        return {}
    names = np.asarray(survey["source_id"].oindex[wanted])
    return {int(row): str(name) for row, name in zip(wanted, names, strict=True)}


def worst_matches(survey: Survey, name: str, rows: np.ndarray) -> list[WorstMatch]:
    """Details of ``rows``, in their order."""
    found = []
    for row in map(int, rows):
        values = {
            key: float(np.asarray(survey[key][row])) if key in survey else float("nan")
            for key in ("ra_deg", "dec_deg", "coverage")
        }
        found.append(
            WorstMatch(
                row,
                str(np.asarray(survey["source_id"][row])),
                str(survey.statuses(slice(row, row + 1))[0]),
                float(np.asarray(survey[f"mappings/{name}/bmu_distance"][row])),
                int(np.asarray(survey[f"mappings/{name}/bmu"][row])),
                values["ra_deg"],
                values["dec_deg"],
                values["coverage"],
            )
        )
    return found


def name_of(output: Place) -> str:
    """What to call an output: its last name."""
    return output.resolve().name if isinstance(output, Path) else output.name or str(output)


@dataclass(frozen=True)
class Content:
    """Everything the page shows. ``lattice`` and its kin are None before training, ``mapping`` before mapping.

    ``weights`` alone is None where the mapping is there and its map is not.
    side : central pixels of neurons and images that are shown. u_matrix (N,) float64. ids, pictures: source ids and
    thumbnails (C, s, s) uint8 by row for the gallery, ``worst_pictures`` likewise for the worst matches.
    """

    output: Place
    counts: Counts
    attrs: dict[str, Any]
    history: History
    catalogue_columns: list[str]
    lattice: Any = None
    weights: Any = None
    som_attrs: dict[str, Any] = field(default_factory=dict)
    side: int = 0
    u_matrix: Any = None
    mapping: MappingSummary | None = None
    gallery: list[int] = field(default_factory=list)
    ids: dict[int, str] = field(default_factory=dict)
    pictures: dict[int, np.ndarray] = field(default_factory=dict)
    worst: list[WorstMatch] = field(default_factory=list)
    worst_pictures: dict[int, np.ndarray] = field(default_factory=dict)
    groups: "GroupsContent | None" = None

    @property
    def geometry(self) -> dict[str, Any]:
        return dict(self.som_attrs.get("geometry") or {})

    @property
    def channels(self) -> list[str]:
        """Names of the channels; numbers where the store has none."""
        names = [str(name) for name in self.som_attrs.get("channels") or self.attrs.get("channels") or []]
        pictures = [*self.pictures.values(), *self.worst_pictures.values()][:1]
        count = len(pictures[0]) if pictures else len(names)
        if self.weights is not None:
            count = self.weights.shape[1]
        return [names[i] if i < len(names) else f"channel {i}" for i in range(count)]

    @property
    def published(self) -> str:
        """Where a map that was not trained here comes from; empty for a trained one."""
        return str(self.som_attrs.get("published") or "")

    def neuron_picture(self, neuron: int, size: int) -> np.ndarray | None:
        """Thumbnail (C, size, size) uint8 of a neuron; None where the map is not in the store."""
        if self.weights is None:
            return None
        return figures.thumbnails(central(self.weights[neuron], self.side), size)
