"""Random small skies with everything in them, and one dictionary of what a grouping says, for the tests of grouping."""

from itertools import pairwise
from typing import NamedTuple

import numpy as np

from skysom.engine.collation.actions import ACTIONS, Action, actions_for
from skysom.engine.collation.carried import Carried
from skysom.engine.collation.groups import Corrections, Groups

WEIGHTS = {"LINK": 6, "UNLINK": 2, "ISOLATE": 2, "NODE_ATTACH": 1, "DATA_ATTACH": 2, "TRUE_ATTACH": 1} | {
    "FALSE_ATTACH": 1,
    "FLAG": 1,
    "RESOLVE": 1,
    "PASS": 1,
}


class Sky(NamedTuple):
    """The arguments of a grouping."""

    carried: Carried
    rows: np.ndarray
    rank: np.ndarray
    actions: tuple[Action, ...]
    base_channels: np.ndarray
    corrections: Corrections | None


def random_sky(seed: int, most_rows: int = 45) -> Sky:
    """Components at random on a square, from lonely to crowded; rows, ranks and labels have gaps and no order."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, most_rows + 1))
    rows = np.sort(rng.choice(n * int(rng.integers(1, 20)), n, replace=False))
    at = rng.random((n, 2)) * np.sqrt(n) * rng.choice([0.3, 0.6, 1.0, 1.6])
    base = np.concatenate([[True], rng.random(int(rng.integers(0, 4))) < 0.5])
    actions = random_actions(rng)
    bits_of = _labels_of_sources(rng, n, len(actions))
    parts = []
    for channel, own in enumerate(base):
        others = at if own else rng.random((int(rng.integers(0, 2 * n)), 2)) * at.max(initial=1.0)
        numbers = rows if own else rng.permutation(3 * len(others) + 1)[: len(others)]
        separation = np.linalg.norm(at[:, None] - others[None], axis=2)
        source, other = np.nonzero(separation < rng.choice([0.5, 1.0, 1.5]))
        bits = bits_of(source, other, is_self=own & (source == other))
        kept = (bits != 0) & (rng.random(len(source)) < 0.9)
        columns = (rows[source], np.full(len(source), channel), numbers[other], bits, separation[source, other])
        parts.append(Carried(*columns).take(kept))
    rank = rng.permutation(3 * n)[:n]
    rank[rng.random(n) < rng.choice([0, 0.1, 0.4])] = -1
    return Sky(Carried.concatenate(parts), rows, rank, actions, base, random_corrections(rng, rows))


def random_actions(rng: np.random.Generator) -> tuple[Action, ...]:
    """One to twelve labels, or all 64, with actions of which many link."""
    weights = np.array([WEIGHTS[name] for name in ACTIONS]) / sum(WEIGHTS.values())
    labels = [f"label {p}" for p in range(64 if rng.random() < 0.05 else int(rng.integers(1, 13)))]
    return actions_for(labels, {label: str(rng.choice(list(ACTIONS), p=weights)) for label in labels})


def random_corrections(rng: np.random.Generator, rows: np.ndarray) -> Corrections | None:
    """A few rows apart and a few sets together, in half of the skies."""
    if rng.random() < 0.5 or len(rows) < 4:
        return None
    apart = tuple(rng.choice(rows, int(rng.integers(0, 4)), replace=False).tolist())
    sets = [rng.choice(rows, int(rng.integers(2, 4)), replace=False).tolist() for _ in range(int(rng.integers(0, 3)))]
    return Corrections(tuple(tuple(found) for found in sets), apart)


def _labels_of_sources(rng, n, labels):
    """Each source's mask is generous or sparing; its own centre carries label 0 more often than not."""
    generosity = rng.random(n) ** 2 * rng.choice([0.3, 0.7, 1.0])

    def bits_of(source, other, is_self):
        drawn = rng.random((len(source), labels)) < (generosity[source] * min(1, 4 / labels))[:, None]
        drawn[:, 0] |= is_self & (rng.random(len(source)) < 0.8)
        return (drawn.astype(np.uint64) << np.arange(labels, dtype=np.uint64)).sum(axis=1, dtype=np.uint64)

    return bits_of


def lists(starts: np.ndarray, values: np.ndarray) -> list[list]:
    """What lies between the bounds ``starts`` (k + 1,), as k lists."""
    return [values[first:last].tolist() for first, last in pairwise(starts.tolist())]


def contents(groups: Groups) -> dict[str, object]:
    """All that a grouping says, by row and not by place, so that groupings of parts can be put together."""
    members = lists(groups.starts, groups.members)
    evidence = zip(
        members,
        lists(groups.evidence_starts, groups.evidence_source),
        lists(groups.evidence_starts, groups.evidence_count),
        strict=True,
    )
    columns = (groups.rows, groups.node, groups.isolated, groups.node_bits, groups.count, groups.self_loop)
    links = lists(groups.clique_starts, groups.clique_members)
    return {
        "groups": sorted(members),
        "evidence": sorted(evidence),
        "rows": sorted(zip(*(column.tolist() for column in columns), links, strict=True)),
        "edges": sorted(zip(*(column.tolist() for column in groups.edges()), strict=True)),
        "by_hand": sorted(groups.by_hand.tolist()),
        "user_data": sorted(groups.user_data.tolist()),
        "user_flags": sorted(groups.user_flags.tolist()),
    }


def together(parts: list[dict[str, object]]) -> dict[str, object]:
    """The contents of groupings of parts of a sky, as one."""
    return {key: sorted(item for part in parts for item in part[key]) for key in parts[0]}
