"""Pictures on the lattice: which neuron is drawn where, on square, non-square, folded, deep and hexagonal maps."""

import subprocess
import sys

import numpy as np
import pytest
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_hex

from skysom.engine import Cartesian, Hexagonal
from skysom.engine.errors import ReadingError
from skysom.engine.reading.frames import trimmed
from skysom.jobs import pictures
from skysom.jobs.pictures import style


def neurons(count, channels=1, side=12, seed=0):
    return np.random.default_rng(seed).random((count, channels, side, side)).astype(np.float32)


def image_of(axes):
    (image,) = axes.get_images()
    return image


def shown_cell(axes, row, column):
    """Data of the one image of a mosaic at a lattice place, first picture row first."""
    data, extent = image_of(axes).get_array(), image_of(axes).get_extent()
    rows, columns = int(extent[2] - extent[3]), int(extent[1] - extent[0])
    side = data.shape[0] // rows
    assert data.shape == (rows * side, columns * side)
    return np.asarray(data[row * side : (row + 1) * side, column * side : (column + 1) * side])[::-1]


# --- the map --------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(4, 4), (2, 5), (5, 2)])
def test_neurons_lie_at_their_row_and_column(rendered, shape):
    lattice, weights = Cartesian(*shape), neurons(shape[0] * shape[1])
    axes = rendered(pictures.draw_map(None, weights, lattice, side=8, scale="map", pixels=None))
    for neuron, (row, column, _) in enumerate(lattice.positions()):
        assert np.array_equal(shown_cell(axes, row, column), trimmed(weights[neuron, 0], 8))
    # the first lattice index counts downwards, the second to the right
    assert axes.get_ylim()[0] > axes.get_ylim()[1]
    assert (axes.get_ylabel(), axes.get_xlabel()) == ("bmu_row", "bmu_col")
    assert [text.get_text() for text in axes.get_yticklabels()] == [str(i) for i in range(shape[0])]
    assert axes.get_xticks().tolist() == list(range(shape[1]))


def test_the_first_pixel_row_of_a_neuron_is_at_the_bottom(rendered):
    weights = np.zeros((2, 1, 8, 8), np.float32)
    weights[:, 0, 0] = 1
    axes = rendered(pictures.draw_map(None, weights, Cartesian(1, 2), side=8, scale="map", pixels=None))
    canvas, extent = image_of(axes).get_array(), image_of(axes).get_extent()
    assert image_of(axes).origin == "upper"
    assert extent[2] > extent[3]
    assert (canvas[-1] == 1).all()
    assert (canvas[:-1] == 0).all()


def test_each_neuron_runs_from_its_faintest_to_its_brightest_pixel(own_axes, rendered):
    weights = neurons(6) * np.array([1, 10, 100, 0.1, 1, 1]).reshape(6, 1, 1, 1).astype(np.float32)
    axes = own_axes()
    assert pictures.draw_map(axes, weights, Cartesian(2, 3), pixels=None) is axes
    rendered(axes)
    for neuron in range(6):
        plane = trimmed(weights[neuron, 0])
        cell = shown_cell(axes, neuron // 3, neuron % 3)
        np.testing.assert_allclose(cell, style.brightness(plane)(plane), rtol=1e-6)
        assert (cell.min(), cell.max()) == (0, 1)


def test_a_large_map_is_reduced_by_averages(rendered):
    weights = neurons(4, side=64)
    axes = rendered(pictures.draw_map(None, weights, Cartesian(2, 2), side=64, scale="map", pixels=32))
    cell = shown_cell(axes, 1, 0)
    np.testing.assert_allclose(cell, weights[2, 0].reshape(16, 4, 16, 4).mean(axis=(1, 3)), atol=1e-5)


def test_channels_and_depths(rendered):
    weights, lattice = neurons(12, channels=2), Cartesian(2, 2, 3)
    axes = rendered(pictures.draw_map(None, weights, lattice, channel=1, panel=2, scale="map", pixels=None))
    assert np.array_equal(shown_cell(axes, 1, 0), trimmed(weights[10, 1]))
    assert "channel 1" in axes.get_title(loc="left")
    assert "depth 2" in axes.get_title(loc="left")


def test_a_line_of_neurons_is_folded_and_its_end_is_white(rendered):
    weights = neurons(11)
    axes = rendered(pictures.draw_map(None, weights, Cartesian(11), scale="map", pixels=None))
    assert np.array_equal(shown_cell(axes, 1, 2), trimmed(weights[10, 0]))
    (blank,) = axes.patches
    assert (blank.get_x(), blank.get_y(), blank.get_width()) == (2.5, 0.5, 5)
    assert axes.get_xticks().size == 0


def test_hexagonal_neurons_are_cut_out_at_their_cells(rendered):
    lattice, weights = Hexagonal(5), neurons(19, side=13)
    axes = rendered(pictures.draw_map(None, weights, lattice, side=9, scale="map"))
    images = axes.get_images()
    assert len(images) == 19
    for neuron, (image, (row, column, _)) in enumerate(zip(images, lattice.positions(), strict=True)):
        assert np.array_equal(image.get_array(), trimmed(weights[neuron, 0], 9))
        left, right, bottom, top = image.get_extent()
        assert (left + right) / 2 == pytest.approx(column + (row - 2) / 2)
        assert (bottom + top) / 2 == pytest.approx(row * np.sqrt(3) / 2)
        assert image.origin == "lower"
        assert bottom > top  # of an axis that counts downwards
        assert image.get_clip_path() is not None


# --- values ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3, 3), (2, 7), (7, 2)])
def test_values_lie_at_their_row_and_column(own_axes, rendered, shape):
    lattice, values = Cartesian(*shape), np.arange(shape[0] * shape[1], dtype=float)
    values[3] = np.nan
    axes = own_axes()
    assert pictures.draw_values(axes, values, lattice, label="counts", number_format=".0f") is axes
    rendered(axes)
    table = image_of(axes).get_array()
    assert table.shape == shape
    assert np.ma.getmaskarray(table).sum() == 1
    for n, (row, column, _) in enumerate(lattice.positions()):
        assert np.ma.is_masked(table[row, column]) if n == 3 else table[row, column] == n
    written = {(t.get_position()[1], t.get_position()[0]): t.get_text() for t in axes.texts}
    assert written[tuple(lattice.positions()[4, :2])] == "4"
    assert written[tuple(lattice.positions()[3, :2])] == ""
    assert to_hex(image_of(axes).cmap.get_bad()) == style.MISSING
    assert axes.figure.axes[1].get_ylabel() == "counts"


def test_hexagonal_values_are_polygons_in_the_lattices_order(rendered):
    lattice, values = Hexagonal(5), np.ma.masked_equal(np.arange(19.0), 7)
    axes = rendered(pictures.draw_values(None, values, lattice, number_format=".0f"))
    (cells,) = (found for found in axes.collections if isinstance(found, PolyCollection))
    assert cells.get_array().tolist() == values.tolist()
    centres = np.array([path.vertices[:6].mean(axis=0) for path in cells.get_paths()])
    position = lattice.positions()
    expected = np.stack([position[:, 1] + (position[:, 0] - 2) / 2, position[:, 0] * np.sqrt(3) / 2], axis=1)
    np.testing.assert_allclose(centres, expected, atol=1e-9)
    neighbours = np.linalg.norm(centres[:, None] - centres[None], axis=2)
    assert np.array_equal(lattice.distances() == 1, np.abs(neighbours - 1) < 1e-9)
    low, high = axes.get_ylim()[::-1]
    assert low < min(path.vertices[:, 1].min() for path in cells.get_paths()) + 1e-9
    assert high > max(path.vertices[:, 1].max() for path in cells.get_paths()) - 1e-9


def test_hits_say_how_many_and_leave_the_empty_grey(rendered):
    hits = np.array([5, 0, 7, 1, 0, 2])
    axes = rendered(pictures.draw_hits(None, hits, Cartesian(2, 3)))
    assert image_of(axes).get_array().tolist() == [[5, None, 7], [1, None, 2]]
    assert axes.get_title(loc="left") == "Hit map: 15 sources, 2 neurons without any (grey)"
    assert image_of(axes).norm.vmin == 0


@pytest.mark.parametrize("draw", [pictures.draw_u_matrix, pictures.draw_coherence])
def test_other_quantities(rendered, draw):
    values = np.array([0.5, np.nan, 0.25, 1.0])
    axes = rendered(draw(None, values, Cartesian(2, 2)))
    assert image_of(axes).get_array().tolist() == [[0.5, None], [0.25, 1.0]]
    assert axes.get_title(loc="left")


@pytest.mark.parametrize("values", [np.full(4, np.nan), np.full(4, 3.0)])
def test_nothing_and_all_alike_can_be_drawn(rendered, values):
    axes = rendered(pictures.draw_values(None, values, Cartesian(2, 2)))
    assert image_of(axes).norm.vmax > image_of(axes).norm.vmin


# --- labels ---------------------------------------------------------------------------------------


def test_labels_have_their_colours_and_a_legend_that_counts(rendered):
    labels = ["FRII", "FRI", None, "FRI", "", float("nan")]
    axes = rendered(pictures.draw_labels(None, labels, Cartesian(2, 3)))
    assert image_of(axes).get_array().tolist() == [[1, 0, None], [0, None, None]]
    words = [text.get_text() for text in axes.get_legend().get_texts()]
    assert words == ["FRI (2)", "FRII (1)", "no label (3)"]
    colours = [to_hex(patch.get_facecolor()) for patch in axes.get_legend().get_patches()]
    found = image_of(axes).to_rgba(image_of(axes).get_array())
    assert to_hex(found[0, 1]) == colours[0] == style.CATEGORIES[0]
    assert to_hex(found[0, 0]) == colours[1]


def test_names_fix_order_and_colour(rendered):
    axes = rendered(pictures.draw_labels(None, ["b", "b", "c", "b"], Cartesian(2, 2), names=["a", "b", "c"]))
    assert image_of(axes).get_array().tolist() == [[1, 1], [2, 1]]
    with pytest.raises(ReadingError, match="'z'"):
        pictures.draw_labels(None, ["b", "z", "c", "b"], Cartesian(2, 2), names=["a", "b", "c"])


def test_more_labels_than_colours_are_numbered(rendered):
    labels = [f"k{i:02d}" for i in range(19)]
    axes = rendered(pictures.draw_labels(None, labels, Hexagonal(5)))
    assert [text.get_text() for text in axes.texts] == [str(i + 1) for i in range(19)]
    assert axes.get_legend().get_texts()[18].get_text() == "19  k18 (1)"


def test_counts_of_labels_have_a_lattice_each(own_axes, rendered):
    counts = np.array([[1, 0], [2, 3], [0, 0], [0, 9]])
    axes = own_axes(1, 2)
    found = pictures.draw_label_counts(axes, counts, ["a", "b"], Cartesian(2, 2))
    assert found[0] is axes[0, 0]
    rendered(found)
    assert image_of(found[0]).get_array().tolist() == [[1, 2], [None, None]]
    assert image_of(found[1]).get_array().tolist() == [[None, 3], [None, 9]]
    assert found[1].get_title(loc="left") == "b: 12 sources"
    rendered(pictures.draw_label_counts(None, counts / 12, ["a", "b"], Cartesian(2, 2), label="share"))


# --- refusals and state ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pictures.draw_map(None, neurons(5), Cartesian(2, 3)), "5 neurons"),
        (lambda: pictures.draw_map(None, neurons(6), Cartesian(2, 3), channel=1), "channel 1"),
        (lambda: pictures.draw_map(None, neurons(6), Cartesian(2, 3), panel=1), "panel 1"),
        (lambda: pictures.draw_map(None, neurons(6), Cartesian(2, 3), scale="both"), "'both'"),
        (lambda: pictures.draw_map(None, neurons(6), Cartesian(2, 3), stretch="cube"), "'cube'"),
        (lambda: pictures.draw_values(None, np.zeros(7), Cartesian(2, 3)), "7 neurons"),
        (lambda: pictures.draw_labels(None, ["a"], Cartesian(2, 3)), "1 neurons"),
        (lambda: pictures.draw_label_counts(None, np.zeros((6, 2)), ["a"], Cartesian(2, 3)), "1 labels"),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ReadingError, match=message):
        call()


def test_pictures_need_no_pyplot():
    code = (
        "import sys, numpy as np\n"
        "from skysom.engine import Cartesian\n"
        "from skysom.jobs.pictures import draw_hits, sky_axes\n"
        "from skysom.storage.fits_export import source_wcs\n"
        "draw_hits(None, np.arange(4), Cartesian(2, 2)).figure.savefig('/dev/null', format='png')\n"
        "sky_axes(None, source_wcs(10, 20, 8, 1.0)).figure.savefig('/dev/null', format='png')\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
