"""What the masks say of each group beside who belongs to it: data and flags of labels, and the masks that were used.

All of it follows from `Groups`, the carried pairs it was made of, and the actions; pairs of other sources may be among
them. A group's evidence is the sources whose edges lie in it, by count; the first is its representative.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from skysom.engine.collation.actions import Action, built_in
from skysom.engine.collation.carried import Carried
from skysom.engine.collation.groups import Groups
from skysom.engine.collation.islands import base_flags
from skysom.engine.errors import CollationError

NO_FLAG = -1
"""Where no flag was set; else 0 for false and 1 for true."""


@dataclass(frozen=True, eq=False)
class AttachedRows:
    """Rows of catalogues that a label attached to groups, or to sources: lists in CSR form, k rows in all.

    starts : (G + 1,) int64; list g is ``[starts[g]:starts[g + 1]]`` of the others, by channel, then row, each once.
    channel : (k,) int8. row : (k,) int64, of the catalogue of that channel.
    separation_arcsec : (k,) float32 from the source whose mask carries the row, the smallest of several.
    by_representative : (k,) bool, the mask of the group's representative carries it; true of lists of sources.
    """

    starts: np.ndarray
    channel: np.ndarray
    row: np.ndarray
    separation_arcsec: np.ndarray
    by_representative: np.ndarray

    def __len__(self) -> int:
        return len(self.starts) - 1

    def of_representative(self) -> "AttachedRows":
        """The rows that the representative's mask carries alone."""
        kept = self.by_representative
        starts = np.concatenate([[0], np.cumsum(kept)])[self.starts]
        return AttachedRows(starts, self.channel[kept], self.row[kept], self.separation_arcsec[kept], kept[kept])


@dataclass(frozen=True, eq=False)
class LabelFlags:
    """Flags of a label by group, (G,) int8 each: 1 true, 0 false, -1 not set.

    representative : as the mask of the group's representative says (the peer's). union : as any of its masks says; true
        where some say true and others false.
    """

    representative: np.ndarray
    union: np.ndarray


@dataclass(frozen=True, eq=False)
class UsedMasks:
    """The sources whose masks were used, ascending, and what their masks did: E of them.

    source, count : (E,) int64. linked_starts (E + 1,), linked (k,) int64 : base rows it links at the end.
    labels : the rows under every label, as lists of the E sources; of all labels, whatever their actions.
    flags : (E, P) int8, one column a label, as `LabelFlags`.
    """

    source: np.ndarray
    count: np.ndarray
    linked_starts: np.ndarray
    linked: np.ndarray
    labels: tuple[AttachedRows, ...]
    flags: np.ndarray


def attached_rows(
    groups: Groups,
    carried: Carried,
    label: int,
    actions: Sequence[Action],
    base_channels: Sequence[bool] | np.ndarray,
) -> AttachedRows:
    """The rows that a label attached to each group: the union over its evidence, the representative's marked.

    DATA_ATTACH attaches what lies under the label, in all channels; actions on nodes attach the rows of catalogues that
    are not base; a user's action what it gave; others nothing.

    Raises
    ------
    CollationError : a label without an action, a pair of a channel that is not among ``base_channels`` (C,).
    """
    from skysom.engine.collation.evidence_kernels import collect

    data = _data_of(groups, carried, label, actions, base_channels)
    begin, end = _pairs_of(data, groups.evidence_source)
    most = int((end - begin).sum())
    starts, index = np.empty(len(groups) + 1, np.int64), np.empty(most, np.int64)
    nearest, first = np.empty(most, np.float32), np.empty(most, bool)
    columns = (data.channel, data.row, data.separation_arcsec)
    made = collect(groups.evidence_starts, begin, end, *columns, starts, index, nearest, first)
    index = index[:made]
    return AttachedRows(starts, data.channel[index], data.row[index], nearest[:made].copy(), first[:made].copy())


def label_flags(groups: Groups, carried: Carried, label: int, actions: Sequence[Action]) -> LabelFlags:
    """The flags of a label of each group.

    TRUE_ATTACH, FLAG and RESOLVE say true and FALSE_ATTACH says false where a row lies under the label (the peer sets
    FLAG and RESOLVE everywhere); a user's action says what it gave; others nothing.

    Raises
    ------
    CollationError : a label without an action.
    """
    own = _flags_of(groups, groups.evidence_source, carried, label, actions)
    group = np.repeat(np.arange(len(groups)), np.diff(groups.evidence_starts))
    union = np.full(len(groups), NO_FLAG, np.int8)
    np.maximum.at(union, group, own)
    representative = np.full(len(groups), NO_FLAG, np.int8)
    some = np.diff(groups.evidence_starts) > 0
    representative[some] = own[groups.evidence_starts[:-1][some]]
    return LabelFlags(representative, union)


def used_masks(groups: Groups, carried: Carried, actions: Sequence[Action]) -> UsedMasks:
    """Every source whose mask was used, also one whose edges were all destroyed later, with what its mask carries."""
    from skysom.engine.collation.evidence_kernels import pairs_under

    places = np.flatnonzero(groups.count >= 0)
    source = groups.rows[places]
    sizes = np.diff(groups.clique_starts)[places]
    linked = groups.clique_members[_ranges(groups.clique_starts[places], sizes)]
    labels, flags = [], np.full((len(source), len(actions)), NO_FLAG, np.int8)
    room = np.empty(len(carried), np.int64)
    for label in range(len(actions)):
        starts = np.empty(len(source) + 1, np.int64)
        index = room[: pairs_under(carried.source, carried.bits, label, source, starts, room)]
        channel, row, separation = carried.channel[index], carried.row[index], carried.separation_arcsec[index]
        labels.append(AttachedRows(starts, channel, row, separation, np.ones(len(index), bool)))
        flags[:, label] = _flags_of(groups, source, carried, label, actions)
    return UsedMasks(source, groups.count[places], _bounds(sizes), linked, tuple(labels), flags)


def _pairs_of(carried: Carried, source: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the pairs of every one of ``source`` (k,) begin and end, (k,) int64 each."""
    from skysom.engine.collation.evidence_kernels import bound_pairs

    begin, end = np.empty(len(source), np.int64), np.empty(len(source), np.int64)
    bound_pairs(carried.source, source, begin, end)
    return begin, end


def _action_of(label: int, actions: Sequence[Action]) -> Action:
    if not 0 <= label < len(actions):
        raise CollationError(f"label {label} has no action, there are {len(actions)}; give 0 to {len(actions) - 1}")
    return actions[label]


def _under(carried: Carried, label: int) -> Carried:
    return carried.take((carried.bits >> np.uint64(label)) & np.uint64(1) != 0)


def _data_of(
    groups: Groups,
    carried: Carried,
    label: int,
    actions: Sequence[Action],
    base_channels: Sequence[bool] | np.ndarray,
) -> Carried:
    """The carried pairs whose row is data of a label."""
    action, base = _action_of(label, actions), base_flags(carried, base_channels)
    under = _under(carried, label)
    if built_in([action]):
        if action.data:
            return under
        return under.take(~base[under.channel] & action.nodes)
    given = groups.user_data[groups.user_data[:, 1] == label]
    wanted = Carried(given[:, 0], given[:, 2], given[:, 3], np.zeros(len(given)), np.zeros(len(given)))
    both = np.concatenate([np.stack([c.source, c.channel, c.row], axis=1) for c in (under, wanted)])
    _, kind = np.unique(both, axis=0, return_inverse=True)
    return under.take(np.isin(kind[: len(under)], kind[len(under) :]))


def _flags_of(
    groups: Groups, source: np.ndarray, carried: Carried, label: int, actions: Sequence[Action]
) -> np.ndarray:
    """The flag (k,) int8 of a label that the masks of ``source`` (k,) set."""
    action, found = _action_of(label, actions), np.full(len(source), NO_FLAG, np.int8)
    if not action.flag:
        return found
    if built_in([action]):
        begin, end = _pairs_of(_under(carried, label), source)
        found[end > begin] = action.name != "FALSE_ATTACH"
        return found
    given = groups.user_flags[groups.user_flags[:, 1] == label]
    place = np.minimum(np.searchsorted(given[:, 0], source), max(len(given) - 1, 0))
    if len(given):
        known = given[place, 0] == source
        found[known] = given[place[known], 2]
    return found


def _ranges(begin: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """begin[0], begin[0] + 1, ... (sizes[0] of them), begin[1], ..."""
    ends = np.cumsum(sizes)
    return np.arange(ends[-1] if len(ends) else 0) + np.repeat(begin - (ends - sizes), sizes)


def _bounds(sizes: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
