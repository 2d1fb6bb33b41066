"""The compiled grouping equals the plain one on random skies, whatever islands are grouped together."""

import dataclasses
import importlib.util
from collections import Counter
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skysom.engine.collation.actions import actions_for
from skysom.engine.collation.carried import Carried
from skysom.engine.collation.grouping import group
from skysom.engine.collation.groups import Corrections, Groups
from skysom.engine.collation.islands import Islands, touching
from skysom.engine.collation.reference import group_sequentially, play
from skysom.engine.errors import CollationError

_spec = importlib.util.spec_from_file_location("skies", Path(__file__).with_name("skies.py"))
skies = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(skies)

seeds = st.integers(0, 2**32 - 1)


def assert_same(one: Groups, two: Groups) -> None:
    for field in dataclasses.fields(Groups):
        mine, theirs = getattr(one, field.name), getattr(two, field.name)
        assert mine.dtype == theirs.dtype, field.name
        assert np.array_equal(mine, theirs), field.name


@settings(max_examples=500)
@given(seed=seeds)
def test_compiled_and_plain_grouping_are_equal(seed):
    sky = skies.random_sky(seed)
    found = group(*sky)
    assert_same(found, group_sequentially(*sky))
    if sky.corrections is None:
        edges = list(zip(*(column.tolist() for column in found.edges()), strict=True))
        assert edges == play(*sky[:-1]).graph.listed()


@settings(max_examples=200)
@given(seed=seeds)
def test_groups_are_the_connected_components_of_the_edges_and_hold_every_row_once(seed):
    sky = skies.random_sky(seed)
    found = group(*sky)
    u, v, count, source = found.edges()
    graph = nx.Graph(zip(u.tolist(), v.tolist(), strict=True))
    graph.add_nodes_from(sky.rows.tolist())
    lists = skies.lists(found.starts, found.members)
    assert lists == sorted(sorted(component) for component in nx.connected_components(graph))
    assert np.array_equal(np.sort(found.members), sky.rows)
    for number, members in enumerate(lists):
        assert (found.group_of[np.isin(sky.rows, members)] == number).all()
        own = np.isin(u, members) & (count >= 0)
        pairs = sorted(set(zip(count[own].tolist(), source[own].tolist(), strict=True)))
        some = slice(found.evidence_starts[number], found.evidence_starts[number + 1])
        assert pairs == list(zip(found.evidence_count[some], found.evidence_source[some], strict=True))
        assert (found.representative_count[number], found.representative[number]) == (pairs[0] if pairs else (-1, -1))


def islands_of(sky: "skies.Sky") -> np.ndarray:
    """The smallest row's place of the island of every row."""
    islands = Islands(len(sky.rows))
    pairs = sky.corrections.pairs() if sky.corrections else np.empty((0, 2), np.int64)
    for one, two in (touching(sky.carried, sky.actions, sky.base_channels), pairs.T):
        islands.join(np.searchsorted(sky.rows, one), np.searchsorted(sky.rows, two))
    return islands.roots()


def group_in_bins(sky: "skies.Sky", bins: np.ndarray) -> dict[str, object]:
    """Contents of the groupings of the rows of each bin, as one."""
    parts = []
    for number in np.unique(bins):
        rows = sky.rows[bins == number]
        own = sky._replace(carried=sky.carried.of_sources(rows), rows=rows, rank=sky.rank[bins == number])
        parts.append(skies.contents(group(*own)))
    return skies.together(parts)


@settings(max_examples=500)
@given(seed=seeds, bins=st.sampled_from([1, 2, 5, 200]))
def test_any_bins_of_islands_give_what_all_islands_give_at_once(seed, bins):
    sky = skies.random_sky(seed)
    whole, islands = skies.contents(group(*sky)), islands_of(sky)
    bin_of_island = np.random.default_rng(seed).integers(0, bins, len(sky.rows))
    assert whole == group_in_bins(sky, bin_of_island[islands])


def test_random_skies_have_everything_in_them():
    """What the tests above are worth: each of these is there in many of the skies."""
    seen: Counter[str] = Counter()
    for seed in range(200):
        sky = skies.random_sky(seed)
        found = group(*sky)
        used, sizes = found.count >= 0, np.diff(found.clique_starts)
        place = np.searchsorted(sky.rows, found.evidence_source)
        linked = skies.lists(found.clique_starts, found.clique_members)
        seen["group of several masks"] += bool((np.diff(found.evidence_starts) > 1).any())
        seen["evidence for two groups"] += bool((np.bincount(place, minlength=1) > 1).any())
        seen["isolated after linked"] += bool(((found.isolated >= 0) & found.self_loop).any())
        seen["edges destroyed"] += bool((used & ~found.self_loop).any())
        seen["node made"] += bool((found.node_bits != 0).any())
        seen["never a source"] += bool((~found.node & (sky.rank < 0)).any())
        seen["no evidence"] += bool((np.diff(found.evidence_starts) == 0).any())
        seen["linked without the source"] += any(
            some and row not in some for row, some in zip(sky.rows.tolist(), linked, strict=True)
        )
        seen["joined by hand"] += bool(len(found.by_hand))
        seen["crowded"] += bool(sizes.max() > 8)
    assert len(seen) == 10
    assert min(seen.values()) >= 10, seen


@pytest.mark.slow
def test_a_large_sky_in_bins_of_islands():
    """A hundred thousand rows, permuted, with pairs to near rows: bins as one, and as the plain grouping."""
    rng, n = np.random.default_rng(1), 100_000
    source = np.repeat(np.arange(n), rng.poisson(2.0, n))
    row = np.clip(source + rng.integers(-3, 4, len(source)), 0, n - 1)
    source, row = np.unique(np.stack([source, row], axis=1), axis=0).T
    bits = rng.choice([1, 1, 1, 2, 4, 8], len(source))
    place = rng.permutation(n)
    carried = Carried(place[source], np.zeros(len(row)), place[row], bits, np.zeros(len(row))).sorted()
    labels = {"a": "LINK", "b": "UNLINK", "c": "ISOLATE", "d": "NODE_ATTACH"}
    actions = actions_for(list(labels), labels)
    sky = skies.Sky(carried, np.arange(n), rng.permutation(n), actions, np.array([True]), None)
    assert_same(group(*sky), group_sequentially(*sky))
    whole, islands = skies.contents(group(*sky)), islands_of(sky)
    assert whole == group_in_bins(sky, islands % 7)


def simple(pairs: dict[int, dict[int, int]], rows: int, **labels: str):
    """Carried pairs {source: {row: bits}} of one base channel, rank by row."""
    columns = [(s, 0, r, bits, 1.0) for s, under in pairs.items() for r, bits in under.items()]
    carried = Carried(*(np.array(column) for column in zip(*columns, strict=True))).sorted()
    return carried, np.arange(rows), np.arange(rows), actions_for(list(labels), labels), [True]


def test_a_row_apart_keeps_its_own_mask_and_leaves_its_group():
    given = simple({0: {0: 1, 1: 1, 2: 1}, 3: {3: 1, 2: 1}}, 4, Lobe="LINK")
    assert group(*given).members.tolist() == [0, 1, 2, 3]
    found = group(*given, Corrections(apart=(3,)))
    assert skies.lists(found.starts, found.members) == [[0, 1, 2], [3]]
    assert found.representative.tolist() == [0, 3]
    found = group(*given, Corrections(apart=(2,)))
    assert skies.lists(found.starts, found.members) == [[0, 1], [2], [3]]
    assert found.representative.tolist() == [0, -1, 3], "row 2 was linked and so never used its mask"


def test_rows_put_together_join_their_groups_and_may_be_moved():
    given = simple({0: {0: 1, 1: 1}, 2: {2: 1, 3: 1}}, 5, Lobe="LINK")
    found = group(*given, Corrections(together=((4, 1),)))
    assert skies.lists(found.starts, found.members) == [[0, 1, 4], [2, 3]]
    assert found.evidence_source.tolist() == [0, 4, 2]
    assert (-1, -1) in set(zip(found.edges()[2].tolist(), found.edges()[3].tolist(), strict=True))
    found = group(*given, Corrections(together=((3, 1),), apart=(3,)))
    assert skies.lists(found.starts, found.members) == [[0, 1, 3], [2], [4]]


def test_rows_put_together_twice_share_one_edge():
    given = simple({0: {0: 1}}, 4, Lobe="LINK")
    once, twice = Corrections(together=((0, 1, 2),)), Corrections(together=((1, 0), (0, 1), (2, 1, 0), (1, 2)))
    assert twice.pairs().tolist() == once.pairs().tolist() == [[0, 1], [1, 2]]
    assert Corrections().pairs().shape == (0, 2)
    assert_same(group(*given, twice), group(*given, once))
    edges = list(zip(*(column.tolist() for column in group(*given, twice).edges()), strict=True))
    assert len(set(edges)) == len(edges)


def test_nothing_to_group():
    found = group(Carried.empty(), np.empty(0), np.empty(0), actions_for(["a"], {"a": "LINK"}), [True])
    assert len(found) == 0
    assert found.edge_count == 0
    lonely = group(Carried.empty(), [3, 9], [-1, 4], actions_for([], {}), [])
    assert lonely.starts.tolist() == [0, 1, 2]
    assert lonely.representative.tolist() == [-1, 9]


@pytest.mark.parametrize("far", [False, True])
def test_what_does_not_fit_is_refused(far):
    """Rows that lie far apart are looked up in another way."""
    given = list(simple({0: {0: 1, 1: 1}, 1: {1: 1}}, 3, Lobe="LINK"))
    if far:
        given[1] = np.array([0, 1, 10**9])
    group(*given)
    changes = {
        "two rows have rank 1": (2, [1, 1, 2]),
        "one rank a row": (2, [1, 2]),
        "not sorted": (1, [0, 2, 1]),
        "there twice": (1, [0, 1, 1]),
        r"source 0 may touch row 1, which is not among the 2 rows": (1, [0, 10**9 if far else 2]),
        r"source 1, which is not among the 2 rows": (1, [0, 2]),
        "have a catalogue": (4, []),
    }
    for message, (argument, value) in changes.items():
        changed = list(given)
        changed[argument] = value
        if len(changed[1]) == 2 and len(changed[2]) == 3:
            changed[2] = [0, 1]
        if "touch" in message:
            changed[0] = changed[0].of_sources([0])
        with pytest.raises(CollationError, match=message):
            group(*changed)
    with pytest.raises(CollationError, match="not sorted by source"):
        group(given[0].take(slice(None, None, -1)), *given[1:])
    with pytest.raises(CollationError, match="only one is among"):
        group(*given, Corrections(together=((1, 77),)))
    with pytest.raises(CollationError, match="at least two"):
        Corrections(together=((1, 1),))
