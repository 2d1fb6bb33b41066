"""Actions: what is done with the rows that lie under a label of a source's mask.

An action is a pure function of what it may see of an island, the source whose mask is used, and the rows under its
label by channel; it returns an `Effect` and changes nothing itself. Source of the meanings: specs/pyink.md, section 7.

A user's action is one more such function, given to `actions_for` in place of a name:

    def link_pairs(island, source, rows):
        "Link what lies under the label, unless it is crowded; then only mark the group."
        found = [row for channel in island.base_channels for row in rows.get(channel, ())]
        return Effect(link=found) if len(found) <= 2 else Effect(flag=True)

    pairs = Action("LINK_PAIRS", link_pairs, nodes=True, flag=True)
    actions = actions_for(["Lobe", "Host"], {"Lobe": pairs, "Host": "DATA_ATTACH"})
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from skysom.engine.collation.carried import MOST_LABELS
from skysom.engine.errors import CollationError

if TYPE_CHECKING:
    from skysom.engine.collation.island_views import IslandView

CarriedRows = Mapping[int, tuple[int, ...]]
"""Rows under a label of a source's mask by channel, ascending; channels without any are left out."""


@dataclass(frozen=True)
class Effect:
    """What an action wants done. Rows of ``link``, ``unlink``, ``isolate`` and ``nodes`` are base rows.

    link : rows to be linked with one another, together with those that other labels of this source link.
    unlink : rows that lose all their edges, after this source has linked.
    isolate : rows that lose all their edges before, and are never linked again.
    nodes : rows that become nodes, and so never use masks of their own.
    data : rows of catalogues, by channel, to be kept beside this source.
    flag : a truth to be kept beside this source, or None.
    """

    link: Iterable[int] = ()
    unlink: Iterable[int] = ()
    isolate: Iterable[int] = ()
    nodes: Iterable[int] = ()
    data: CarriedRows = field(default_factory=dict)
    flag: bool | None = None


@dataclass(frozen=True)
class Action:
    """A named pure function (island view, source row, rows by channel) -> `Effect`, and what its effects may hold.

    A user's action is called for every source that uses its mask, also where nothing lies under the label. It must
    give the same answer whenever it is asked again.

    nodes : its effects may name base rows (only such labels tie islands together); those must lie under the label, or
        be the source.
    data : they may hold data, which become columns of the source table; so must they lie under the label.
    flag : they may hold a flag, which becomes a column too.
    """

    name: str
    act: Callable[["IslandView", int, CarriedRows], Effect]
    nodes: bool = False
    data: bool = False
    flag: bool = False


def actions_for(labels: Sequence[str], chosen: Mapping[str, "str | Action"]) -> tuple[Action, ...]:
    """The action of every label, in the order of ``labels``.

    chosen : the name of a built-in action, or an `Action`, by label.

    Raises
    ------
    CollationError : an action that does not exist, one on a label that does not, a label without one, more than 64
        labels, labels that are not distinct.
    """
    if len(labels) > MOST_LABELS or len(set(labels)) != len(labels):
        raise CollationError(f"there are {len(labels)} labels {list(labels)}; at most {MOST_LABELS} distinct ones work")
    unknown = [label for label in chosen if label not in labels]
    if unknown:
        raise CollationError(f"there are actions on {unknown}, the masks carry the labels {list(labels)}; correct them")
    missing = [label for label in labels if label not in chosen]
    if missing:
        lines = ", ".join(f'"{label}" = "PASS"' for label in missing)
        raise CollationError(f"the labels {missing} have no action; give one, or say that nothing is done: {lines}")
    return tuple(_found(label, chosen[label]) for label in labels)


def built_in(actions: Iterable[Action]) -> bool:
    """Whether all are built in: then grouping is compiled, else it runs source by source in Python."""
    return all(ACTIONS.get(action.name) == action for action in actions)


def label_bits(actions: Sequence[Action], *names: str) -> np.uint64:
    """Bits of the labels whose action is the built-in one of one of these names."""
    return _bits(ACTIONS.get(action.name) == action and action.name in names for action in actions)


def node_bits(actions: Sequence[Action]) -> np.uint64:
    """Bits of the labels whose action may touch nodes."""
    return _bits(action.nodes for action in actions)


def _bits(chosen: Iterable[bool]) -> np.uint64:
    return np.uint64(sum(1 << label for label, yes in enumerate(chosen) if yes))


def _found(label: str, action: "str | Action") -> Action:
    if isinstance(action, Action):
        return action
    if action not in ACTIONS:
        raise CollationError(f'"{label}" = "{action}": there is no such action; use one of {", ".join(ACTIONS)}')
    return ACTIONS[action]


# --- the built-in actions -------------------------------------------------------------------------


def _split(island: "IslandView", rows: CarriedRows) -> tuple[tuple[int, ...], dict[int, tuple[int, ...]]]:
    """Base rows, and the rows of other catalogues, which are no nodes and stay data of the label."""
    base = {row for channel in island.base_channels for row in rows.get(channel, ())}
    return tuple(sorted(base)), {c: found for c, found in rows.items() if c not in island.base_channels}


def _link(island: "IslandView", source: int, rows: CarriedRows) -> Effect:
    base, others = _split(island, rows)
    return Effect(link=base, data=others)


def _unlink(island: "IslandView", source: int, rows: CarriedRows) -> Effect:
    base, others = _split(island, rows)
    return Effect(unlink=base, data=others)


def _isolate(island: "IslandView", source: int, rows: CarriedRows) -> Effect:
    base, others = _split(island, rows)
    return Effect(isolate=base, data=others)


def _node_attach(island: "IslandView", source: int, rows: CarriedRows) -> Effect:
    base, others = _split(island, rows)
    return Effect(nodes=base, data=others)


def _data_attach(island: "IslandView", source: int, rows: CarriedRows) -> Effect:
    return Effect(data=rows)


def _true_if_any(island: "IslandView", source: int, rows: CarriedRows) -> Effect:
    return Effect(flag=True if rows else None)


def _false_if_any(island: "IslandView", source: int, rows: CarriedRows) -> Effect:
    return Effect(flag=False if rows else None)


def _nothing(island: "IslandView", source: int, rows: CarriedRows) -> Effect:
    return Effect()


ACTIONS: Mapping[str, Action] = MappingProxyType(
    {
        action.name: action
        for action in (
            Action("LINK", _link, nodes=True),
            Action("UNLINK", _unlink, nodes=True),
            Action("ISOLATE", _isolate, nodes=True),
            Action("NODE_ATTACH", _node_attach, nodes=True),
            Action("DATA_ATTACH", _data_attach, data=True),
            Action("TRUE_ATTACH", _true_if_any, flag=True),
            Action("FALSE_ATTACH", _false_if_any, flag=True),
            Action("FLAG", _true_if_any, flag=True),
            Action("RESOLVE", _true_if_any, flag=True),
            Action("PASS", _nothing),
        )
    }
)
"""The built-in actions by name."""
