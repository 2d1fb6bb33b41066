"""Scores of groups and hosts against the truth of a simulated sky, and the baseline that links nearest neighbours."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

HOST_RADII_ARCSEC = (3.0, 5.0, 8.0, 12.0)
LINK_LENGTHS_ARCSEC = tuple(range(8, 62, 2))


@dataclass(frozen=True, eq=False)
class Truth:
    """source (n,) int64 of every component, kind (S,) and components (S,) of every source, host (S,) row or -1."""

    source: np.ndarray
    kind: np.ndarray
    components: np.ndarray
    host: np.ndarray

    @classmethod
    def of(cls, table: pd.DataFrame) -> "Truth":
        """From ``truth.csv``; sources without a catalogued component are not there."""
        number, source = np.unique(table["source"], return_inverse=True)
        first = table.drop_duplicates("source").set_index("source").loc[number]
        kind, components, host = (first[name].to_numpy() for name in ("kind", "components", "host"))
        return cls(source.astype(np.int64), kind, components, host)


@dataclass(frozen=True, eq=False)
class Found:
    """group (n,) int64 of every component; hosts : of each group its candidates, the first ranked first."""

    group: np.ndarray
    hosts: list[list[int]]


def score_groups(truth: Truth, found: Found) -> tuple[np.ndarray, np.ndarray]:
    """Whether each source (S,) is a group, member for member, and whether each group (G,) is a source."""
    pairs, counts = np.unique(np.stack([truth.source, found.group]), axis=1, return_counts=True)
    exact = (counts == truth.components[pairs[0]]) & (counts == np.bincount(found.group)[pairs[1]])
    recovered, pure = np.zeros(len(truth.components), bool), np.zeros(found.group.max() + 1, bool)
    recovered[pairs[0][exact]], pure[pairs[1][exact]] = True, True
    return recovered, pure


def score_hosts(truth: Truth, found: Found) -> dict[str, float]:
    """Completeness and purity of hosts.

    completeness : of the sources with a catalogued host, those that are a group, member for member, whose first
    candidate it is. listed : that have it among their candidates. purity : of groups with a candidate, those that are a
    source, member for member, whose host the first one is. right_host : of groups with a candidate, those whose first
    one is the host of any of their members, whether members are right or not.
    """
    recovered, pure = score_groups(truth, found)
    members = pd.Series(found.group)
    source_of = members.groupby(members).apply(lambda rows: truth.source[rows.index]).to_dict()
    first, listed, counted = np.zeros(len(recovered), bool), np.zeros(len(recovered), bool), 0
    good = right = 0
    for group, hosts in enumerate(found.hosts):
        sources = np.unique(source_of[group])
        if hosts:
            counted += 1
            right += hosts[0] in truth.host[sources]
        if pure[group]:
            source = sources[0]
            listed[source] = truth.host[source] >= 0 and truth.host[source] in hosts
            first[source] = bool(hosts) and listed[source] and hosts[0] == truth.host[source]
            good += first[source]
    there = truth.host >= 0
    return {
        "completeness": float(first[there].mean()),
        "listed": float(listed[there].mean()),
        "purity": good / max(counted, 1),
        "right_host": right / max(counted, 1),
    }


def linked_neighbours(
    pairs: tuple[np.ndarray, np.ndarray, np.ndarray], components: int, length_arcsec: float
) -> np.ndarray:
    """Group (n,) int64 of components that are linked wherever two lie within an angle. pairs : rows, rows, arcsec."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    near = pairs[2] <= length_arcsec
    graph = coo_matrix((np.ones(near.sum()), (pairs[0][near], pairs[1][near])), shape=(components, components))
    return connected_components(graph, directed=False)[1].astype(np.int64)


def best_length(truth: Truth, pairs: tuple[np.ndarray, np.ndarray, np.ndarray]) -> float:
    """The linking length that recovers most: of sources of several components, completeness times purity."""
    scores = {}
    for length in LINK_LENGTHS_ARCSEC:
        group = linked_neighbours(pairs, len(truth.source), length)
        recovered, pure = score_groups(truth, Found(group, []))
        several = np.bincount(group) > 1
        scores[float(length)] = recovered[truth.components > 1].mean() * (pure[several].mean() if several.any() else 0)
    return max(scores, key=lambda length: scores[length])


def nearest_hosts(position: np.ndarray, infrared: np.ndarray, radius_arcsec: float) -> list[list[int]]:
    """For unit vectors (G, 3) the row of the nearest of (m, 3) within an angle, or none."""
    from scipy.spatial import cKDTree

    chord = 2 * np.sin(np.deg2rad(radius_arcsec / 3600) / 2)
    away, row = cKDTree(infrared).query(position, distance_upper_bound=chord)
    return [[int(one)] if np.isfinite(far) else [] for one, far in zip(row, away, strict=True)]
