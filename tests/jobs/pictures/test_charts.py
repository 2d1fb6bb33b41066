"""Charts and preprocessing panels: the numbers in the artists are those that were given."""

import numpy as np
import pytest

from skysom.engine.errors import PreprocessError, ReadingError
from skysom.engine.preprocess import preprocess
from skysom.jobs import pictures

STEPS = [
    ("noise", {}),
    ("signal_to_noise_mask", {"threshold": 3.0}),
    ("islands", {"minimum_pixels": 4}),
    ("transfer", {"function": "sqrt"}),
    ("min_max", {}),
]


def source(side=40):
    rng, (y, x) = np.random.default_rng(1), np.mgrid[:side, :side]
    image = rng.normal(0, 1, (side, side)) + 40 * np.exp(-((y - 20) ** 2 + (x - 18) ** 2) / 12)
    image[0, :5] = np.nan
    return image[None].astype(np.float32)


def title_of(axes):
    return axes.get_title(loc="left")


# --- preprocessing --------------------------------------------------------------------------------


def test_stages_are_those_of_the_chain():
    image = source()
    stages = pictures.preparation_stages(image, STEPS)
    assert len(stages) == len(STEPS) + 2
    assert np.array_equal(stages[0].image, image, equal_nan=True)
    for count, stage in enumerate(stages[1:-1], start=1):
        part = preprocess(image[None], STEPS[:count])
        kept = ~np.isnan(stage.image)
        assert np.array_equal(kept, part.mask[0])
        assert np.array_equal(stage.image[kept], part.images[0][kept])
    assert np.array_equal(stages[-1].image, preprocess(image[None], STEPS).images[0])
    assert stages[2].kept < 0.2 < stages[1].kept
    assert np.isfinite(stages[1].noise).all()


def test_panels_show_every_stage(own_axes, rendered):
    stages = pictures.preparation_stages(source(), STEPS)
    axes = own_axes(1, 7)
    found = pictures.draw_preparation(axes, stages, unit="Jy/beam")
    assert list(found) == list(axes[0])
    rendered(found)
    for where, stage in zip(found, stages, strict=True):
        assert np.array_equal(where.get_images()[0].get_array().filled(np.nan), stage.image[0], equal_nan=True)
    assert title_of(found[0]) == "as observed"
    assert title_of(found[2]) == "signal to noise mask (threshold 3)"
    assert title_of(found[-1]) == "what the map sees"
    assert "% of pixels" in found[2].get_xlabel()
    assert len(rendered(pictures.draw_preparation(None, stages))) == 7


def test_a_failed_image_says_why(rendered):
    stages = pictures.preparation_stages(source() * 0 + 1, STEPS[:1])
    axes = rendered(pictures.draw_preparation(None, stages))
    assert "failed: constant" in axes[-1].get_xlabel()
    with pytest.raises(PreprocessError, match="no step"):
        pictures.preparation_stages(source(), [("nothing", {})])
    with pytest.raises(ReadingError, match="channel 1"):
        pictures.draw_preparation(None, stages, channel=1)


# --- confusion ------------------------------------------------------------------------------------


def test_true_classes_go_down_and_predicted_ones_across(own_axes, rendered):
    matrix = np.array([[8, 2, 0], [1, 4, 0], [0, 0, 0]])
    axes = own_axes()
    assert pictures.draw_confusion(axes, matrix, ["a", "b", "c"]) is axes
    rendered(axes)
    shown = axes.get_images()[0].get_array().filled(np.nan)
    np.testing.assert_allclose(shown, [[0.8, 0.2, 0], [0.2, 0.8, 0], [np.nan] * 3])
    words = {(t.get_position()[1], t.get_position()[0]): t.get_text() for t in axes.texts}
    assert words[0, 1] == "2\n20 %"
    assert words[1, 0] == "1\n20 %"
    assert words[2, 2] == "0"
    assert title_of(axes) == "80.0 % of 15 sources as labelled"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted", "true")
    assert axes.get_images()[0].origin == "upper"
    assert [t.get_text() for t in axes.get_yticklabels()] == ["a", "b", "c"]


def test_counts_that_are_means_keep_a_decimal(rendered):
    axes = rendered(pictures.draw_confusion(None, np.array([[1.5, 2], [0, 3]]), ["x", "a long name"], normalise=False))
    assert [t.get_text() for t in axes.texts] == ["1.5", "2", "0", "3"]
    assert np.array_equal(axes.get_images()[0].get_array(), [[1.5, 2], [0, 3]])
    rendered(pictures.draw_confusion(None, np.zeros((2, 2), int), ["x", "y"]))


# --- curves ---------------------------------------------------------------------------------------


def test_learning_curves_have_bands_and_baselines(rendered):
    labels, mean, spread = np.array([10, 100, 1000]), np.array([0.6, 0.7, 0.8]), np.array([0.1, 0.05, 0.02])
    curves = {"forest": (mean, spread), "knn": (mean - 0.1, spread)}
    axes = rendered(pictures.draw_learning_curve(None, labels, curves, baselines={"majority": 0.52}))
    line = next(found for found in axes.lines if found.get_label() == "forest")
    assert line.get_ydata().tolist() == mean.tolist()
    low, high = axes.collections[0].get_paths()[0].get_extents().get_points()[:, 1]
    assert (low, high) == pytest.approx((0.5, 0.82))
    assert axes.texts[0].get_text() == "majority 0.52"
    assert axes.get_xscale() == "log"
    styles = {line.get_linestyle() for line in axes.lines[:2]} | {line.get_marker() for line in axes.lines[:2]}
    assert len(styles) == 4  # told apart without colour, too


def test_training_curves_mark_stages_and_rest(own_axes, rendered):
    seen, distance = np.array([10, 20, 30, 40]), np.array([4.0, 3, 2.5, 2.4])
    axes = own_axes()
    assert pictures.draw_training(axes, seen, distance, stage=np.array([0, 0, 1, 1]), stopped_at=40) is axes
    rendered(axes)
    assert axes.lines[0].get_xydata().tolist() == [[10, 4], [20, 3], [30, 2.5], [40, 2.4]]
    spans = [(patch.get_x(), patch.get_x() + patch.get_width()) for patch in axes.patches]
    assert spans == [(10, 20), (20, 40)]
    assert [text.get_text() for text in axes.texts] == ["stage 1", "stage 2", "no longer changes"]


def test_distances_leave_out_what_was_not_mapped(rendered):
    distance = np.array([1.0, 1, 2, 3, np.nan, 3])
    rows = np.array([True, False, True, True, True, False])
    axes = rendered(pictures.draw_distances(None, distance, groups={"labelled": rows}, marks={"median": 2.0}, bins=4))
    whole, group = (patch.get_data() for patch in axes.patches)
    assert whole.values.tolist() == [2, 0, 1, 2]
    assert group.values.tolist() == [1, 0, 1, 1]
    assert np.array_equal(whole.edges, group.edges)
    assert title_of(axes) == "Distances of 5 sources (1 not mapped)"
    assert axes.texts[0].get_text().strip() == "median 2"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pictures.draw_confusion(None, np.zeros((2, 3)), ["a", "b"]), r"\(2, 3\)"),
        (lambda: pictures.draw_learning_curve(None, [1, 2], {"a": ([1], [1])}), "curve 'a'"),
        (lambda: pictures.draw_training(None, np.arange(3), np.arange(4)), "shapes"),
        (lambda: pictures.draw_distances(None, np.full(3, np.nan)), "none of 3"),
        (lambda: pictures.draw_distances(None, np.ones(3), groups={"g": np.ones(2, bool)}), "group 'g'"),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ReadingError, match=message):
        call()
