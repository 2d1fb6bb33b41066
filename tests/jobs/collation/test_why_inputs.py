"""What `skysom why` refuses: collations that are damaged, half published, or not of the files that are there now."""

import importlib.util
import json
import os
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from typer import Typer
from typer.testing import CliRunner

from skysom.jobs.cli_why import why_command
from skysom.jobs.collation.collate import collate
from skysom.jobs.collation.inputs_assembly import CollateOptions
from skysom.jobs.collation.inputs_catalogue import CatalogueChoice
from skysom.jobs.collation.inputs_output import inputs_from_output
from skysom.jobs.collation.why import why
from skysom.jobs.collation.why_inputs import open_collation
from skysom.jobs.errors import ConfigError

if "collation_survey" not in sys.modules:
    _path = Path(__file__).with_name("collation_survey.py")
    _spec = importlib.util.spec_from_file_location("collation_survey", _path)
    sys.modules["collation_survey"] = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(sys.modules["collation_survey"])
surveys = sys.modules["collation_survey"]

STRANGE = 'IR $ho_{st$ \x7f\t"\\ 星'
"""A label that is neither plain TOML nor mathematics, with a letter that no font here has."""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a survey, its collation, and the catalogue that it was made from."""
    folder = tmp_path_factory.mktemp("made")
    output = surveys.make_survey(folder / "survey")
    surveys.annotate(output, labels=("Related Radio", STRANGE))
    table = pd.read_parquet(output.catalogue)
    table.loc[5, ["ra", "dec"]] = np.nan  # the row that was not mapped
    table.to_csv(folder / "base.csv", index=False)
    label = json.dumps(STRANGE, ensure_ascii=False).replace("\x7f", "\\u007f")
    (folder / "actions.toml").write_text(f'"Related Radio" = "LINK"\n{label} = "DATA_ATTACH"\n', encoding="utf-8")
    choice = CatalogueChoice(folder / "base.csv", "ra", "dec", "source_id")
    inputs = inputs_from_output(output, CollateOptions((choice,), str(folder / "actions.toml")))
    collate(inputs, output.root / "collation", scheduler="threads")
    return folder


@pytest.fixture
def collation(made, tmp_path):
    """A copy of the collation that a test may damage; its survey is found by its annotations."""
    return Path(shutil.copytree(made / "survey" / "collation", tmp_path / "collation"))


def command(*arguments):
    app = Typer()
    app.command()(why_command)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def refused(*arguments):
    """What the command says when it refuses."""
    error = command(*arguments).exception
    assert isinstance(error, ConfigError), error
    return str(error)


# --- files that have changed ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: text.replace("s7,", "s7,1", 1), r"bytes then, .* now"),
        (lambda text: text[:-2] + chr(ord(text[-2]) ^ 1) + "\n", r"bytes as then, with another content"),
        (lambda text: text.rsplit("\n", 2)[0] + "\n", r"bytes then, .* now"),
        (lambda text: text.replace("source_id", "name", 1), r"bytes then, .* now"),
        (lambda text: "ra,dec\n", r"bytes then, .* now"),
    ],
)
def test_a_catalogue_that_has_changed(made, collation, change, words):
    path = made / "base.csv"
    kept = path.read_text()
    path.write_text(change(kept))
    try:
        with pytest.raises(ConfigError, match=rf"another {re.escape(str(path))} than is there now .*{words}.*--redo"):
            open_collation(collation)
    finally:
        path.write_text(kept)
    assert open_collation(collation).source(0)["source"] == 0


def test_a_catalogue_that_is_gone(made, collation):
    path = made / "base.csv"
    path.rename(made / "elsewhere.csv")
    try:
        with pytest.raises(ConfigError, match=r"base\.csv, where there is no file any more; restore it"):
            open_collation(collation)
    finally:
        (made / "elsewhere.csv").rename(path)


# --- damage ---------------------------------------------------------------------------------------


def test_tables_of_two_collations(collation):
    (collation / ".skysom" / "publishing.json").write_text("{}")
    assert "run the same skysom collate again" in refused(collation, 0)


def without(*names):
    """Write a configuration without some keys."""
    return lambda text: json.dumps({key: value for key, value in json.loads(text).items() if key not in names})


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "[1, 2]",
        lambda text: "\x00\x00",
        lambda text: "",
        without("catalogues"),
        without("origin.sort"),
        without("origin.catalogues"),
        without("masks_sha256"),
        lambda text: text.replace('"origin.sort": "', '"origin.sort": 5, "before": "'),
        lambda text: json.dumps(json.loads(text) | {"catalogues": [["base.csv"]]}),
        lambda text: json.dumps(json.loads(text) | {"origin.catalogues": []}),
        lambda text: json.dumps(json.loads(text) | {"pixel_scale_arcsec": "x"}),
    ],
)
def test_a_configuration_that_is_damaged(collation, damage):
    path = collation / ".skysom" / "collation-config.json"
    path.write_text(damage(path.read_text()))
    assert re.search(r"collation-config\.json is damaged.*collate again with --redo", refused(collation, 0))


def test_a_record_without_corrections(collation):
    path = collation / ".skysom" / "published.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"corrections": {"together": 5}}))
    assert re.search(r"published\.json is damaged.*--redo", refused(collation, 0))


def damaged_table(path, kind):
    """Damage a table, and let its record say that it was always so."""
    if kind == "pages":
        content = path.read_bytes()
        pages = len(content) - 12 - int.from_bytes(content[-8:-4], "little")
        path.write_bytes(content[:4] + b"\xff" * pages + content[4 + pages :])
    else:
        table = pq.read_table(path)
        pq.write_table(table.drop_columns([kind]), path)
    record = path.parent / ".skysom" / "published.json"
    values = json.loads(record.read_text())
    values["bytes"][path.name] = path.stat().st_size
    record.write_text(json.dumps(values))


@pytest.mark.parametrize("kind", ["pages", "source", "members", "name", "ra_deg"])
def test_a_table_of_sources_that_is_damaged(made, collation, kind):
    damaged_table(collation / "sources.parquet", kind)
    assert re.search(r"sources\.parquet cannot be read.*--redo", refused(collation, 0))


@pytest.mark.parametrize("kind", ["pages", "source", "row"])
def test_a_table_of_components_that_is_damaged(collation, kind):
    damaged_table(collation / "components.parquet", kind)
    assert re.search(r"components\.parquet cannot be read.*--redo", refused(collation, "--row", 3))


def test_tables_of_another_length_than_recorded(collation):
    path = collation / "evidence.parquet"
    path.write_bytes(path.read_bytes()[:-100])
    assert "are not as they were made; run the same skysom collate again" in refused(collation, 0)


def test_directories_in_place_of_files(collation):
    for name in ("sources.parquet", "evidence.parquet", ".skysom/collation-config.json"):
        path = collation / name
        kept = path.read_bytes()
        path.unlink()
        path.mkdir()
        assert "collat" in refused(collation, 0)
        path.rmdir()
        path.write_bytes(kept)
    assert command(collation, 0).exit_code == 0


# --- the command ----------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [2**63, 10**30])
def test_numbers_that_no_row_has(collation, number):
    assert "they count from 0, and none is above" in refused(collation, number)
    assert "they count from 0, and none is above" in refused(collation, "--row", number)
    assert "they count from 0, and none is above" in refused(collation, "--row", -1)
    assert "has no source" in refused(collation, 2**63 - 1)
    assert "has no component" in refused(collation, "--row", 2**63 - 1)


def test_a_source_without_a_position_is_told_and_not_drawn(collation, tmp_path):
    result = command(collation, "--row", 5)
    assert result.exit_code == 0, result.output
    assert re.search(r"Source \d+: 1 component, without a position", result.output)
    assert "cannot be drawn" in refused(collation, "--row", 5, "-o", tmp_path / "why.png")


def test_pictures_that_cannot_be_written_are_refused_at_once(tmp_path):
    # before the collation is looked for, which is not there
    for name in ("why.xyz", "why", "why.pgf", ".png"):
        assert re.search(r"has the suffix .*\.png, \.pdf, \.svg", refused(tmp_path, 0, "-o", tmp_path / name))
    assert "is a directory; give a file in it" in refused(tmp_path, 0, "-o", tmp_path)
    assert re.search("there is no folder .*none; make it", refused(tmp_path, 0, "-o", tmp_path / "none" / "why.png"))


def test_a_picture_takes_its_place_whole(collation, tmp_path):
    found = open_collation(collation)
    picture, kept = tmp_path / "why.png", tmp_path / "kept.png"
    picture.write_text("what was there before")
    os.link(picture, kept)
    told = why(found.inputs, 0, source=found.source(0))
    told.save(picture)
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert kept.read_text() == "what was there before"  # written beside and renamed
    assert {path.name for path in tmp_path.iterdir()} == {"collation", "why.png", "kept.png"}
    for name, start in (("why.SVG", b"<?xml"), ("why.pdf", b"%PDF")):
        told.save(tmp_path / name)
        assert (tmp_path / name).read_bytes().startswith(start)


def test_labels_are_no_toml_and_no_mathematics(collation, tmp_path):
    found = open_collation(collation)
    assert found.inputs.labels == ("Related Radio", STRANGE)
    assert [action.name for action in found.inputs.actions] == ["LINK", "DATA_ATTACH"]
    result = command(collation, 0, "-o", tmp_path / "why.png")
    assert result.exit_code == 0, result.output
    axes = why(found.inputs, 0).figure().axes[0]
    written = [text.get_text() for text in axes.get_legend().get_texts()]
    assert 'mask “IR $ho_{st$ "\\ 星”' in written
    assert axes.get_title(loc="left") == "channel 0: base.csv"


def test_annotations_of_another_place(made, collation):
    path = collation / ".skysom" / "collation-config.json"
    values = {k: v for k, v in json.loads(path.read_text()).items() if not k.startswith("origin.annotations.")}
    path.write_text(json.dumps(values | {"origin.annotations.pyink": "som.bin.results.pkl"}))
    assert "annotations of pyink, som.bin.results.pkl; name the file with --annotations" in refused(collation, 0)
    named = made / "survey" / "annotations" / "main"
    assert "is not beside it; name it with --survey" in refused(collation, 0, "--annotations", named)
    result = command(collation, 0, "--annotations", named, "--survey", made / "survey")
    assert result.exit_code == 0, result.output
