"""Why components are one source, in words: whose mask linked what, in which order, and what it left alone."""

from collections.abc import Iterable, Sequence
from functools import cached_property

import numpy as np

from skysom.engine.collation.actions import Effect
from skysom.engine.collation.groups import Groups
from skysom.engine.collation.reference import Played, play
from skysom.jobs.collation.inputs import CollationInputs
from skysom.jobs.collation.why_island import Island, Place

MOST_LISTED = 12
"""Rows named in a sentence; of more the number is told."""
MOST_STEPS = 30
"""Masks that are told of one by one."""


def story(inputs: CollationInputs, island: Island, group: int) -> list[str]:
    """Lines that tell how group ``group`` of the island came about: masks in their order, then what took no part."""
    played = play(
        island.carried, island.groups.rows, inputs.rank[island.groups.rows], inputs.actions, inputs.base_channels
    )
    teller = _Teller(inputs, island, played, group)
    return [*teller.masks(), *teller.without_masks(), *teller.by_hand(), *teller.left_out()]


class _Teller:
    def __init__(self, inputs: CollationInputs, island: Island, played: Played, group: int) -> None:
        self.inputs, self.island, self.played = inputs, island, played
        groups = island.groups
        self.members = groups.members[groups.starts[group] : groups.starts[group + 1]].tolist()
        self.order = sorted(played.counts.items(), key=lambda item: item[1])
        mapped = inputs.mapped
        self.distance = (
            dict(zip(mapped.row.tolist(), mapped.distance.tolist(), strict=True)) if len(mapped) < 1e6 else {}
        )

    # --- masks ------------------------------------------------------------------------------------

    def masks(self) -> list[str]:
        """One paragraph a mask that was used and has to do with the members, in the order of use."""
        lines, told = [], 0
        for source, count in self.order:
            effects = self.played.effects[source]
            if source not in self.members and not self._concerns(effects):
                continue
            told += 1
            if told > MOST_STEPS:
                continue
            neuron = self.island.frame(source)[0]
            far = f", distance {self.distance[source]:.3g}" if source in self.distance else ""
            labels = self.inputs.neuron_labels[neuron]
            called = f" ({', '.join(labels)})" if labels else ""
            lines.append(
                f"{told}. {self._base([source])} used its mask, place {count} of the order: neuron "
                f"{neuron}{called}{far}."
            )
            lines += self._effects(source, effects)
        if told > MOST_STEPS:
            lines.append(f"... and {told - MOST_STEPS} more masks")
        return lines

    def _concerns(self, effects: Sequence[Effect]) -> bool:
        touched = {row for effect in effects for row in (*effect.link, *effect.unlink, *effect.isolate, *effect.nodes)}
        return bool(touched.intersection(self.members))

    def _effects(self, source: int, effects: Sequence[Effect]) -> list[str]:
        lines = []
        for label, effect in enumerate(effects):
            name, action = self.inputs.labels[label], self.inputs.actions[label].name
            head = f"   “{name}” ({action})"
            on_nodes: dict[str, Sequence[int]] = {
                self._linking(source, list(effect.link)): list(effect.link),
                "they lose all links, and none will link them again": list(effect.isolate),
                "after the linking they lose all links they have so far": list(effect.unlink),
                "they use no mask of their own any more": list(effect.nodes),
            }
            lines += [f"{head} lies over {self._base(rows)}: {words}." for words, rows in on_nodes.items() if rows]
            for channel, data in sorted(effect.data.items()):
                file = self.inputs.catalogues[channel].path.name
                lines.append(f"{head} lies over {self._others(channel, data, source)} of channel {channel} ({file}).")
            if effect.flag is not None:
                lines.append(f"{head} is {effect.flag}.")
        if not lines:
            lines.append("   No label of it lies over anything.")
        return lines

    def _linking(self, source: int, rows: Sequence[int]) -> str:
        kept = [row for row in rows if self._isolated_at(row, self.played.counts[source]) is None]
        if len(kept) < 2:
            return "alone, so nothing is linked" if kept else "all of them are isolated"
        words = "they are one source" if source in rows else "they are linked, but not to the component itself"
        if self.inputs.corrections is not None and set(kept) & set(self.inputs.corrections.apart):
            words += ", were it not for what was done by hand"
        return words if len(kept) == len(rows) else f"{words}, but for those that are isolated"

    def _isolated_at(self, row: int, count: int) -> int | None:
        """The source whose mask isolated a row up to a count."""
        before = [s for s, own in self.order if own <= count and any(row in e.isolate for e in self.played.effects[s])]
        return before[-1] if before else None

    # --- components without a mask of their own ---------------------------------------------------

    def without_masks(self) -> list[str]:
        """Members that used no mask, and why."""
        reasons: dict[str, list[int]] = {}
        for row in self.members:
            if row in self.played.counts:
                continue
            rank, status = int(self.inputs.rank[row]), str(self.inputs.status_names(np.array([row]))[0])
            first = self._first_touch(row)
            if rank >= 0 and first is not None:
                key = f"taken by the mask of {self._name(first)} before the turn came"
            else:
                key = {"ok": "not in the order", "empty_mask": "the masks of the neuron are empty"}.get(
                    status, status.replace("_", " ")
                )
            reasons.setdefault(key, []).append(row)
        return [f"{self._base(rows)} used no mask: {reason}." for reason, rows in reasons.items()]

    def _first_touch(self, row: int) -> int | None:
        for source, _ in self.order:
            if any(row in (*e.link, *e.isolate, *e.nodes) for e in self.played.effects[source]):
                return source
        return None

    def by_hand(self) -> list[str]:
        """What corrections did to the members."""
        corrections = self.inputs.corrections
        if corrections is None:
            return []
        lines = []
        for rows in corrections.together:
            if set(rows) & set(self.members):
                lines.append(f"By hand: {self._base(sorted(set(rows)))} were put together.")
        if apart := sorted(set(corrections.apart) & set(self.members)):
            lines.append(f"By hand: {self._base(apart)} lost all links to others.")
        return lines

    # --- neighbours -------------------------------------------------------------------------------

    def left_out(self) -> list[str]:
        """Components near by that are of other sources, and whether any mask speaks of them."""
        island, members = self.island, self.members
        away, rows = _separations(island.base, members)
        near = [(float(d), int(r)) for d, r in zip(away, rows, strict=True) if d <= self.inputs.limit_arcsec]
        if not near:
            return [f"No other component lies within {self.inputs.limit_arcsec:.3g}″."]
        lines = []
        for distance, row in sorted(near)[:MOST_LISTED]:
            lines.append(f"Not of this source: {self._name(row)}, {distance:.1f}″ away: {self._why_not(row)}.")
        if len(near) > MOST_LISTED:
            lines.append(f"... and {len(near) - MOST_LISTED} more within {self.inputs.limit_arcsec:.3g}″")
        return lines

    def _why_not(self, row: int) -> str:
        groups = self.island.groups
        place = np.searchsorted(groups.rows, row)
        if place < len(groups.rows) and groups.rows[place] == row:
            if by_hand := self._taken_apart(row):
                return by_hand
            label = int(groups.isolated[place])
            if label >= 0:
                return f"isolated by “{self.inputs.labels[label]}”"
            unlinked = [s for s, _ in self.order if any(row in e.unlink for e in self.played.effects[s])]
            if unlinked:
                return f"unlinked by the mask of {self._name(unlinked[-1])}"
            carriers = self._would_link(row)
            if carriers:
                return f"the mask of {self._names(carriers)} would have linked it, but was not used"
        return "under no linking label of a mask that was used"

    def _taken_apart(self, row: int) -> str:
        """Words for a row that would be of this source without corrections; none for others."""
        corrections = self.inputs.corrections
        if corrections is None or not corrections.apart:
            return ""
        group_of = dict(zip(self.island.groups.rows.tolist(), self.without.group_of.tolist(), strict=True))
        if group_of[row] not in [group_of[member] for member in self.members]:
            return ""
        if row in corrections.apart:
            return "taken apart by hand"
        alone = sorted(set(corrections.apart) & {r for r, group in group_of.items() if group == group_of[row]})
        return f"by hand, {self._base(alone)} lost all links"

    @cached_property
    def without(self) -> Groups:
        """The groups of the island without corrections."""
        from skysom.engine.collation.grouping import group

        inputs, rows = self.inputs, self.island.groups.rows
        return group(self.island.carried, rows, inputs.rank[rows], inputs.actions, inputs.base_channels)

    def _would_link(self, row: int) -> list[int]:
        """Members, or the row itself, whose unused masks tie the two."""
        carried, linking = self.island.carried, np.uint64(0)
        for label, action in enumerate(self.inputs.actions):
            if action.name == "LINK":
                linking |= np.uint64(1 << label)
        base = np.isin(carried.channel, np.flatnonzero(self.inputs.base_channels))
        tied = base & ((carried.bits & linking) != 0)
        pairs = set(zip(carried.source[tied].tolist(), carried.row[tied].tolist(), strict=True))
        found = {s for s, r in pairs if r == row and s in self.members} | (
            {row} if any((row, m) in pairs for m in self.members) else set()
        )
        return sorted(found - self.played.counts.keys())

    # --- names ------------------------------------------------------------------------------------

    def _name(self, row: int) -> str:
        return self.island.base.called(row)

    def _names(self, rows: Iterable[int]) -> str:
        return ", ".join(self._name(row) for row in rows)

    def _base(self, rows: Sequence[int]) -> str:
        if len(rows) > MOST_LISTED:
            return f"{len(rows)} components ({self._names(rows[:3])}, ...)"
        return self._names(rows)

    def _others(self, channel: int, rows: Iterable[int], source: int) -> str:
        place = self.island.base if self.inputs.base_channels[channel] else self.island.others[channel]
        carried = self.island.carried
        own = (carried.source == source) & (carried.channel == channel)
        away = dict(zip(carried.row[own].tolist(), carried.separation_arcsec[own].tolist(), strict=True))
        named = sorted(rows, key=lambda row: away[row])
        more = len(named) - MOST_LISTED
        words = [f"{place.called(row)} at {away[row]:.1f}″" for row in named[:MOST_LISTED]]
        return ", ".join(words) + (f" and {more} more" if more > 0 else "")


def _separations(base: Place, members: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Arcsec from the nearest member, and the rows, of all components that are not members."""
    from skysom.engine.collation.neighbours import angle_of_chord_arcsec, unit_vectors

    vectors = unit_vectors(base.ra_deg, base.dec_deg)
    others = np.flatnonzero(~np.isin(base.row, members) & np.isfinite(vectors).all(axis=1))
    own = vectors[base.at(members)]
    own = own[np.isfinite(own).all(axis=1)]
    if not len(own) or not len(others):
        return np.empty(0), np.empty(0, np.int64)
    chord = np.sqrt(((vectors[others][:, None] - own[None]) ** 2).sum(axis=2)).min(axis=1)
    return angle_of_chord_arcsec(chord), base.row[others]
