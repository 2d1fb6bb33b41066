"""Islands: connected components, whatever the order and the pieces of the pairs."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from skysom.engine.collation.actions import ACTIONS, Action, Effect, actions_for
from skysom.engine.collation.carried import Carried
from skysom.engine.collation.islands import Islands, touching
from skysom.engine.errors import CollationError


@given(rows=st.integers(1, 60), density=st.floats(0, 2), seed=st.integers(0, 2**32 - 1))
def test_roots_are_the_smallest_rows_of_connected_components(rows, density, seed):
    rng = np.random.default_rng(seed)
    source, target = rng.integers(0, rows, (2, int(rows * density)))
    islands, cut = Islands(rows), int(rng.integers(0, len(source) + 1))
    for piece in rng.permutation([0, 1]):
        islands.join(*((source[:cut], target[:cut]) if piece else (target[cut:], source[cut:])))
    graph = coo_array((np.ones(len(source)), (source, target)), shape=(rows, rows))
    count, component = connected_components(graph, directed=False)
    smallest = np.array([np.flatnonzero(component == c)[0] for c in range(count)])
    assert np.array_equal(islands.roots(), smallest[component])
    assert np.array_equal(islands.roots(), smallest[component]), "asking changes nothing"


def test_a_long_chain_in_the_worst_order():
    rows = np.arange(200_000)
    islands = Islands(len(rows))
    islands.join(rows[:-1][::-1], rows[1:][::-1])
    assert not islands.roots().any()


def test_rows_that_are_not_there_are_refused():
    islands = Islands(3)
    for pair in ([3], [-1]):
        with pytest.raises(CollationError, match="there are 0 to 2"):
            islands.join(pair, [0])
    with pytest.raises(CollationError, match="in pairs"):
        islands.join([0, 1], [0])
    islands.join([], [])
    assert islands.roots().tolist() == [0, 1, 2]


def test_only_base_rows_whose_node_may_be_touched_tie_islands():
    names = [*ACTIONS, "mine", "idle"]
    own = {"mine": Action("MINE", lambda *_: Effect(), nodes=True), "idle": Action("IDLE", lambda *_: Effect())}
    actions = actions_for(names, {name: own.get(name, name) for name in names})
    label = np.arange(len(names))
    carried = Carried(label * 0, label * 0, label + 1, 1 << label, label)
    others = Carried(label * 0, label * 0 + 1, label + 50, 1 << label, label)
    itself = Carried([0], [0], [0], [1], [0.0])
    source, target = touching(Carried.concatenate([carried, others, itself]), actions, [True, False])
    assert not source.any()
    assert [names[row - 1] for row in target] == ["LINK", "UNLINK", "ISOLATE", "NODE_ATTACH", "mine"]
    source, target = touching(Carried.concatenate([carried, others]), actions, [True, True])
    assert len(target) == 10
    with pytest.raises(CollationError, match="channels 0 to 1"):
        touching(others.concatenate([others, carried]), actions, [True])
