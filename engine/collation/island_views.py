"""What an action sees: its island as it is so far, and the rows under each label of the source's mask; read only."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Protocol

import numpy as np

from skysom.engine.collation.actions import Action, CarriedRows, Effect, built_in
from skysom.engine.collation.carried import Carried
from skysom.engine.collation.islands import Islands, touching
from skysom.engine.errors import CollationError

NOTHING = Effect()


class Graph(Protocol):
    """What an `IslandView` looks at: nodes with the number of the label that isolated them, or None, and edges."""

    @property
    def nodes(self) -> Mapping[int, int | None]:
        """Label by node."""

    def neighbours(self, row: int) -> Iterable[int]:
        """Rows that share an edge with ``row``."""


class IslandView:
    """What an action may know: its island as it is before this source's mask is used, and nothing outside it.

    rows : the base rows of the island, ascending. base_channels : channels whose rows are base rows.
    """

    def __init__(
        self,
        graph: Graph,
        islands: Mapping[int, tuple[int, ...]],
        source: int,
        base_channels: tuple[int, ...],
        separation: Callable[[int, int], float],
    ) -> None:
        self.rows, self.base_channels = islands.get(source, (source,)), base_channels
        self._graph, self._islands, self._separation = graph, islands, separation

    def is_node(self, row: int) -> bool:
        """Whether a row is a node: it used its mask, was linked or isolated, or was made one."""
        return self._own(row) in self._graph.nodes

    def isolated(self, row: int) -> int | None:
        """The number of the label that isolated a row, or None."""
        return self._graph.nodes.get(self._own(row))

    def group(self, row: int) -> tuple[int, ...]:
        """The rows that are linked with a row so far, directly or not, and the row itself, ascending."""
        found, waiting = {self._own(row)}, [row]
        while waiting:
            new = set(self._graph.neighbours(waiting.pop())) - found
            found |= new
            waiting.extend(new)
        return tuple(sorted(found))

    def separation_arcsec(self, channel: int, row: int) -> float:
        """How far a row that the source's mask carries lies from the source; KeyError for others."""
        return self._separation(channel, row)

    def _own(self, row: int) -> int:
        if row not in self.rows[:1] and self._islands.get(row) is not self.rows:
            raise CollationError(
                f"an action asks for row {row}, which is not of its island of {len(self.rows)} rows; an action sees "
                "its island only (`rows`)"
            )
        return row


class EffectsOfSources:
    """Asks the actions of every label what they want done for a source.

    carried, rows, actions, base_channels as of `grouping.group`.
    """

    def __init__(
        self,
        carried: Carried,
        rows: np.ndarray,
        actions: Sequence[Action],
        base_channels: Sequence[bool] | np.ndarray,
    ) -> None:
        self._source, self._actions = carried.source, actions
        self._columns = (carried.channel, carried.row, carried.bits, carried.separation_arcsec)
        self._base = tuple(int(channel) for channel in np.flatnonzero(base_channels))
        self._trusted = [built_in([action]) for action in actions]
        self._islands = {} if all(self._trusted) else _islands(rows, *touching(carried, actions, base_channels))

    def __call__(self, graph: Graph, source: int) -> list[Effect]:
        """The effect of every label on the graph as it is.

        Raises
        ------
        CollationError : an action of a user that fails or returns no `Effect`; an effect with rows that do not lie
            under the label, or of a kind that its action denies.
        """
        first, last = np.searchsorted(self._source, [source, source + 1])
        columns = [column[first:last].tolist() for column in self._columns]
        far = {(channel, row): separation for channel, row, _, separation in zip(*columns, strict=True)}
        view = IslandView(graph, self._islands, source, self._base, lambda *pair: far[pair])
        effects = []
        for label, (action, trusted) in enumerate(zip(self._actions, self._trusted, strict=True)):
            found: dict[int, list[int]] = {}
            for channel, row, bits, _ in zip(*columns, strict=True):
                if bits >> label & 1:
                    found.setdefault(channel, []).append(row)
            rows = MappingProxyType({channel: tuple(under) for channel, under in found.items()})
            if trusted:
                effects.append(action.act(view, source, rows) if rows else NOTHING)
            else:
                effects.append(_effect_of_user(action, view, source, rows, self._base))
        return effects


def _islands(rows: np.ndarray, source: np.ndarray, target: np.ndarray) -> dict[int, tuple[int, ...]]:
    """The rows of the island of every row."""
    islands = Islands(len(rows))
    islands.join(np.searchsorted(rows, source), np.searchsorted(rows, target))
    found: dict[int, list[int]] = {}
    for row, root in zip(rows.tolist(), islands.roots().tolist(), strict=True):
        found.setdefault(root, []).append(row)
    return {row: island for island in map(tuple, found.values()) for row in island}


def _effect_of_user(
    action: Action, view: IslandView, source: int, rows: CarriedRows, base_channels: tuple[int, ...]
) -> Effect:
    """What a user's action wants done, checked; whatever goes wrong in it is a CollationError that says where."""
    try:
        effect = action.act(view, source, rows)
        if not isinstance(effect, Effect):
            raise CollationError(
                f"the action {action.name} returns {effect!r} for source {source}, not an Effect; return "
                "one that says what is to be done"
            )
        return _checked(action, effect, source, rows, base_channels)
    except CollationError:
        raise
    except Exception as error:
        raise CollationError(
            f"the action {action.name} fails on source {source}: {type(error).__name__}: {error}; correct it"
        ) from error


def _checked(action: Action, effect: Effect, source: int, rows: CarriedRows, base_channels: tuple[int, ...]) -> Effect:
    """The effect with its rows as sorted tuples of int."""
    allowed = {source}.union(*(rows.get(channel, ()) for channel in base_channels))
    kinds = {name: {int(row) for row in getattr(effect, name)} for name in ("link", "unlink", "isolate", "nodes")}
    named = set().union(*kinds.values())
    data = {int(channel): sorted({int(row) for row in found}) for channel, found in effect.data.items()}
    stray = [(c, row) for c, found in data.items() for row in found if row not in rows.get(c, ())]
    if not named <= allowed or stray:
        raise CollationError(
            f"the action {action.name} of source {source} names the rows {sorted(named - allowed)} and data {stray} "
            "which do not lie under its label; an action may name what it is given"
        )
    given = (bool(named), any(data.values()), effect.flag is not None)
    if any(gives and not may for gives, may in zip(given, (action.nodes, action.data, action.flag), strict=True)):
        raise CollationError(
            f"the action {action.name} of source {source} gives base rows {sorted(named)}, data {data} and flag "
            f"{effect.flag}; it was made with nodes={action.nodes}, data={action.data}, flag={action.flag}"
        )
    return Effect(
        tuple(sorted(kinds["link"])),
        tuple(sorted(kinds["unlink"])),
        tuple(sorted(kinds["isolate"])),
        tuple(sorted(kinds["nodes"])),
        {channel: tuple(found) for channel, found in sorted(data.items()) if found},
        None if effect.flag is None else bool(effect.flag),
    )
