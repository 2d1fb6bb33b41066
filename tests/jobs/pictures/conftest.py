"""Every picture is rendered, and none leaves a figure in pyplot's global state."""

import io
import sys

import numpy as np
import pytest


@pytest.fixture(autouse=True)
def no_global_figure():
    yield
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or pyplot.get_fignums() == []


@pytest.fixture
def rendered():
    """Return a function that draws the figure of axes to the end and gives the axes back."""

    def render(axes):
        first = np.asarray(axes, dtype=object).ravel()[0]
        first.figure.savefig(io.BytesIO(), format="png", dpi=40)
        return axes

    return render


@pytest.fixture
def own_axes():
    """Return a function that makes axes of a figure of its own."""
    from matplotlib.figure import Figure

    def make(rows=1, columns=1):
        found = Figure(figsize=(3 * columns, 3 * rows)).subplots(rows, columns, squeeze=False)
        return found[0, 0] if rows == columns == 1 else found

    return make
