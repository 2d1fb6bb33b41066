"""The grouping in plain words: sources use their masks one after the other on a multigraph that is really there.

It is what the compiled `skysom.engine.collation.grouping` must equal, and what runs where an action is a user's.
Source of the rules: specs/pyink.md, section 7, with UNLINK, ISOLATE and FLAG as they are meant.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np

from skysom.engine.collation.actions import Action, Effect, built_in
from skysom.engine.collation.carried import Carried
from skysom.engine.collation.groups import Corrections, Groups
from skysom.engine.collation.island_views import EffectsOfSources


@dataclass
class Multigraph:
    """Nodes with the number of the label that isolated them, or None; edges by row, other row and count: the source."""

    nodes: dict[int, int | None] = field(default_factory=dict)
    edges: dict[int, dict[int, dict[int, int]]] = field(default_factory=dict)

    def neighbours(self, row: int) -> Iterator[int]:
        """Rows that share an edge with ``row``, itself among them where it has a self-loop; none for unknown rows."""
        return iter(self.edges.get(row, {}))

    def add_node(self, row: int) -> None:
        """Make a row a node; one that is a node already keeps the label that isolated it."""
        self.nodes.setdefault(row, None)

    def add_edge(self, one: int, two: int, count: int, source: int) -> None:
        """Link two rows, or one with itself, and make them nodes; an edge of the same rows and count is replaced."""
        for row, other in ((one, two), (two, one)):
            self.add_node(row)
            self.edges.setdefault(row, {}).setdefault(other, {})[count] = source

    def destroy_edges(self, row: int) -> None:
        """Take all edges of a row away, of every count, its self-loop too; it stays a node."""
        for other in self.edges.pop(row, {}):
            if other != row:
                del self.edges[other][row]

    def listed(self) -> list[tuple[int, int, int, int]]:
        """Every edge as (u, v, count, source), u <= v, sorted."""
        return sorted(
            (u, v, count, source)
            for u, others in self.edges.items()
            for v, parallel in others.items()
            if u <= v
            for count, source in parallel.items()
        )


@dataclass
class Played:
    """What is there when all masks were used: the graph, counts and effects by source, labels that made nodes."""

    graph: Multigraph = field(default_factory=Multigraph)
    counts: dict[int, int] = field(default_factory=dict)
    effects: dict[int, list[Effect]] = field(default_factory=dict)
    node_labels: dict[int, set[int]] = field(default_factory=dict)


def play(
    carried: Carried,
    rows: np.ndarray,
    rank: np.ndarray,
    actions: Sequence[Action],
    base_channels: Sequence[bool] | np.ndarray,
) -> Played:
    """Use the masks in the order of the ranks; arguments as of `group_sequentially`."""
    played, effects_of = Played(), EffectsOfSources(carried, rows, actions, base_channels)
    graph = played.graph
    for count, source in sorted((int(r), int(row)) for r, row in zip(rank, rows, strict=True) if r >= 0):
        if source in graph.nodes:
            continue
        effects = played.effects[source] = effects_of(graph, source)
        played.counts[source] = count
        for label, effect in enumerate(effects):
            for row in effect.isolate:
                graph.destroy_edges(row)
                graph.nodes[row] = label
            for row in effect.nodes:
                graph.add_node(row)
                played.node_labels.setdefault(row, set()).add(label)
        linked = {row for effect in effects for row in effect.link if graph.nodes.get(row) is None}
        for one, two in combinations(sorted(linked), 2):
            graph.add_edge(one, two, count, source)
        graph.add_edge(source, source, count, source)
        for row in {row for effect in effects for row in effect.unlink}:
            graph.destroy_edges(row)
    return played


def group_sequentially(
    carried: Carried,
    rows: np.ndarray,
    rank: np.ndarray,
    actions: Sequence[Action],
    base_channels: Sequence[bool] | np.ndarray,
    corrections: Corrections | None = None,
) -> Groups:
    """As `grouping.group`, in plain Python and with any actions: some 30 microseconds a carried pair.

    Raises
    ------
    CollationError : an effect that names rows that do not lie under the label, or of a kind its action denies.
    """
    played = play(carried, rows, rank, actions, base_channels)
    by_hand, apart = (corrections or Corrections()).of(rows)
    for row in apart.tolist():
        loops = played.graph.edges.get(row, {}).get(row, {})
        played.graph.destroy_edges(row)
        if loops:
            played.graph.edges[row] = {row: loops}
    edges = played.graph.listed()
    groups = _components(rows.tolist(), [(u, v) for u, v, _, _ in edges] + by_hand.tolist())
    return _as_groups(rows, played, edges, groups, by_hand, actions)


def _components(rows: list[int], pairs: list[tuple[int, int]]) -> list[list[int]]:
    """Connected components of ``rows``, each ascending, in the order of their smallest row."""
    others: dict[int, set[int]] = {row: set() for row in rows}
    for one, two in pairs:
        others[one].add(two)
        others[two].add(one)
    found, components = set(), []
    for row in rows:
        if row in found:
            continue
        waiting, component = [row], {row}
        while waiting:
            new = others[waiting.pop()] - component
            component |= new
            waiting.extend(new)
        found |= component
        components.append(sorted(component))
    return components


def _as_groups(
    rows: np.ndarray,
    played: Played,
    edges: list[tuple[int, int, int, int]],
    groups: list[list[int]],
    by_hand: np.ndarray,
    actions: Sequence[Action],
) -> Groups:
    """The arrays of `Groups`, made of what is there."""
    group_of = {row: number for number, members in enumerate(groups) for row in members}
    cliques: dict[int, set[int]] = {}
    evidence: list[set[tuple[int, int]]] = [set() for _ in groups]
    for u, v, count, source in edges:
        evidence[group_of[u]].add((count, source))
        if u != v:
            cliques.setdefault(source, set()).update((u, v))
    loops = {u for u, v, _, _ in edges if u == v}
    clique_starts, clique_members = _rows_of([sorted(cliques.get(row, ())) for row in rows.tolist()])
    starts, members = _rows_of(groups)
    evidence_starts, pairs = _rows_of([sorted(found) for found in evidence], (-1, 2))
    isolated = [played.graph.nodes.get(row) for row in rows.tolist()]
    marks = [sum(1 << label for label in played.node_labels.get(row, ())) for row in rows.tolist()]
    given = [
        (source, label, effect)
        for source, effects in sorted(played.effects.items())
        for label, effect in enumerate(effects)
        if not built_in([actions[label]])
    ]
    data = [(s, p, c, row) for s, p, effect in given for c in sorted(effect.data) for row in effect.data[c]]
    flags = [(s, p, int(effect.flag)) for s, p, effect in given if effect.flag is not None]
    return Groups(
        rows,
        starts,
        members,
        np.array([group_of[row] for row in rows.tolist()], np.int64),
        np.array([row in played.graph.nodes for row in rows.tolist()], bool),
        np.array([-1 if label is None else label for label in isolated], np.int16),
        np.array(marks, np.uint64),
        np.array([played.counts.get(row, -1) for row in rows.tolist()], np.int64),
        np.array([row in loops for row in rows.tolist()], bool),
        clique_starts,
        clique_members,
        evidence_starts,
        np.ascontiguousarray(pairs[:, 1]),
        np.ascontiguousarray(pairs[:, 0]),
        by_hand,
        np.array(data, np.int64).reshape(-1, 4),
        np.array(flags, np.int64).reshape(-1, 3),
    )


def _rows_of(lists: Sequence[Sequence[Any]], shape: tuple[int, ...] = (-1,)) -> tuple[np.ndarray, np.ndarray]:
    """Bounds (k + 1,) and the contents of k lists, one after the other, int64."""
    starts = np.cumsum([0, *map(len, lists)], dtype=np.int64)
    return starts, np.array([item for found in lists for item in found], np.int64).reshape(shape)
