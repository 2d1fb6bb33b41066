"""Pictures of sources and neurons: what each panel shows, on plain axes and on the sky."""

import numpy as np
import pytest

from skysom.engine import Geometry
from skysom.engine.errors import ReadingError
from skysom.engine.reading.frames import to_image_frame, to_neuron_frame, transform_pixel_map, trimmed
from skysom.jobs import pictures
from skysom.jobs.pictures import style
from skysom.jobs.pictures.masks import outline
from skysom.storage.fits_export import moved_wcs, source_wcs

GEOMETRY = Geometry.derive(16, 24, True)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).random(shape).astype(np.float32)


def data_of(axes):
    return axes.get_images()[0].get_array()


# --- one image ------------------------------------------------------------------------------------


def test_an_image_has_its_first_row_at_the_bottom_and_missing_pixels_grey(own_axes, rendered):
    image = noise(9, 7)
    image[2, 3] = np.nan
    axes = own_axes()
    assert pictures.draw_image(axes, image, title="seen", unit="mJy/beam", pixel_scale_arcsec=1.8) is axes
    rendered(axes)
    artist = axes.get_images()[0]
    assert np.array_equal(artist.get_array().filled(np.nan), image, equal_nan=True)
    assert artist.origin == "lower"
    assert axes.get_ylim()[1] > axes.get_ylim()[0]
    assert axes.get_title(loc="left") == "seen"
    assert axes.figure.axes[1].get_ylabel() == "mJy/beam"
    assert (artist.norm.vmin, artist.norm.vmax) == (np.nanmin(image), np.nanmax(image))


@pytest.mark.parametrize("image", [np.full((4, 4), np.nan), np.ones((4, 4)), np.array([[np.inf, 1], [2, -np.inf]])])
def test_images_without_a_range_can_be_drawn(rendered, image):
    rendered(pictures.draw_image(None, image))


def test_brightness_follows_the_background():
    dark, bright = np.zeros((9, 9)), np.full((9, 9), 0.6)
    dark[4, 4] = bright[4, 4] = 1
    bright[0, 0] = 0
    assert style.brightness(dark).gamma == 0.5
    assert style.brightness(bright).gamma == 1
    assert style.brightness(dark, "linear")(0.25) == 0.25
    assert style.brightness(dark, "sqrt")(0.25) == pytest.approx(0.5)
    assert 0.5 < style.brightness(dark, "asinh")(0.25) < 1


@pytest.mark.parametrize("stretch", ["auto", "linear", "asinh"])
def test_numbers_beside_the_colour_bar_stand_at_their_values(own_axes, rendered, stretch):
    axes = rendered(pictures.draw_image(own_axes(), noise(9, 9) ** 4 * 0.7 + 0.02, stretch=stretch))
    norm, bar = axes.get_images()[0].norm, axes.figure.axes[1]
    values = np.array([tick.get_loc() for tick in bar.yaxis.get_major_ticks()])
    place = bar.transAxes.inverted().transform(bar.transData.transform([(0, value) for value in values]))[:, 1]
    seen = (place > -1e-6) & (place < 1 + 1e-6)
    assert seen.sum() >= 3
    assert (norm.vmin <= values[seen]).all()
    assert (values[seen] <= norm.vmax).all()
    np.testing.assert_allclose(place[seen], norm(values[seen]), atol=1e-6)


def test_the_scale_bar_has_a_round_length(own_axes):
    axes = pictures.scale_bar(own_axes(), (150, 150), 1.8)
    line = axes.lines[-1].get_xdata()
    assert axes.texts[0].get_text() == "1′"
    assert line[1] - line[0] == pytest.approx(60 / 1.8)


def test_a_neuron_shows_its_middle(rendered):
    neuron = noise(23, 23)
    assert np.array_equal(data_of(rendered(pictures.draw_neuron(None, neuron))), trimmed(neuron))
    assert data_of(pictures.draw_neuron(None, neuron, side=11)).shape == (11, 11)


# --- both frames ----------------------------------------------------------------------------------


@pytest.mark.parametrize("t", [0, 5, 6, 29, 47])
def test_four_panels_show_either_in_the_frame_of_the_other(rendered, t):
    image, neuron = noise(2, 16, 16), noise(2, 23, 23, seed=1)
    axes = rendered(pictures.draw_frames(None, image, neuron, t, GEOMETRY, channels=["a", "b"], distance=1.5))
    assert axes.shape == (2, 4)
    turned = trimmed(to_neuron_frame(image[None], t, GEOMETRY)[0], 16)
    back = to_image_frame(neuron[None], t, GEOMETRY)[0]
    for row in (0, 1):
        expected = (image[row], trimmed(neuron[row], 16), turned[row], back[row])
        for where, plane in zip(axes[row], expected, strict=True):
            np.testing.assert_allclose(data_of(where), plane, atol=1e-6)
        norms = [where.get_images()[0].norm for where in axes[row]]
        assert norms[0] is norms[2]
        assert norms[1] is norms[3]
        assert axes[row, 0].get_ylabel() == "ab"[row]
    assert ("mirrored" in axes[-1, 2].get_xlabel()) == (t >= 24)
    assert f"turned {15 * (t % 24)}°" in axes[-1, 2].get_xlabel()
    assert "distance 1.5" in axes[-1, 2].get_xlabel()


def test_frames_go_on_given_axes_and_may_be_cut_to_the_middle(own_axes, rendered):
    image, neuron = noise(1, 16, 16), noise(1, 23, 23)
    axes = own_axes(1, 4)
    found = pictures.draw_frames(axes, image, neuron, 3, GEOMETRY, side=9)
    assert found[0, 3] is axes[0, 3]
    rendered(found)
    # nine is odd, sixteen even: eight keep the source's own pixels
    assert np.array_equal(data_of(axes[0, 0]), image[0, 4:12, 4:12])
    assert {data_of(where).shape for where in axes.flat} == {(8, 8)}


def test_members_are_turned_onto_their_neuron(rendered):
    images, neuron, t = noise(4, 1, 16, 16), noise(1, 23, 23), np.array([0, 7, 24, 40])
    axes = rendered(
        pictures.draw_members(
            None,
            images,
            t,
            GEOMETRY,
            neuron=neuron,
            columns=3,
            names=list("abcd"),
            distance=np.array([1, 2, np.nan, 4]),
        )
    )
    assert axes.size == 6
    assert np.array_equal(data_of(axes[0]), trimmed(neuron[0], 16))
    turned = trimmed(to_neuron_frame(images[:, 0], t, GEOMETRY), 16)
    for i in range(4):
        assert np.array_equal(data_of(axes[i + 1]), turned[i])
    assert [where.get_title(loc="left") for where in axes[1:5]] == ["a, d = 1", "b, d = 2", "c", "d, d = 4"]
    assert not axes[5].axison


def test_the_worst_are_shown_above_their_neurons(rendered):
    images, neurons, t = noise(3, 2, 16, 16), noise(3, 2, 23, 23, seed=2), np.array([1, 30, 12])
    axes = rendered(pictures.draw_worst(None, images, neurons, t, np.array([3.0, 2, 1]), GEOMETRY, channel=1))
    back = to_image_frame(neurons[:, 1], t, GEOMETRY)
    for i in range(3):
        assert np.array_equal(data_of(axes[0, i]), images[i, 1])
        assert np.array_equal(data_of(axes[1, i]), back[i])


# --- on the sky -----------------------------------------------------------------------------------


def test_axes_on_the_sky_name_their_coordinates_and_keep_the_pixels(rendered):
    image, wcs = noise(20, 20), source_wcs(150, 2, 20, 1.8)
    image[3] = np.nan
    axes = pictures.sky_axes(None, wcs)
    assert pictures.draw_image(axes, image, title="sky") is axes
    marked = pictures.mark_sources(axes, [150.0, 150.002], [2.0, 2.001], names=["here", "there"])
    rendered(marked)
    assert np.array_equal(data_of(axes).filled(np.nan), image, equal_nan=True)
    assert [coordinate.get_axislabel() for coordinate in axes.coords] == ["right ascension", "declination"]
    column, row = axes.texts[0].xy
    assert (column, row) == pytest.approx((9.5, 9.5), abs=1e-6)
    assert axes.get_xlim() == pytest.approx((-0.5, 19.5))
    # north is up and east to the left
    column, row = axes.texts[1].xy
    assert column < 9.5 < row


def test_a_mark_stays_on_its_source_in_the_neurons_frame(rendered):
    t, image = 24 + 5, np.zeros((1, 16, 16), np.float32)
    image[0, 4, 10] = 1
    wcs = source_wcs(150, 2, 16, 1.8)
    sky = wcs.pixel_to_world(10, 4)
    axes = pictures.sky_axes(None, moved_wcs(wcs, transform_pixel_map(t, GEOMETRY).affine()), grid=False)
    turned = to_neuron_frame(image, t, GEOMETRY)[0]
    pictures.draw_image(axes, turned)
    rendered(pictures.mark_sources(axes, sky.ra.deg, sky.dec.deg, names=["x"]))
    row, column = np.unravel_index(turned.argmax(), turned.shape)
    assert np.hypot(axes.texts[0].xy[0] - column, axes.texts[0].xy[1] - row) < 0.8


# --- masks ----------------------------------------------------------------------------------------


def test_outlines_run_along_the_edges_of_the_pixels():
    mask = np.zeros((8, 8), bool)
    mask[2:5, 3:7] = True
    (line,) = outline(mask)
    np.testing.assert_allclose(line[0], line[-1])
    np.testing.assert_allclose([line.min(axis=0), line.max(axis=0)], [[2.5, 1.5], [6.5, 4.5]], atol=1e-9)
    mask[3, 5] = False
    assert len(outline(mask)) == 2
    assert outline(np.ones((3, 3), bool))[0].max() == pytest.approx(2.5)


def test_masks_have_outlines_and_a_legend_with_their_pixels(own_axes, rendered):
    neuron, masks = noise(10, 10), np.zeros((3, 10, 10), bool)
    masks[0, 1:4, 1:4] = True
    masks[2, 2:8, 2:8] = True
    axes = own_axes()
    assert pictures.draw_masks(axes, neuron, masks, ["host", "empty", "sidelobe"]) is axes
    rendered(axes)
    assert np.array_equal(data_of(axes), neuron)
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["host (9 pixels)", "sidelobe (36 pixels)"]
    assert [lines.get_label() for lines in axes.collections] == ["host", "sidelobe"]
    segment = np.concatenate(axes.collections[1].get_segments())
    np.testing.assert_allclose([segment.min(), segment.max()], [1.5, 7.5], atol=1e-9)
    assert axes.get_xlim() == (-0.5, 9.5)


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pictures.draw_image(None, noise(1, 4, 4)), r"\(1, 4, 4\)"),
        (lambda: pictures.draw_frames(None, noise(2, 16, 16), noise(1, 23, 23), 0, GEOMETRY), r"\(1, 23, 23\)"),
        (lambda: pictures.draw_frames(None, noise(1, 16, 16), noise(1, 23, 23), 48, GEOMETRY), "0 to 47"),
        (lambda: pictures.draw_frames(None, noise(1, 16, 16), noise(1, 23, 23), 0, GEOMETRY, side=17), "2 to 16"),
        (lambda: pictures.draw_frames([1, 2], noise(1, 16, 16), noise(1, 23, 23), 0, GEOMETRY), "2 axes"),
        (lambda: pictures.draw_members(None, noise(2, 1, 16, 16), [1], GEOMETRY), "'transforms': 1"),
        (lambda: pictures.draw_members(None, noise(1, 1, 16, 16), [1], GEOMETRY, names=["a", "b"]), "'names': 2"),
        (lambda: pictures.draw_members([1], noise(2, 1, 16, 16), [1, 2], GEOMETRY), "1 axes for 2"),
        (lambda: pictures.draw_worst(None, noise(2, 1, 16, 16), noise(1, 1, 23, 23), [1], [2], GEOMETRY), "1 neurons"),
        (lambda: pictures.draw_masks(None, noise(4, 4), np.zeros((1, 5, 5)), ["a"]), r"\(1, 5, 5\)"),
        (lambda: pictures.draw_masks(None, noise(4, 4), np.zeros((1, 4, 4)), ["a", "b"]), "2 labels"),
        (lambda: pictures.mark_sources(style.new_axes(None), 1, 2), "sky_axes"),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ReadingError, match=message):
        call()


def test_positions_that_are_not_as_many_are_refused():
    axes = pictures.sky_axes(None, source_wcs(150, 2, 20, 1.8))
    with pytest.raises(ReadingError, match="2 right ascensions, 1 declinations"):
        pictures.mark_sources(axes, [1, 2], [3])
    from astropy.wcs import WCS

    with pytest.raises(ReadingError, match="plain axes"):
        pictures.sky_axes(None, WCS(naxis=2))
