"""The plain grouping: every rule by hand, and all of them against a graph library on random skies."""

import importlib.util
from itertools import combinations
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skysom.engine.collation.actions import actions_for
from skysom.engine.collation.carried import Carried
from skysom.engine.collation.grouping import group
from skysom.engine.collation.reference import group_sequentially, play

_spec = importlib.util.spec_from_file_location("skies", Path(__file__).with_name("skies.py"))
skies = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(skies)

LABELS = {"link": "LINK", "unlink": "UNLINK", "isolate": "ISOLATE", "node": "NODE_ATTACH", "host": "DATA_ATTACH"}
LINK, UNLINK, ISOLATE, NODE, HOST = (1 << p for p in range(5))


@pytest.fixture(params=[group, group_sequentially], ids=["compiled", "plain"])
def outcome(request):
    """What becomes of masks {source: {row: labels}} used in the order of the rows, as (groups, edges, Groups)."""

    def run(masks, rows=None, channel=0, base=(True,)):
        rows = 1 + max([*masks, *(r for under in masks.values() for r in under)]) if rows is None else rows
        columns = [(s, channel, r, bits, 1.0) for s, under in masks.items() for r, bits in under.items()]
        carried = Carried(*(np.array(column) for column in zip(*columns, strict=True))).sorted()
        actions = actions_for(list(LABELS), LABELS)
        found = request.param(carried, np.arange(rows), np.arange(rows), actions, base)
        members = skies.lists(found.starts, found.members)
        u, v, count, _ = (column.tolist() for column in found.edges())
        return members, list(zip(u, v, count, strict=True)), found

    return run


def test_a_source_links_what_its_mask_carries_and_itself_only_if_it_is_carried(outcome):
    members, edges, found = outcome({0: {1: LINK, 2: LINK}})
    assert members == [[0], [1, 2]]
    assert edges == [(0, 0, 0), (1, 2, 0)]
    assert found.evidence_source.tolist() == [0, 0], "its self-loop is evidence of its group, its link of the other"
    members, edges, _ = outcome({0: {0: LINK, 1: LINK, 2: LINK}})
    assert members == [[0, 1, 2]]
    assert edges == [(0, 0, 0), (0, 1, 0), (0, 2, 0), (1, 2, 0)]


def test_what_was_linked_never_uses_its_own_mask_but_may_be_linked_again(outcome):
    members, _, found = outcome({0: {0: LINK, 1: LINK}, 1: {1: LINK, 3: LINK}, 2: {2: LINK, 1: LINK}})
    assert members == [[0, 1, 2], [3]]
    assert found.count.tolist() == [0, -1, 2, 3]
    assert found.representative.tolist() == [0, 3]


def test_a_link_of_a_single_row_does_nothing(outcome):
    members, edges, found = outcome({0: {1: LINK}})
    assert members == [[0], [1]]
    assert edges == [(0, 0, 0), (1, 1, 1)]
    assert found.count.tolist() == [0, 1], "row 1 is no node when its turn comes"


def test_unlink_destroys_all_edges_after_the_self_loop(outcome):
    members, edges, found = outcome({0: {0: LINK, 1: LINK, 2: LINK}, 3: {2: UNLINK, 3: UNLINK}})
    assert members == [[0, 1], [2], [3]]
    assert edges == [(0, 0, 0), (0, 1, 0)]
    assert found.representative.tolist() == [0, -1, -1]
    assert found.node.all()


def test_what_was_unlinked_may_be_linked_later(outcome):
    members, _, _ = outcome({0: {0: LINK, 1: LINK}, 2: {1: UNLINK}, 3: {1: LINK, 3: LINK}})
    assert members == [[0], [1, 3], [2]]


def test_unlink_does_not_make_a_node(outcome):
    _, edges, found = outcome({0: {1: UNLINK}})
    assert found.count.tolist() == [0, 1]
    assert edges == [(0, 0, 0), (1, 1, 1)]


def test_isolate_comes_before_the_link_and_lasts(outcome):
    members, edges, found = outcome({0: {0: LINK, 1: LINK | ISOLATE, 2: LINK}, 3: {1: LINK, 3: LINK}})
    assert members == [[0, 2], [1], [3]]
    assert found.isolated.tolist() == [-1, 2, -1, -1]
    assert found.count.tolist() == [0, -1, -1, 3], "an isolated row is a node and never uses its mask"
    assert edges == [(0, 0, 0), (0, 2, 0), (3, 3, 3)]


def test_isolate_destroys_earlier_edges_and_leaves_the_self_loop_of_its_own_source(outcome):
    members, edges, _ = outcome({0: {0: LINK, 1: LINK}, 2: {0: ISOLATE, 2: ISOLATE | LINK, 3: LINK}})
    assert members == [[0], [1], [2], [3]]
    assert edges == [(2, 2, 2), (3, 3, 3)], "row 3 alone is left to be linked, which makes neither edge nor node"


def test_attached_nodes_are_skipped_as_sources_and_linked_by_others(outcome):
    members, edges, found = outcome({0: {1: NODE}, 1: {1: LINK, 0: LINK}, 2: {1: LINK, 2: LINK}})
    assert members == [[0], [1, 2]]
    assert edges == [(0, 0, 0), (1, 2, 2), (2, 2, 2)]
    assert found.node_bits.tolist() == [0, NODE, 0]


def test_rows_of_other_catalogues_are_no_nodes(outcome):
    """The peer takes their numbers for those of base rows."""
    members, edges, _ = outcome(
        {0: {0: LINK, 1: LINK, 2: UNLINK, 3: ISOLATE, 4: NODE, 99: LINK}}, rows=3, channel=1, base=(True, False)
    )
    assert members == [[0], [1], [2]]
    assert edges == [(0, 0, 0), (1, 1, 1), (2, 2, 2)]


def test_rows_without_a_rank_are_linked_or_stay_alone_without_evidence():
    carried = Carried(*(np.array(c) for c in ([0, 0, 2, 2], [0] * 4, [0, 1, 2, 0], [LINK] * 4, [1.0] * 4)))
    for run in (group, group_sequentially):
        found = run(carried, np.arange(4), np.array([5, -1, -1, -1]), actions_for(list(LABELS), LABELS), [True])
        assert found.members.tolist() == [0, 1, 2, 3]
        assert found.starts.tolist() == [0, 2, 3, 4]
        assert found.node.tolist() == [True, True, False, False]
        assert found.representative_count.tolist() == [5, -1, -1]


def graph_of(sky: "skies.Sky") -> nx.MultiGraph:
    """The rules as the specification has them, on a graph library; one label after the other, channel by channel."""
    graph, isolated = nx.MultiGraph(), set()
    carried = sky.carried
    for rank, source in sorted((r, s) for r, s in zip(sky.rank.tolist(), sky.rows.tolist(), strict=True) if r >= 0):
        if source in graph:
            continue
        linked, unlinked = set(), set()
        for label, action in enumerate(sky.actions):
            under = sky.base_channels[carried.channel] & (carried.source == source)
            rows = carried.row[under & ((carried.bits >> np.uint64(label)) & np.uint64(1) != 0)].tolist()
            if action.name == "LINK":
                linked.update(rows)
            elif action.name == "UNLINK":
                unlinked.update(rows)
            elif action.name == "NODE_ATTACH":
                graph.add_nodes_from(rows, **{f"label {label}": True})
            elif action.name == "ISOLATE":
                isolated.update(rows)
                graph.add_nodes_from(rows, isolated=label)
                graph.remove_edges_from(list(graph.edges(rows, keys=True)))
        data = {"count": rank, "source": source}
        graph.add_edges_from((u, v, data) for u, v in combinations(sorted(linked - isolated), 2))
        graph.add_edge(source, source, **data)
        graph.remove_edges_from(list(graph.edges(unlinked & set(graph), keys=True)))
    return graph


@settings(max_examples=250)
@given(seed=st.integers(0, 2**32 - 1))
def test_equal_to_the_rules_on_a_graph_library(seed):
    sky = skies.random_sky(seed)
    played, graph = play(*sky[:-1]), graph_of(sky)
    attributes = {
        row: ({} if label is None else {"isolated": label})
        | {f"label {p}": True for p in played.node_labels.get(row, ())}
        for row, label in played.graph.nodes.items()
    }
    assert attributes == dict(graph.nodes(data=True))
    edges = sorted((min(u, v), max(u, v), d["count"], d["source"]) for u, v, d in graph.edges(data=True))
    assert played.graph.listed() == edges
