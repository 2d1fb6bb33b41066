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
from skysom.jobs.report_history import read_history
from skysom.jobs.report_run import CAUSES
from skysom.storage.errors import SurveyError
from skysom.storage.status import CODES, STATUSES
from skysom.storage.survey import ArraySpec, Survey, remove_tree

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
        events = [start("train:main"), *(learned(10 * (i + 1), i // 5) for i in range(10))]
        events += [end("train:main", 2.5, images=100), start("map:main"), shard(0, images), end("map:main", 2.5)]
        (folder / "history.jsonl").write_text("\n".join(map(json.dumps, events)) + '\n{"event": "trai')
    pd.DataFrame({"name": ["a"], "bmu": [1]}).to_parquet(folder / "catalogue.parquet")
    return folder


def _event(event, name, second=0, **values):
    time = f"2026-11-20T22:39:{second:02d}+00:00"
    return {"event": event, "time": time, "stage": name.partition(":")[0]} | values


def start(key, second=0):
    return _event("stage_start", key, second, key=key)


def end(key, seconds, **values):
    return _event("stage_end", key, key=key, seconds=seconds, **values)


def shard(first, stop, second=0, stage="map"):
    return _event("shard", stage, second, start=first, stop=stop)


def learned(seen, stage=0, second=0, som="main", distance=None):
    distance = 5 - seen / 100 if distance is None else distance
    values = {"training_stage": stage, "images_seen": seen, "mean_bmu_distance": distance}
    return _event("training", "train", second, som=som, **values)


def history_of(folder, *events):
    path = folder / "history.jsonl"
    path.write_text("\n".join(map(json.dumps, events)))
    return read_history(path, "main", "main")


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
    survey.group["mappings/main"].attrs["lattice"] = lattice_to_dict(som.lattice)


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


def test_every_status_has_words_and_a_remedy():
    assert set(STATUSES) == {"ok", *CAUSES}
    assert all(words and remedy for words, remedy in CAUSES.values())


def test_images_are_counted_when_they_are_processed(tmp_path):
    history = history_of(
        tmp_path,
        start("map:main"),
        shard(0, 64, 4),  # killed here
        start("map:main", 20),
        shard(64, 100),
        end("map:main", 2.0, images=100, shards=1),
        start("map:main", 30),
        end("map:main", 0.5, images=100, shards=0),  # nothing was missing
        start("map:other", 40),
        shard(0, 100),
        end("map:other", 9.0, images=100, shards=1),
        end("report", 3.0, images=100),
    )
    assert (history.stages["map"].images, history.stages["map"].seconds) == (100, 6.5)
    assert (history.stages["report"].images, history.stages["report"].seconds) == (0, 3.0)


def test_time_and_presentations_of_a_training_that_was_killed(tmp_path):
    first = [start("train:main"), learned(10, second=2), learned(20, second=5)]
    second = [start("train:main", 30), learned(18, second=31), learned(30, second=34)]
    stage = history_of(tmp_path, *first, *second).stages["train"]
    assert (stage.images, stage.seconds) == (10 + 12, 3 + 3), "only what lies between records is sure"
    finished = end("train:main", 5.0, images=10, presentations=18)
    stage = history_of(tmp_path, *first, *second, finished).stages["train"]
    assert (stage.images, stage.seconds) == (10 + 18, 3 + 5)


@pytest.mark.parametrize(
    ("events", "seen"),
    [
        ([start("train:main"), learned(10), learned(20), start("train:main"), learned(15), learned(25)], [10, 15, 25]),
        ([start("train:main"), learned(10), learned(20), start("train:main"), learned(30)], [10, 20, 30]),
        ([start("train:main"), learned(10), learned(20), start("train:main"), learned(8), learned(16)], [8, 16]),
        ([start("train:main"), learned(5), end("train:main", 1), start("train:main"), learned(9)], [9]),
        ([learned(10), learned(20), learned(7, som="other"), learned(30)], [10, 20, 30]),
    ],
    ids=["resumed", "resumed later", "fresh", "fresh after a finished one", "another map"],
)
def test_the_curve_is_that_of_the_training_that_made_the_map(tmp_path, events, seen):
    assert [event["images_seen"] for event in history_of(tmp_path, *events).training] == seen


def test_a_published_map_has_an_origin_and_no_curve(tmp_path):
    survey = Survey(make_output(tmp_path) / "survey.zarr", "r+")
    survey.group["soms/main"].attrs["published"] = "som_<vlass>.bin"
    checker = check(write_report(tmp_path))
    text = " ".join(checker.text)
    assert "mapped to a published Cartesian map" in text
    assert "it comes from som_<vlass>.bin" in text
    assert "training" not in checker.ids


@pytest.mark.parametrize("lattice", [Cartesian(3, 4), Hexagonal(3)], ids=str)
def test_a_mapping_without_its_map_is_still_shown(tmp_path, lattice):
    make_output(tmp_path, lattice, channels=2)
    remove_tree(tmp_path / "survey.zarr" / "soms")
    checker = check(write_report(tmp_path))
    text = " ".join(checker.text)
    assert {"occupation", "members", "distances", "angles", "failures", "run"} <= checker.ids
    assert not {"map", "training"} & checker.ids
    assert "U-matrix" not in text
    assert "148 of them mapped" in text
    assert "is not in the store" in text


def test_an_imported_mapping_without_angles_is_shown(tmp_path):
    make_output(tmp_path)
    for name in ("bmu_rotation", "bmu_flip"):
        remove_tree(tmp_path / "survey.zarr" / "mappings" / "main" / name)
    checker = check(write_report(tmp_path))
    assert "angles" not in checker.ids
    assert "distances" in checker.ids
