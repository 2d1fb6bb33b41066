"""Pictures of sources: outlines lie where the projection puts a mask, and everything is drawn and told of."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.path import Path

from skysom.engine.collation.projection import Frames, bits_of_offsets
from skysom.engine.errors import ReadingError
from skysom.jobs.pictures.grouping import MaskOnSky, SourcePicture, draw_components, draw_grouping, mask_on_sky
from skysom.jobs.pictures.style import any_letters

SCALE = (2.0, 3.0)


def disc(side, row, column, radius):
    y, x = np.indices((side, side))
    return np.hypot(y - row, x - column) <= radius


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10_000), angle=st.floats(0, 6.28), flip=st.integers(0, 1), side=st.sampled_from([20, 21]),
)  # fmt: skip
def test_an_outline_encloses_what_the_projection_puts_under_the_mask(seed, angle, flip, side):
    rng = np.random.default_rng(seed)
    mask = disc(side, *rng.uniform(6, 14, 2), rng.uniform(2, 5))
    lines = mask_on_sky(mask, np.float32(angle), flip, SCALE, (5.0, -7.0))
    assert len(lines) == 1
    offsets = rng.uniform(-22, 22, (400, 2))
    frames = Frames(np.zeros(400), np.full(400, angle), np.full(400, flip))
    x, y = -offsets[:, 0] / SCALE[0], offsets[:, 1] / SCALE[1]
    under = bits_of_offsets(x, y, np.arange(400), frames, mask[None].astype(np.uint64)) != 0
    inside = Path(lines[0] - [5.0, -7.0]).contains_points(offsets)
    # outlines cut the corners of pixels by an eighth of their side
    assert (inside != under).sum() <= 6
    assert (inside & under).sum() > 3


def picture(members=3, hosts=2, **more):
    rng = np.random.default_rng(1)
    image = rng.normal(0, 1, (60, 60))
    image[30:34, 28:32] += 30
    mask = disc(21, 10, 10, 5)
    masks = [
        MaskOnSky("related", 0, mask_on_sky(mask, 0.3, 1, SCALE), True),
        MaskOnSky("related", 0, mask_on_sky(mask, 1.3, 0, SCALE, (9, 9)), False),
        MaskOnSky("host", 1, mask_on_sky(disc(21, 12, 9, 2), 0.3, 1, SCALE), True),
    ]
    count = members if isinstance(members, int) else len(members)
    given = {
        "image": image,
        "pixel_arcsec": 1.5,
        "members": rng.uniform(-20, 20, (count, 2)) if isinstance(members, int) else members,
        "representative": 0,
        "isolated": np.arange(count) == 2,
        "neighbours": np.array([[10.0, -20.0], [400.0, 0.0]]),
        "masks": masks,
        "hosts": rng.uniform(-9, 9, (hosts, 2)),
        "other_hosts": np.array([[8.0, 8.0]]),
    }
    return SourcePicture(**given | more)


def legend_of(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_everything_is_told_of_in_the_legend(rendered):
    axes = rendered(draw_grouping(None, picture(), title="Source 3"))
    assert axes.get_title(loc="left") == "Source 3"
    assert legend_of(axes) == [
        "mask “related”",
        "mask “host”",
        "thin: masks of other members",
        "of other sources (1)",
        "candidates by other masks (1)",
        "host candidates, by rank (2)",
        "member (1)",
        "member whose mask gives the hosts (1)",
        "isolated (1)",
    ]
    written = [text.get_text() for text in axes.texts]
    assert {"1", "2", "3", "N", "E", "20″"} <= set(written)


def test_without_hosts_the_star_is_of_the_mask_that_counts(rendered):
    said = legend_of(rendered(draw_grouping(None, picture(hosts=0))))
    assert "member whose mask counts (1)" in said
    assert not any("hosts" in text for text in said)


def test_faint_hosts_show_beside_a_bright_star(own_axes):
    image = np.random.default_rng(2).normal(0, 1, (80, 80))
    image[40:42, 40:42] = 10  # a host
    image[4:14, 4:14] = 20_000  # a star
    shown = draw_grouping(own_axes(), picture(image=image)).images[0]
    assert shown.norm(10.0) > 0.5
    assert shown.norm(1.0) < 0.5
    image[34:48, 50:64] = 20_000  # near by as well
    assert draw_grouping(own_axes(), picture(image=image)).images[0].norm(10.0) > 0.2


def test_candidates_by_other_masks_are_seen_around_members(own_axes):
    axes = draw_grouping(own_axes(), picture(other_hosts=picture().members))
    sizes = [float(points.get_sizes()[0]) for points in axes.collections if len(points.get_offsets()) == 3]
    members = [float(points.get_sizes()[0]) for points in axes.collections if points.get_zorder() == 4]
    assert max(sizes) == 150
    assert 46 in members


@pytest.mark.parametrize("word", ["$x_{", "$\\nothing$", "a_$b$", "$"])
def test_labels_and_titles_are_no_mathematics(rendered, word):
    masks = [MaskOnSky(f"{word}\x1b\n", 0, mask_on_sky(disc(21, 10, 10, 5), 0.3, 1, SCALE), True)]
    axes = rendered(draw_grouping(None, picture(masks=masks), title=f"{word} {word}"))
    assert legend_of(axes)[0] == f"mask “{word}”"
    assert axes.get_title(loc="left") == f"{word} {word}"


def test_letters_that_no_font_has_are_drawn_without_a_warning(rendered):
    masks = [MaskOnSky("星", 0, mask_on_sky(disc(21, 10, 10, 5), 0.3, 1, SCALE), True)]
    axes = draw_grouping(None, picture(masks=masks))
    with any_letters():
        rendered(axes)
    with any_letters(), pytest.raises(UserWarning, match="another"):
        warnings.warn("another", UserWarning, stacklevel=1)


def test_places_are_where_they_belong(own_axes):
    axes = draw_grouping(own_axes(), picture(members=np.array([[15.0, 30.0]]), isolated=np.array([False])))
    star = axes.collections[-1].get_offsets()[0]
    assert star.tolist() == [29.5 - 10, 29.5 + 20]  # east is to the left, north is up
    assert axes.get_xlim() == (-0.5, 59.5)


def test_one_legend_for_several_channels(own_axes, rendered):
    axes = own_axes(1, 2)
    pictures = [picture(masks=picture().masks[:2]), picture(masks=picture().masks[2:])]
    draw_grouping(axes[0, 0], pictures[0], legend=())
    draw_grouping(axes[0, 1], pictures[1], legend=pictures)
    rendered(axes)
    assert axes[0, 0].get_legend() is None
    assert legend_of(axes[0, 1])[:2] == ["mask “related”", "mask “host”"]


def test_without_image_masks_hosts_or_neighbours(rendered):
    nothing = np.empty((0, 2))
    bare = picture(
        1, 0, image=np.full((40, 40), np.nan), masks=(), neighbours=nothing, other_hosts=nothing, representative=-1
    )
    assert legend_of(rendered(draw_grouping(None, bare))) == ["member (1)"]


def test_many_members_are_dots(rendered):
    axes = rendered(draw_grouping(None, picture(members=30, isolated=np.zeros(30, bool))))
    numbers = {text.get_text() for text in axes.texts}
    assert "9" in numbers
    assert "10" not in numbers


def test_members_and_flags_that_do_not_fit():
    with pytest.raises(ReadingError, match="0 members"):
        draw_grouping(None, picture(members=0))
    with pytest.raises(ReadingError, match="2 flags"):
        draw_grouping(None, picture(isolated=np.zeros(2, bool)))


def test_numbers_of_components(rendered):
    axes = rendered(draw_components(None, np.array([0, 900, 40, 0, 3, 1]), title="Sources"))
    assert [text.get_text() for text in axes.texts] == ["900", "40", "3", "1"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "2", "3", "4", "5+"]
    with pytest.raises(ReadingError, match="above 0"):
        draw_components(None, np.zeros(4))
