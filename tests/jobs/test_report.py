"""The report on outputs of many kinds: complete, without history, all failed, huge maps, hostile ids."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from skysom.engine import Cartesian, Hexagonal, Som, best_match
from skysom.engine.lattice import lattice_to_dict
from skysom.jobs import report, report_data, report_figures
from skysom.jobs.report import write_report
from skysom.storage.errors import SurveyError
from skysom.storage.status import CODES
from skysom.storage.survey import ArraySpec, Survey

SIDE, NEURON = 24, 34


def shapes(count: int, side: int, channels: int = 1, seed: int = 0) -> np.ndarray:
    """(count, channels, side, side) float32 pictures of ellipses of random orientation and length."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    angle, long = rng.uniform(0, np.pi, (2, count, 1, 1))
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    image = np.exp(-(along**2) / (2 + 10 * long) - across**2 / 3)
    return np.repeat(image[:, None], channels, axis=1).astype(np.float32)


def make_output(
    folder, lattice=None, *, images=150, channels=1, failed=(0, 7), rotations=36, history=True, mapped=True, **options
):
    """An output directory as the jobs leave it; returns it."""
    lattice = lattice or Cartesian(3, 4)
    prepared = shapes(images, SIDE, channels)
    ok = np.setdiff1d(np.arange(images), failed)
    survey = _make_survey(folder, prepared, np.array(failed, int), options.get("ids"))
    weights = shapes(lattice.size, NEURON, channels, seed=1)
    geometry = {"image_side": SIDE, "neuron_side": NEURON, "region_side": 16, "region": "quadratic"}
    geometry |= {"rotations": rotations, "flip": True}
    attrs = {"lattice": lattice_to_dict(lattice), "geometry": geometry, "channels": ["radio", "infrared"][:channels]}
    if options.get("trained", True):
        survey.save_som("main", weights, attrs)
    if mapped:
        _map(survey, prepared, ok, Som(weights, lattice), geometry, options.get("one_neuron", False))
    if history:
        events = [
            {
                "event": "training",
                "training_stage": i // 5,
                "images_seen": 10 * (i % 5 + 1),
                "mean_bmu_distance": 5 - i / 4,
            }
            for i in range(10)
        ]
        events += [{"event": "stage_end", "stage": "map", "seconds": 2.5, "images": images}]
        (folder / "history.jsonl").write_text("\n".join(map(json.dumps, events)) + '\n{"event": "trai')
    pd.DataFrame({"name": ["a"], "bmu": [1]}).to_parquet(folder / "catalogue.parquet")
    return folder


def _make_survey(folder, prepared, failed, ids):
    images, channels = prepared.shape[:2]
    attrs = {"channels": ["radio", "infrared"][:channels], "pixel_scale_arcsec": 1.8, "image_side": SIDE}
    survey = Survey.create(folder / "survey.zarr", images=images, shard_images=64, attrs=attrs)
    status = np.zeros(images, np.uint8)
    status[failed] = np.where(np.arange(len(failed)) % 2, CODES["all_nan"], CODES["no_coverage"])
    names = np.array(ids or [f"source {i}" for i in range(images)], dtype=object)
    columns = {
        "prepared": ("float32", ("channel", "y", "x"), prepared),
        "source_id": ("str", (), names),
        "ra_deg": ("float64", (), np.where(status == 0, 10.0, np.nan)),
        "dec_deg": ("float64", (), np.where(status == 0, -3.0, np.nan)),
        "status": ("uint8", (), status),
        "coverage": ("float32", (), np.where(np.arange(images) % 50 == 1, 0.8, 1.0)),
    }
    for name, (dtype, dims, values) in columns.items():
        spec = ArraySpec(dtype, dims, values.shape[1:], fill="" if dtype == "str" else 0)
        survey.add_image_array(name, spec)[:] = values
    return survey


def _map(survey, prepared, ok, som, geometry, one_neuron):
    rotations, images = geometry["rotations"], len(survey)
    bmu, distance = np.full(images, -1), np.full(images, np.nan)
    turn, flip = np.zeros(images, int), np.zeros(images, bool)
    if len(ok):
        match = best_match(prepared[ok], som, rotations)
        transform = match.transform[np.arange(len(ok)), match.bmu]
        bmu[ok], distance[ok] = (0 if one_neuron else match.bmu), match.bmu_distance
        turn[ok], flip[ok] = transform % rotations, transform >= rotations
    columns = {"bmu": ("int32", bmu), "bmu_distance": ("float32", distance), "bmu_rotation": ("uint16", turn)}
    for name, (dtype, values) in (columns | {"bmu_flip": ("bool", flip)}).items():
        survey.add_image_array(f"mappings/main/{name}", ArraySpec(dtype))[:] = values.astype(dtype)
    survey.group["mappings/main"].attrs.update({"som": "main", "rotations": rotations, "geometry": geometry})


class Checker(HTMLParser):
    """Counts tags, checks that they nest, and collects what is loaded from where."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.sources, self.text, self.ids = [], [], [], [], set()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        values = dict(attrs)
        self.ids.add(values.get("id"))
        self.sources += [values[k] for k in ("src", "href") if k in values]
        if tag not in ("meta", "img", "br", "link"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def check(path) -> Checker:
    checker = Checker()
    checker.feed(path.read_text(encoding="utf-8"))
    assert not checker.open
    assert "script" not in checker.tags
    assert "link" not in checker.tags
    assert all(source.startswith(("data:image/", "#")) for source in checker.sources)
    anchors = {source[1:] for source in checker.sources if source.startswith("#")}
    assert anchors <= checker.ids
    assert path.stat().st_size < 8e6
    return checker


LATTICES = [Cartesian(3, 4), Hexagonal(3), Cartesian(2, 3, 2, periodic=True), Cartesian(5), Cartesian(1)]


@pytest.mark.parametrize("lattice", LATTICES, ids=str)
def test_every_lattice_gives_a_whole_self_contained_page(tmp_path, lattice):
    checker = check(write_report(make_output(tmp_path, lattice)))
    text = " ".join(checker.text)
    assert {"map", "occupation", "members", "distances", "angles", "training", "failures", "run"} <= checker.ids
    assert "150 sources in the catalogue, 148 of them mapped" in text
    assert "No image covers the position" in text
    assert checker.tags.count("svg") == 5 * (2 if lattice.depth > 1 else 1)
    assert [p.name for p in tmp_path.glob("*report*")] == ["report.html"]


def test_each_channel_is_shown(tmp_path):
    text = " ".join(check(write_report(make_output(tmp_path, channels=2))).text)
    assert "radio" in text
    assert "infrared" in text


@pytest.mark.parametrize(
    "options",
    [
        {"history": False},
        {"failed": ()},
        {"failed": range(150)},
        {"failed": range(150), "trained": False, "mapped": False},
        {"mapped": False},
        {"one_neuron": True},
        {"failed": range(1, 150)},
        {"rotations": 1},
        {"rotations": 4},
        {"images": 1, "failed": ()},
    ],
    ids=str,
)
def test_missing_pieces_leave_a_shorter_page(tmp_path, options):
    check(write_report(make_output(tmp_path, **options)))


def test_text_from_files_is_escaped(tmp_path):
    ids = [f'<img src="http://x.org/{i}" onerror=alert(1)>' for i in range(150)]
    path = write_report(make_output(tmp_path, ids=ids), config_text="a = '<b>'", title="M & <i>N</i> $title")
    checker = check(path)
    assert "M & <i>N</i> $title" in checker.text
    assert ids[0] in " ".join(checker.text)


def test_the_image_loader_is_asked_for_few_rows_at_a_time(tmp_path):
    make_output(tmp_path)
    asked = []

    def loader(rows):
        asked.append(list(rows))
        return shapes(len(rows), SIDE)

    check(write_report(tmp_path, image_loader=loader))
    assert max(map(len, asked)) <= 64
    assert not {0, 7} & {row for rows in asked for row in rows}


def test_no_store_is_refused(tmp_path):
    with pytest.raises(SurveyError, match="no survey store"):
        write_report(tmp_path)


def test_a_large_map_stays_bounded(tmp_path):
    checker = check(write_report(make_output(tmp_path, Cartesian(11, 11), images=400, rotations=4)))
    assert len([i for i in checker.ids if i and i.startswith("neuron-")]) == report.GALLERY_NEURONS


def test_statistics_do_not_depend_on_the_blocks(tmp_path, monkeypatch):
    make_output(tmp_path)
    survey = Survey(tmp_path / "survey.zarr")
    whole = report_data.summarise_mapping(survey, "main", 12)
    monkeypatch.setattr(report_data, "BLOCK_ROWS", 64)
    parts = report_data.summarise_mapping(survey, "main", 12)
    bmu = np.asarray(survey["mappings/main/bmu"][:])
    distance = np.asarray(survey["mappings/main/bmu_distance"][:]).astype(float)
    np.testing.assert_array_equal(parts.hits, np.bincount(bmu[bmu >= 0], minlength=12))
    np.testing.assert_array_equal(whole.best, parts.best)
    np.testing.assert_array_equal(whole.worst, parts.worst)
    np.testing.assert_array_equal(parts.worst, np.argsort(-np.nan_to_num(distance, nan=-1), kind="stable")[:12])
    used = np.flatnonzero(parts.hits > 1)
    np.testing.assert_allclose(parts.mean[used], [distance[bmu == i].mean() for i in used])
    np.testing.assert_allclose(parts.std[used], [distance[bmu == i].std() for i in used], atol=1e-6)
    for i in range(12):
        members = set(np.flatnonzero(bmu == i))
        assert set(parts.best[i][parts.best[i] >= 0]) <= members
        assert set(parts.random[i][parts.random[i] >= 0]) <= members - set(parts.best[i])
    assert parts.quantile(0.5) == pytest.approx(np.nanmedian(distance), rel=0.02)
    assert parts.angles.sum() == 148


@pytest.mark.parametrize(("share", "verdict"), [(0.0, "avoided"), (0.125, "flat"), (0.4, "preferred")])
def test_quarter_turns_are_judged(share, verdict):
    rng = np.random.default_rng(0)
    angle = np.where(rng.random(3000) < share, 90 * rng.integers(0, 4, 3000) + rng.integers(-5, 6, 3000), -1)
    elsewhere = 90 * rng.integers(0, 4, 3000) + rng.integers(6, 85, 3000)
    counts = np.bincount(np.where(angle == -1, elsewhere, angle % 360), minlength=360)
    result = report_data.quarter_turns(np.stack([counts, np.zeros(360, int)]))
    assert result.verdict == verdict
    assert result.expected == pytest.approx(44 / 360)


def test_the_note_on_quarter_turns_is_on_the_page(tmp_path):
    make_output(tmp_path)
    Survey(tmp_path / "survey.zarr", "r+")["mappings/main/bmu_rotation"][:] = np.full(150, 9, np.uint16)
    assert "prefer quarter turns" in " ".join(check(write_report(tmp_path)).text)


def test_the_u_matrix_ignores_orientation_and_wraps_where_periodic():
    bar = shapes(1, 32)[0]
    other = np.zeros_like(bar)
    other[:, 10:14, 20:24] = 3.0
    weights = np.stack([bar, np.rot90(bar, axes=(1, 2)), bar[:, ::-1], other])
    geometry = {"rotations": 360, "flip": True}
    open_ = report._u_matrix(weights, Cartesian(1, 4), geometry, 32)
    closed = report._u_matrix(weights, Cartesian(1, 4, periodic=True), geometry, 32)
    assert open_[:2] == pytest.approx([0, 0], abs=1e-3)
    assert open_[3] > 1
    assert closed[0] == pytest.approx(open_[3] / 2, rel=1e-3)
    assert np.isnan(report._u_matrix(weights[:1], Cartesian(1), geometry, 32)).all()


def test_images_are_drawn_with_the_first_row_at_the_bottom():
    image = np.zeros((8, 8))
    image[0, 0] = 1
    assert report_figures.thumbnail(image, 8)[-1, 0] == 254


def test_hexagonal_cells_lie_in_offset_rows():
    layout = report_figures.layout_of(Hexagonal(3))
    np.testing.assert_allclose(layout.x, [0.5, 1.5, 0, 1, 2, 0.5, 1.5])
    np.testing.assert_allclose(layout.y, [0, 0, 1, 1, 1, 2, 2])
    svg = report_figures.lattice_svg(layout, 0, fills=["#000000"] * 7)
    assert svg.count("<polygon") == 7
    assert not re.search(r"nan|inf", svg)
