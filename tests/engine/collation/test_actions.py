"""Actions: every built-in effect, what is refused, and users' actions that see their island only."""

import importlib.util
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skysom.engine.collation.actions import ACTIONS, Action, Effect, actions_for, built_in, label_bits, node_bits
from skysom.engine.collation.carried import Carried
from skysom.engine.collation.grouping import group
from skysom.engine.collation.groups import Corrections
from skysom.engine.collation.island_views import IslandView
from skysom.engine.collation.islands import Islands, touching
from skysom.engine.collation.reference import Multigraph
from skysom.engine.errors import CollationError

_spec = importlib.util.spec_from_file_location("skies", Path(__file__).with_name("skies.py"))
skies = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(skies)


def test_what_built_in_actions_want():
    view = IslandView(Multigraph(), {}, 3, (0, 2), lambda channel, row: 0.0)
    rows = {0: (3, 5), 1: (3, 90), 2: (5, 7)}
    base, data = (3, 5, 7), {1: (3, 90)}
    expected = {
        "LINK": Effect(link=base, data=data),
        "UNLINK": Effect(unlink=base, data=data),
        "ISOLATE": Effect(isolate=base, data=data),
        "NODE_ATTACH": Effect(nodes=base, data=data),
        "DATA_ATTACH": Effect(data=rows),
        "TRUE_ATTACH": Effect(flag=True),
        "FALSE_ATTACH": Effect(flag=False),
        "FLAG": Effect(flag=True),
        "RESOLVE": Effect(flag=True),
        "PASS": Effect(),
    }
    assert set(expected) == set(ACTIONS)
    for name, effect in expected.items():
        assert ACTIONS[name].act(view, 3, rows) == effect
        assert ACTIONS[name].act(view, 3, {}) == Effect((), (), (), (), {}, None), "nothing under the label"


def test_actions_of_labels():
    labels = ["lobe", "host", "spike"]
    chosen = actions_for(labels, {"host": "DATA_ATTACH", "spike": "PASS", "lobe": "LINK"})
    assert [action.name for action in chosen] == ["LINK", "DATA_ATTACH", "PASS"]
    assert built_in(chosen)
    assert label_bits(chosen, "LINK", "PASS") == 5
    assert node_bits(chosen) == 1
    own = Action("LINK", lambda *_: Effect(), nodes=True)
    assert not built_in([own]), "a name is not enough"
    assert label_bits([own], "LINK") == 0
    assert built_in(pickle.loads(pickle.dumps(chosen))), "actions go to other processes"


def test_actions_that_do_not_fit_labels_are_refused():
    for labels, chosen, message in [
        (["a"], {"a": "LINKS"}, r'"a" = "LINKS": there is no such action; use one of LINK'),
        (["a"], {"a": "LINK", "b": "PASS"}, r"actions on \['b'\], the masks carry the labels \['a'\]"),
        (["a", "b"], {"a": "LINK"}, r'labels \[\'b\'\] have no action; .*"b" = "PASS"'),
        (["a", "a"], {"a": "LINK"}, "distinct"),
        ([str(p) for p in range(65)], {}, "65 labels"),
    ]:
        with pytest.raises(CollationError, match=message):
            actions_for(labels, chosen)


@settings(max_examples=150)
@given(seed=st.integers(0, 2**32 - 1))
def test_built_in_actions_under_other_names_do_the_same(seed):
    """One source after the other in Python as compiled, and what they attach is kept beside the groups."""
    sky = skies.random_sky(seed)
    renamed = tuple(Action(f"MY_{a.name}", a.act, nodes=a.nodes, data=True, flag=a.flag) for a in sky.actions)
    assert not built_in(renamed)
    mine, theirs = skies.contents(group(*sky._replace(actions=renamed))), skies.contents(group(*sky))
    kept = mine.pop("user_data"), mine.pop("user_flags")
    assert theirs.pop("user_data") == theirs.pop("user_flags") == []
    assert mine == theirs
    under = [
        (s, p, c, r)
        for s, c, r, bits, _ in zip(*(column.tolist() for column in vars(sky.carried).values()), strict=True)
        for p in range(len(sky.actions))
        if bits >> p & 1 and sky.rank[np.searchsorted(sky.rows, s)] >= 0
    ]
    used = {row for row, *values in mine["rows"] if values[3] >= 0}
    names = [action.name for action in sky.actions]
    nodes, flags = {"LINK", "UNLINK", "ISOLATE", "NODE_ATTACH"}, {"TRUE_ATTACH", "FALSE_ATTACH", "FLAG", "RESOLVE"}
    data = [
        [s, p, c, r]
        for s, p, c, r in under
        if s in used and (names[p] == "DATA_ATTACH" or (names[p] in nodes and not sky.base_channels[c]))
    ]
    assert kept[0] == sorted(data)
    truths = {(s, p, int(names[p] != "FALSE_ATTACH")) for s, p, _, _ in under if s in used and names[p] in flags}
    assert kept[1] == sorted(map(list, truths))


def link_while_small(island, source, rows):
    """Link what keeps a group below six; attach the nearest of other catalogues; say whether nothing was linked."""
    found = [row for channel in island.base_channels for row in rows.get(channel, ())]
    free = [row for row in found if island.isolated(row) is None and len(island.group(row)) + len(found) < 6]
    others = [(island.separation_arcsec(c, r), c, r) for c in rows if c not in island.base_channels for r in rows[c]]
    nearest = {min(others)[1]: (min(others)[2],)} if others else {}
    fresh = [row for row in free if not island.is_node(row)]
    return Effect(link=free, nodes=fresh[:1], data=nearest, flag=not free)


def see_everything(island, source, rows):
    """An answer that depends on all that can be seen."""
    isolated = [row for row in island.rows if island.isolated(row) is not None]
    state = [(row, island.is_node(row), island.group(row)) for row in island.rows]
    own = [row for channel in island.base_channels for row in rows.get(channel, ())]
    return Effect(unlink=own if (len(isolated) + len(str(state)) + sum(island.rows)) % 3 == 0 else ())


@settings(max_examples=200)
@given(seed=st.integers(0, 2**32 - 1), bins=st.integers(1, 4))
def test_a_users_action_gives_the_same_in_any_bins_of_islands(seed, bins):
    sky = skies.random_sky(seed)
    own = (
        Action("WHILE_SMALL", link_while_small, nodes=True, data=True, flag=True),
        Action("SEE", see_everything, nodes=True),
    )
    sky = sky._replace(actions=(own + sky.actions)[: max(len(sky.actions), 1)])
    whole = skies.contents(group(*sky))
    islands = Islands(len(sky.rows))
    tied = [touching(sky.carried, sky.actions, sky.base_channels), (sky.corrections or Corrections()).pairs().T]
    for one, two in tied:
        islands.join(np.searchsorted(sky.rows, one), np.searchsorted(sky.rows, two))
    number = np.random.default_rng(seed).integers(0, bins, len(sky.rows))[islands.roots()]
    parts = []
    for rows in (sky.rows[number == b] for b in np.unique(number)):
        rank = sky.rank[np.isin(sky.rows, rows)]
        own_sky = sky._replace(carried=sky.carried.of_sources(rows), rows=rows, rank=rank)
        parts.append(skies.contents(group(*own_sky)))
    assert whole == skies.together(parts)


def two_islands() -> list:
    """Rows 0, 1, 2 and 4, 5 with a row 9 of another catalogue."""
    columns = ([0, 0, 0, 4, 4], [0, 0, 1, 0, 0], [1, 2, 9, 4, 5], [1, 1, 1, 1, 1], [3.0, 2.0, 5.0, 0.0, 1.0])
    return [Carried(*map(np.array, columns)), np.arange(6), np.arange(6), None, [True, False]]


def acting(function, **kinds):
    given = two_islands()
    given[3] = (Action("MINE", function, **kinds),)
    return group(*given)


def test_an_action_sees_its_island_as_it_is_before_it():
    seen = []

    def look(island, source, rows):
        seen.append((source, island.rows, dict(rows), [island.is_node(row) for row in island.rows]))
        return Effect(link=rows.get(0, ()))

    found = acting(look, nodes=True)
    assert found.members.tolist() == [0, 1, 2, 3, 4, 5]
    assert found.starts.tolist() == [0, 1, 3, 4, 6]
    assert seen == [
        (0, (0, 1, 2), {0: (1, 2), 1: (9,)}, [False, False, False]),
        (3, (3,), {}, [False]),
        (4, (4, 5), {0: (4, 5)}, [False, False]),
    ]


@pytest.mark.parametrize("ask", ["is_node", "isolated", "group"])
def test_an_action_that_asks_beyond_its_island_is_refused(ask):
    with pytest.raises(CollationError, match=r"asks for row 4, which is not of its island of 3 rows"):
        acting(lambda island, source, rows: getattr(island, ask)(4) or Effect(), nodes=True)


def test_an_action_cannot_change_what_it_sees():
    def meddle(island, source, rows):
        rows[0] = (1, 2)
        return Effect()

    with pytest.raises(CollationError, match=r"fails on source 0: TypeError: .*does not support item assignment"):
        acting(meddle, nodes=True)


def fails_late(island, source, rows):
    """Rows that cannot be made are found when they are listed."""
    return Effect(link=(rows[5][0] for _ in range(2)))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda island, source, rows: 1 / source, "fails on source 0: ZeroDivisionError: .*; correct it"),
        (lambda island, source, rows: island.separation_arcsec(0, 5), r"fails on source 0: KeyError: \(0, 5\)"),
        (lambda island, source: Effect(), "fails on source 0: TypeError: .*positional argument"),
        (fails_late, "fails on source 0: KeyError: 5"),
        (lambda *_: Effect(link=["one"]), "fails on source 0: ValueError: .*'one'"),
        (lambda *_: Effect(data=[1]), "fails on source 0: AttributeError"),
        (lambda *_: None, "returns None for source 0, not an Effect"),
        (lambda *_: (1, 2), r"returns \(1, 2\) for source 0, not an Effect"),
    ],
)
def test_an_action_that_fails_says_where(function, message):
    with pytest.raises(CollationError, match=f"the action MINE {message}") as caught:
        acting(function, nodes=True, data=True)
    assert (caught.value.__cause__ is None) == ("not an Effect" in message)


@pytest.mark.parametrize(
    ("effect", "message"),
    [
        (Effect(link=(1, 3)), r"names the rows \[3\]"),
        (Effect(unlink=(9,)), r"names the rows \[9\]"),
        (Effect(data={1: (1,)}), r"data \[\(1, 1\)\]"),
        (Effect(data={5: (9,)}), r"data \[\(5, 9\)\]"),
    ],
)
def test_an_action_names_only_what_it_is_given(effect, message):
    with pytest.raises(CollationError, match=message):
        acting(lambda *_: effect, nodes=True, data=True)


@pytest.mark.parametrize(
    ("effect", "kinds"),
    [
        (Effect(link=(1, 2)), {"data": True, "flag": True}),
        (Effect(data={1: (9,)}), {"nodes": True, "flag": True}),
        (Effect(flag=False), {"nodes": True, "data": True}),
    ],
)
def test_an_action_gives_only_what_it_says_it_gives(effect, kinds):
    with pytest.raises(CollationError, match="it was made with"):
        acting(lambda island, source, rows: effect if source == 0 else Effect(), **kinds)


def test_an_action_may_name_its_source_and_arrays_of_numbers():
    found = acting(
        lambda island, source, rows: Effect(link=np.array([source, *rows.get(0, ())], np.int32), flag=np.bool_(True)),
        nodes=True,
        flag=True,
    )
    assert found.starts.tolist() == [0, 3, 4, 6]
    assert found.user_flags.tolist() == [[0, 0, 1], [3, 0, 1], [4, 0, 1]]
    assert found.user_flags.dtype == np.int64
