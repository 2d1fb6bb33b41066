"""What labels attached to groups, against the effects of the plain grouping, source by source."""

import importlib.util
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skysom.engine.collation.actions import Action, Effect
from skysom.engine.collation.evidence import attached_rows, label_flags, used_masks
from skysom.engine.collation.grouping import group
from skysom.engine.collation.reference import play
from skysom.engine.errors import CollationError

_spec = importlib.util.spec_from_file_location("skies", Path(__file__).with_name("skies.py"))
skies = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(skies)

seeds = st.integers(0, 2**32 - 1)


def keep_nearest(island, source, rows):
    """A user's: of every channel the nearest row, and whether there is one of other catalogues."""
    nearest = {c: (min(found, key=lambda row: (island.separation_arcsec(c, row), row)),) for c, found in rows.items()}
    return Effect(data=nearest, flag=any(channel not in island.base_channels for channel in rows))


def with_a_users_action(sky: "skies.Sky") -> "skies.Sky":
    own = Action("KEEP_NEAREST", keep_nearest, data=True, flag=True)
    return sky._replace(actions=(*sky.actions[:-1], own))


@pytest.mark.parametrize("change", [lambda sky: sky, with_a_users_action], ids=["built in", "with a user's"])
@settings(max_examples=150)
@given(seed=seeds)
def test_data_and_flags_of_groups_are_those_of_their_evidence(change, seed):
    sky = change(skies.random_sky(seed))
    found, effects = group(*sky), play(*sky[:-1]).effects
    sources = skies.lists(found.evidence_starts, found.evidence_source)
    separation = separations(sky)
    for label in range(len(sky.actions)):
        attached = attached_rows(found, sky.carried, label, sky.actions, sky.base_channels)
        flags = label_flags(found, sky.carried, label, sky.actions)
        assert (attached.starts.dtype, attached.channel.dtype, attached.row.dtype) == (np.int64, np.int8, np.int64)
        assert len(attached) == len(found)
        own = attached.of_representative()
        for number, evidence in enumerate(sources):
            data = [data_of(effects[source][label]) for source in evidence]
            some = slice(attached.starts[number], attached.starts[number + 1])
            listed = list(zip(attached.channel[some].tolist(), attached.row[some].tolist(), strict=True))
            assert listed == sorted(set().union(*data))
            nearest = [min(separation[s, *e] for s, d in zip(evidence, data, strict=True) if e in d) for e in listed]
            assert attached.separation_arcsec[some].tolist() == nearest
            some = slice(own.starts[number], own.starts[number + 1])
            assert set(zip(own.channel[some].tolist(), own.row[some].tolist(), strict=True)) == (data or [set()])[0]
            said = [-1 if effects[s][label].flag is None else int(effects[s][label].flag) for s in evidence]
            assert flags.representative[number] == (said or [-1])[0]
            assert flags.union[number] == max(said, default=-1)
        assert own.by_representative.all()


def data_of(effect: Effect) -> set[tuple[int, int]]:
    return {(channel, row) for channel, rows in effect.data.items() for row in rows}


def separations(sky: "skies.Sky") -> dict[tuple[int, int, int], float]:
    c = sky.carried
    keys = zip(c.source.tolist(), c.channel.tolist(), c.row.tolist(), strict=True)
    return dict(zip(keys, c.separation_arcsec.tolist(), strict=True))


@settings(max_examples=150)
@given(seed=seeds)
def test_used_masks_list_what_lies_under_every_label(seed):
    sky = with_a_users_action(skies.random_sky(seed))
    found, played = group(*sky), play(*sky[:-1])
    used = used_masks(found, sky.carried, sky.actions)
    assert used.source.tolist() == sorted(played.counts)
    assert used.count.tolist() == [played.counts[source] for source in used.source.tolist()]
    linked = {source: set() for source in played.counts}
    u, v, _, source = (column.tolist() for column in found.edges())
    for one, two, of in zip(u, v, source, strict=True):
        if one != two and of >= 0:
            linked[of] |= {one, two}
    bounds = list(pairwise(used.linked_starts.tolist()))
    for place, (source, (first, last)) in enumerate(zip(used.source.tolist(), bounds, strict=True)):
        assert used.linked[first:last].tolist() == sorted(linked[source])
        own = sky.carried.of_sources([source])
        for label, under in enumerate(used.labels):
            some = slice(under.starts[place], under.starts[place + 1])
            kept = own.take((own.bits >> np.uint64(label)) & np.uint64(1) != 0)
            assert np.array_equal(under.channel[some], kept.channel)
            assert np.array_equal(under.row[some], kept.row)
            assert np.array_equal(under.separation_arcsec[some], kept.separation_arcsec)
            flag = played.effects[source][label].flag
            assert used.flags[place, label] == (-1 if flag is None else flag)


def test_pairs_of_other_sources_change_nothing():
    sky = skies.random_sky(5)
    found = group(*sky)
    others = sky.carried.take(np.arange(len(sky.carried)))
    object.__setattr__(others, "source", others.source + 10_000)
    both = sky.carried.concatenate([others, sky.carried])
    for label in range(len(sky.actions)):
        one, two = (attached_rows(found, c, label, sky.actions, sky.base_channels) for c in (sky.carried, both))
        assert np.array_equal(one.starts, two.starts)
        assert np.array_equal(one.row, two.row)


@pytest.mark.parametrize("label", [-1, 64])
def test_a_label_without_an_action_is_refused(label):
    sky = skies.random_sky(5)
    found = group(*sky)
    with pytest.raises(CollationError, match=f"label {label} has no action, there are {len(sky.actions)}"):
        attached_rows(found, sky.carried, label, sky.actions, sky.base_channels)
    with pytest.raises(CollationError, match=f"label {label} has no action"):
        label_flags(found, sky.carried, label, sky.actions)


def test_a_channel_without_a_catalogue_is_refused():
    sky = skies.random_sky(5)
    found = group(*sky)
    for label in range(len(sky.actions)):
        with pytest.raises(CollationError, match="0 have a catalogue"):
            attached_rows(found, sky.carried, label, sky.actions, [])
