"""The report's section on collated sources: counted in one pass, examples drawn, and what is gone is said."""

import base64
import importlib.util
import io
import json
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from skysom.jobs.collation.collate import collate
from skysom.jobs.collation.inputs_assembly import CollateOptions
from skysom.jobs.collation.inputs_output import inputs_from_output
from skysom.jobs.pictures.grouping import HOST, MEMBER
from skysom.jobs.report import write_report
from skysom.jobs.report_groups import figure_uri, groups_section, read_groups
from skysom.storage.survey import ArraySpec, Survey

for _name in ("random_skies", "collation_survey"):
    if _name not in sys.modules:
        _spec = importlib.util.spec_from_file_location(_name, Path(__file__).parent / "collation" / f"{_name}.py")
        sys.modules[_name] = importlib.util.module_from_spec(_spec)
        _spec.loader.exec_module(sys.modules[_name])
skies, surveys = sys.modules["random_skies"], sys.modules["collation_survey"]


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    """A collated output with a label of every kind."""
    folder = tmp_path_factory.mktemp("report")
    found = surveys.make_survey(folder / "survey")
    surveys.annotate(found, labels=("Related Radio", "IR Host", "Odd <one>", "Bad $x_{"))
    actions = {"Related Radio": "LINK", "IR Host": "DATA_ATTACH", "Odd <one>": "FLAG", "Bad $x_{": "PASS"}
    path = folder / "actions.toml"
    path.write_text("".join(f"{json.dumps(label)} = {json.dumps(action)}\n" for label, action in actions.items()))
    collate(inputs_from_output(found, CollateOptions(actions=str(path))), found.root / "collation", scheduler="threads")
    return found


def test_nothing_where_nothing_was_collated(tmp_path):
    assert read_groups(tmp_path) is None


def test_counts_are_those_of_the_tables(output):
    content = read_groups(output.root)
    sources = pd.read_parquet(output.root / "collation" / "sources.parquet")
    assert content.components.sum() == len(sources)
    assert content.components[2] == (sources["components"] == 2).sum()
    link, host, odd, bad = content.labels
    assert (link.action, link.attached) == ("LINK", None)
    assert host.attached == (sources["ir_host_count"] > 0).sum() > 0
    assert host.several == (sources["ir_host_count"] > 1).sum()
    assert odd.true == (sources["odd_one"] == True).sum() > 0  # noqa: E712 - missing values are neither
    assert (bad.attached, bad.true) == (None, None)
    assert content.without_mask == (sources["representative"] < 0).sum()
    assert not content.note


def test_the_section_shows_and_escapes(output):
    section = groups_section(read_groups(output.root))
    html = section.html()
    assert html.startswith('<section id="sources"><h2>From components to sources</h2>')
    assert "60 components are" in html
    assert "Odd &lt;one&gt;" in html
    assert "<one>" not in html
    assert "A double of median size" in html
    assert len(re.findall(r'src="data:image/png;base64,[A-Za-z0-9+/=]{1000,}"', html)) >= 2
    assert "used its mask" in html


def test_colours_that_mean_something_stay():
    figure = Figure(figsize=(4, 3))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(np.random.default_rng(1).random((40, 40, 3)))  # would take all of a palette
    axes.plot([2, 30], [20, 20], color=HOST, lw=3, antialiased=False)
    axes.plot([2, 30], [25, 25], color=MEMBER, lw=3, antialiased=False)
    shown = Image.open(io.BytesIO(base64.b64decode(figure_uri(figure, 64).partition(",")[2]))).convert("RGB")
    pixels = np.asarray(shown).reshape(-1, 3)
    for colour in (HOST, MEMBER):
        wanted = np.round(255 * np.array(to_rgb(colour)))
        assert (pixels == wanted).all(axis=1).sum() > 500
    assert len(np.unique(pixels, axis=0)) <= 64


def test_warnings_of_the_collation_are_shown(output):
    content = read_groups(output.root)
    summary = {**content.summary, "warnings": ["channel 1 (a<b.csv): no row lies under any mask"]}
    body = groups_section(replace(content, summary=summary)).body
    assert "<strong>channel 1 (a&lt;b.csv): no row lies under any mask</strong>" in body
    assert "<strong>" not in groups_section(content).body


def test_examples_that_cannot_be_drawn_leave_a_note(output):
    path = output.root / ".skysom" / "config.json"
    kept = path.read_bytes()
    path.write_bytes(b"{}")
    try:
        content = read_groups(output.root)
    finally:
        path.write_bytes(kept)
    assert "no finished stage" in content.note
    assert [one.picture for one in content.examples] == [""] * len(content.examples)
    assert "They are not drawn" in groups_section(content).body


def test_isolated_sources_corrections_and_missing_masks(tmp_path):
    kind = skies.SkyKind(rows=80, spread_arcsec=60.0, labels=3, actions=("LINK", "ISOLATE", "FALSE_ATTACH"))
    inputs = skies.make(tmp_path, 5, kind)
    origin = {"actions": {f"label {n}": action for n, action in enumerate(kind.actions)}, "sort": "random:5"}
    inputs = skies.with_corrections(replace(inputs, origin=origin), together=[(0, 1)])
    collate(inputs, tmp_path / "collation", scheduler="threads")
    content = read_groups(tmp_path)
    sources = pq.read_table(tmp_path / "collation" / "sources.parquet").to_pandas()
    assert content.isolated == sources["isolated"].notna().sum() > 0
    assert content.without_mask == (sources["representative"] < 0).sum() > 0
    assert "A source with an isolated component" in [one.kind for one in content.examples]
    body = groups_section(content).body
    assert f"{content.isolated} sources are isolated components" in body
    assert "1 corrections were made by hand" in body
    assert "no mask was used" in body
    assert content.labels[2].false == (sources["label_2"] == False).sum() > 0  # noqa: E712


def test_the_typical_double_is_of_median_size(output):
    sources = pd.read_parquet(output.root / "collation" / "sources.parquet").set_index("source")
    chosen = {one.kind: one.source for one in read_groups(output.root).examples}
    sizes = sources.loc[sources["components"] == 2, "size_arcsec"].drop(chosen["The largest source"])
    assert sizes[chosen["A double of median size"]] == np.sort(sizes)[len(sizes) // 2]


# --- collations that are damaged ------------------------------------------------------------------


def said_of(output):
    """The section that takes the place of the collation's."""
    section = groups_section(read_groups(output))
    assert section.anchor == "sources"
    assert "<img" not in section.body
    return section.body


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def directory(path):
    path.unlink()
    path.mkdir()


def changed(**values):
    """Write a record with other values; None leaves a key out."""

    def change(path):
        record = json.loads(path.read_text()) | values
        path.write_text(json.dumps({key: value for key, value in record.items() if value is not None}))

    return change


def without_column(name):
    return lambda path: pq.write_table(pq.read_table(path).drop_columns([name]), path)


def garbled(path):
    content = path.read_bytes()
    pages = len(content) - 12 - int.from_bytes(content[-8:-4], "little")
    path.write_bytes(content[:4] + b"\xff" * pages + content[4 + pages :])


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("sources.parquet", cut),
        ("sources.parquet", garbled),
        ("sources.parquet", directory),
        ("sources.parquet", Path.unlink),
        ("sources.parquet", without_column("components")),
        ("sources.parquet", without_column("size_arcsec")),
        ("collation.json", cut),
        ("collation.json", directory),
        ("collation.json", Path.unlink),
        ("collation.json", lambda path: path.write_text("[]")),
        ("collation.json", lambda path: path.write_bytes(b"\xff\xfe\x00")),
        ("collation.json", changed(origin=None)),
        ("collation.json", changed(origin=[])),
        ("collation.json", changed(islands=None)),
        ("collation.json", changed(rows="many")),
        ("collation.json", changed(corrections=[1])),
    ],
)
def test_damaged_tables_and_records_are_one_sentence(output, tmp_path, name, damage):
    shutil.copytree(output.root / "collation", tmp_path / "collation")
    damage(tmp_path / "collation" / name)
    said = said_of(tmp_path)
    assert re.search(r"^<p>The sources of .*collation are not shown, as it is damaged \(\w+: .*collate again", said)


@pytest.mark.parametrize("name", ["components.parquet", "evidence.parquet", ".skysom/collation-config.json"])
def test_what_only_the_examples_need_leaves_a_note(output, name):
    path = output.root / "collation" / name
    kept = path.read_bytes()
    cut(path)
    try:
        body = groups_section(read_groups(output.root)).body
    finally:
        path.write_bytes(kept)
    assert re.search("They are not drawn: .*collat", body)
    assert "60 components are" in body


def test_tables_of_two_collations_are_one_sentence(output, tmp_path):
    shutil.copytree(output.root / "collation", tmp_path / "collation")
    (tmp_path / "collation" / ".skysom" / "publishing.json").write_text("{}")
    assert "run the same skysom collate again" in said_of(tmp_path)


def test_another_catalogue_is_a_note_in_place_of_pictures(output):
    table = pd.read_parquet(output.catalogue)
    kept = output.catalogue.read_bytes()
    table.assign(ra=table["ra"] + 1e-4).to_parquet(output.catalogue)
    try:
        body = groups_section(read_groups(output.root)).body
    finally:
        output.catalogue.write_bytes(kept)
    assert "was made from another" in body
    assert "than is there now" in body
    assert "used its mask" not in body


def test_the_report_is_written_all_the_same(output, tmp_path):
    copy = Path(shutil.copytree(output.root, tmp_path / "copy"))
    survey = Survey(copy / "survey.zarr", "r+")
    for name, kind, value in (("status", "uint8", 0), ("coverage", "float32", 1)):
        survey.add_image_array(name, ArraySpec(kind))[:] = np.full(60, value, kind)
    cut(copy / "collation" / "sources.parquet")
    page = write_report(copy).read_text()
    assert page.count("are not shown, as it is damaged") == 1
    assert '<section id="map">' in page
