"""Why grouped: the island made again is that of the whole collation; what is told and drawn follows from it."""

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer import Typer
from typer.testing import CliRunner

from skysom.engine.collation.actions import actions_for
from skysom.engine.collation.groups import Corrections
from skysom.jobs.cli_why import why_command
from skysom.jobs.collation.collate import collate
from skysom.jobs.collation.folder import CollationFolder
from skysom.jobs.collation.inputs import CatalogueFile, CollationInputs, Mapped
from skysom.jobs.collation.inputs_assembly import CollateOptions
from skysom.jobs.collation.inputs_catalogue import CatalogueChoice
from skysom.jobs.collation.inputs_output import inputs_from_output
from skysom.jobs.collation.pyink import inputs_from_pyink
from skysom.jobs.collation.why import why
from skysom.jobs.collation.why_images import Cutout, SurveyImages, stitched
from skysom.jobs.collation.why_inputs import open_collation
from skysom.jobs.collation.why_island import find_island
from skysom.jobs.errors import ConfigError, MissingStageError
from skysom.storage.survey import ArraySpec, Survey

for _name in ("random_skies", "collation_survey"):
    if _name not in sys.modules:
        _spec = importlib.util.spec_from_file_location(_name, Path(__file__).with_name(f"{_name}.py"))
        sys.modules[_name] = importlib.util.module_from_spec(_spec)
        _spec.loader.exec_module(sys.modules[_name])
skies, surveys = sys.modules["random_skies"], sys.modules["collation_survey"]


# --- the island -----------------------------------------------------------------------------------


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 2**32 - 1),
    spread=st.sampled_from([30.0, 120.0]),
    channels=st.sampled_from([(True,), (True, False), (True, True, False)]),
    corrected=st.booleans(),
)
def test_an_island_has_the_groups_of_the_whole(tmp_path_factory, seed, spread, channels, corrected):
    kind = skies.SkyKind(spread_arcsec=spread, base_channels=channels, corrected=corrected)
    inputs = skies.make(tmp_path_factory.mktemp("sky"), seed, kind)
    tables = skies.expected(inputs)
    members = tables["sources"]["members"].to_pylist()
    source_of = tables["components"]["source"].to_pylist()
    evidence = {row["source"]: row for row in tables["evidence"].to_pylist()}
    for row in range(0, kind.rows, 5):
        found = why(inputs, row)
        assert found.members.tolist() == members[source_of[row]]
        island = found.island.groups
        for source, count in zip(island.rows.tolist(), island.count.tolist(), strict=True):
            assert count == evidence.get(source, {"count": -1})["count"]
        wanted = tables["sources"].slice(source_of[row], 1).to_pylist()[0]
        assert found.representative == wanted["representative"]
        for member in found.members.tolist():
            assert found.island.base.name(member) in found.text


def line_of_components(folder, gaps_arcsec, radius=4, actions=("LINK",), channels=(True,), **more):
    """Components in a row to the east, gaps between them; a disc of each label on neuron 0; row i has rank i."""
    ra = np.concatenate([[0], np.cumsum(gaps_arcsec)]) / 3600
    count = len(ra)
    table = pd.DataFrame({"name": [f"A{row}" for row in range(count)], "RA": 10 + ra, "DEC": np.zeros(count)})
    file = skies.write_catalogue(folder / "base.csv", table)
    y, x = np.mgrid[:21, :21] - 10
    labels = tuple(f"label {number}" for number in range(len(actions)))
    planes = np.zeros((1, len(channels), 21, 21), np.uint64)
    for number, _ in enumerate(actions):
        planes[0, :, np.hypot(x, y) <= radius - number] |= np.uint64(1 << number)
    mapped = Mapped(
        np.arange(count), np.zeros(count, np.int32), np.zeros(count, np.float32), np.zeros(count, np.int8),
        np.arange(count).astype(np.float32),
    )  # fmt: skip
    inputs = CollationInputs(
        mapped, (file,) * len(channels), np.array(channels), labels, planes,
        actions_for(labels, dict(zip(labels, actions, strict=True))), np.arange(count), np.zeros(count, np.uint8),
        ((),), (6.0, 6.0), 60.0,
    )  # fmt: skip
    return replace(inputs, **more)


def test_an_island_longer_than_what_is_read_at_first(tmp_path):
    inputs = line_of_components(tmp_path, [20.0] * 60)
    island = find_island(inputs, 30)
    assert island.groups.rows.tolist() == list(range(61))
    assert why(inputs, 60).members.tolist() == list(range(61))


def test_what_is_told_of_a_linked_pair(tmp_path):
    found = why(line_of_components(tmp_path, [20.0, 45.0]), 0)
    assert found.members.tolist() == [0, 1]
    assert "A0 (row 0) used its mask, place 0 of the order" in found.text
    assert "“label 0” (LINK) lies over A0 (row 0), A1 (row 1): they are one source." in found.text
    assert "A1 (row 1) used no mask: taken by the mask of A0 (row 0) before the turn came." in found.text
    assert "Not of this source: A2 (row 2), 45.0″ away: under no linking label of a mask that was used." in found.text


def test_a_mask_that_would_have_linked(tmp_path):
    # A1 is taken by A0, so that its mask, which lies over A2 as well, is not used; A2 has none
    inputs = line_of_components(tmp_path, [20.0, 20.0])
    rank = np.array([0, 1, -1])
    found = why(replace(inputs, rank=rank), 0)
    assert found.members.tolist() == [0, 1]
    assert "the mask of A1 (row 1) would have linked it, but was not used" in found.text
    other = why(replace(inputs, rank=rank), 2)
    assert "A2 (row 2) used no mask: not in the order." in other.text


@pytest.mark.parametrize(
    ("actions", "words"),
    [
        (("LINK", "ISOLATE"), "isolated"),
        (("LINK", "UNLINK"), "they lose all links"),
        (("LINK", "NODE_ATTACH"), "they use no mask of their own any more"),
        (("LINK", "FLAG"), "“label 1” (FLAG) is True."),
        (("LINK", "FALSE_ATTACH"), "“label 1” (FALSE_ATTACH) is False."),
        (("PASS",), "No label of it lies over anything."),
        (("DATA_ATTACH",), "(DATA_ATTACH) lies over A0 (row 0) at 0.0″, A1 (row 1) at 18.0″ of channel 0 (base.csv)."),
    ],
)
def test_what_is_told_of_actions(tmp_path, actions, words):
    assert words in why(line_of_components(tmp_path, [18.0], actions=actions), 0).text


def test_corrections_tie_what_lies_far_away_or_nowhere(tmp_path):
    inputs = line_of_components(tmp_path, [20.0, 50_000.0, 20.0], corrections=Corrections(((0, 3),), ()))
    assert why(inputs, 1).members.tolist() == [0, 1, 2, 3]
    table = pd.read_csv(inputs.base.path)
    table.loc[3, "RA"] = np.nan
    file = skies.write_catalogue(tmp_path / "base.csv", table)
    status, rank = np.array([0, 0, 0, 2], np.uint8), np.array([0, 1, 2, -1])
    inputs = replace(inputs, catalogues=(file,), status=status, rank=rank)
    assert why(inputs, 3).members.tolist() == [0, 1, 3]
    assert why(inputs, 3).figure() is not None


def test_corrections_are_told(tmp_path):
    inputs = line_of_components(tmp_path, [20.0, 50.0], corrections=Corrections(((0, 2),), (1,)))
    found = why(inputs, 0)
    assert found.members.tolist() == [0, 2]
    assert "By hand: A0 (row 0), A2 (row 2) were put together." in found.text
    other = why(inputs, 1).text
    assert "By hand: A1 (row 1) lost all links to others." in other
    assert "A0 (row 0), A1 (row 1): they are one source, were it not for what was done by hand." in other
    assert "Not of this source: A0 (row 0), 20.0″ away: by hand, A1 (row 1) lost all links." in other
    assert "Not of this source: A1 (row 1), 20.0″ away: taken apart by hand." in found.text
    assert "A2 (row 2), 50.0″ away: under no linking label" in other


def test_what_hung_together_by_a_component_that_was_taken_apart(tmp_path):
    # the mask of A1 lies over its neighbours, which do not reach each other
    inputs = line_of_components(tmp_path, [20.0, 20.0], rank=np.array([1, 0, 2]))
    assert why(inputs, 0).members.tolist() == [0, 1, 2]
    found = why(replace(inputs, corrections=Corrections((), (0,))), 2)
    assert found.members.tolist() == [1, 2]
    assert "Not of this source: A0 (row 0), 20.0″ away: taken apart by hand." in found.text


def test_a_component_without_a_position(tmp_path):
    inputs = line_of_components(tmp_path, [20.0])
    table = pd.read_csv(inputs.base.path)
    table.loc[1, "RA"] = np.nan
    file = skies.write_catalogue(tmp_path / "base.csv", table)
    status = np.array([0, 2], np.uint8)
    found = why(replace(inputs, catalogues=(file,), status=status, rank=np.array([0, -1])), 1)
    assert found.members.tolist() == [1]
    assert "without a position" in found.title
    assert "used no mask: no position" in found.text
    with pytest.raises(ConfigError, match="cannot be drawn"):
        found.figure()


def test_rows_that_are_not_there_and_tables_that_differ(tmp_path):
    inputs = line_of_components(tmp_path, [20.0])
    with pytest.raises(ConfigError, match="no row 7"):
        why(inputs, 7)
    record = {"source": 0, "name": "J", "members": [0], "ra_deg": 10.0, "dec_deg": 0.0}
    with pytest.raises(ConfigError, match="collate again"):
        why(inputs, 0, source=record)


def test_catalogues_without_ids_call_rows_by_number(tmp_path):
    inputs = line_of_components(tmp_path, [20.0])
    file = CatalogueFile(inputs.base.path, "RA", "DEC", "row number", 2)
    assert "lies over row 0, row 1: they are one source" in why(replace(inputs, catalogues=(file,)), 1).text


def test_ids_are_no_mathematics_and_may_have_any_letters(tmp_path):
    inputs = line_of_components(tmp_path, [20.0])
    table = pd.read_csv(inputs.base.path).assign(name=["$x_{$", "$\\no$\x07星"])
    file = replace(skies.write_catalogue(tmp_path / "base.parquet", table), id_column="name")
    found = why(replace(inputs, catalogues=(file,)), 0)
    assert "$x_{$ (row 0)" in found.text
    found.save(tmp_path / "source.png")
    figure = found.figure()
    assert figure.get_suptitle().startswith("Source of $x_{$: 2 components")
    assert figure.get_supxlabel() == "Members: 1: $x_{$, 2: $\\no$星"


# --- pictures -------------------------------------------------------------------------------------


def test_stitched_cutouts_lie_where_they_belong():
    image = np.zeros((1, 9, 9), np.float32)
    image[0, 6, 2] = 1.0  # two rows north, two columns east of the centre
    plain = stitched([(Cutout(image, 2.0, np.eye(2)), (10.0, -4.0))], 0, 31, 2.0)
    # the centre of the picture is pixel 15; 10 arcsec east is 5 columns to the left, 4 south is 2 rows down
    assert plain[15 - 2 + 2, 15 - 5 - 2] == pytest.approx(1)
    assert np.isnan(plain[0, 30])
    half = np.array([[-1.0, 0.0], [0.0, -1.0]])
    turned = stitched([(Cutout(image, 2.0, half), (0.0, 0.0))], 0, 31, 2.0)
    assert turned[15 - 2, 15 + 2] == pytest.approx(1)
    finer = stitched([(Cutout(image, 2.0, np.eye(2)), (0.0, 0.0))], 0, 31, 1.0)
    assert finer[15 + 4, 15 - 4] == pytest.approx(1)
    other = Cutout(image + 5, 2.0, np.eye(2))
    on_top = stitched([(Cutout(image, 2.0, np.eye(2)), (0.0, 0.0)), (other, (0.0, 0.0))], 0, 31, 2.0)
    assert np.nanmax(on_top) == 1


@pytest.fixture(scope="module")
def collated(tmp_path_factory):
    """An output with images, its collation with actions of two kinds, and a correction."""
    folder = tmp_path_factory.mktemp("collated")
    output = surveys.make_survey(folder / "survey")
    survey = Survey(output.survey, "r+")
    side = surveys.IMAGE_SIDE
    survey.add_image_array("images", ArraySpec("float32", ("channel", "y", "x"), (1, side, side)))
    survey["images"][:] = np.random.default_rng(1).normal(0, 1, (60, 1, side, side))
    surveys.annotate(output)
    table = pd.read_parquet(output.catalogue)
    (folder / "corrections.toml").write_text(f'apart = ["{table["source_id"][1]}"]\n')
    inputs = inputs_from_output(output, CollateOptions(corrections=str(folder / "corrections.toml")))
    collate(inputs, output.root / "collation", scheduler="threads")
    return output


def test_a_collation_is_opened_from_its_folder(collated):
    found = open_collation(collated.root / "collation")
    sources = pd.read_parquet(collated.root / "collation" / "sources.parquet")
    assert found.sources == len(sources)
    for number in (0, len(sources) - 1):
        record = found.source(number)
        told = why(found.inputs, int(record["members"][0]), source=record, images=found.images)
        assert told.members.tolist() == sources["members"][number].tolist()
        assert f"Source {number}, {record['name']}" in told.text
        assert told.hosts[0].tolist() == sources["ir_host_rows"][number].tolist()
        assert set(told.cutouts) >= set(told.members.tolist())
    row, record = found.source_of(name="s1")
    assert row == 1
    assert record["members"] == [1]
    assert found.source_of(row=0)[1]["source"] == 0
    for wrong in (lambda: found.source(999), lambda: found.source_of(row=999), lambda: found.source_of(name="?")):
        with pytest.raises(ConfigError, match="no "):
            wrong()


def test_images_are_turned_as_their_masks(collated):
    found = open_collation(collated.root / "collation")
    island = find_island(found.inputs, 0)
    images = SurveyImages(collated)
    matrix = images.cutouts(found.inputs, island, [0])[0].matrix
    assert np.allclose(matrix, np.eye(2), atol=1e-6)
    mapped = found.inputs.mapped
    turned = replace(mapped, angle_rad=mapped.angle_rad + np.float32(np.pi / 2))
    matrix = images.cutouts(replace(found.inputs, mapped=turned), island, [0])[0].matrix
    assert np.allclose(matrix @ matrix.T, np.eye(2), atol=1e-6)
    assert np.allclose(np.trace(matrix), 0, atol=1e-6)  # by a quarter turn


def test_a_picture_is_written(collated, tmp_path):
    found = open_collation(collated.root / "collation")
    told = why(found.inputs, 2, images=found.images)
    picture = told.picture(0)
    assert np.isfinite(picture.image).any()
    assert len(picture.members) == len(told.members)
    assert len(picture.masks) >= 2
    told.save(tmp_path / "source.png")
    assert (tmp_path / "source.png").read_bytes().startswith(b"\x89PNG")


def test_a_collation_whose_masks_or_files_have_changed(collated, tmp_path):
    with pytest.raises(ConfigError, match="no finished collation"):
        open_collation(tmp_path)
    with pytest.raises(MissingStageError, match="no finished stage"):
        open_collation(collated.root / "collation", survey=tmp_path)
    survey = Survey(collated.root / "survey.zarr", "r+")
    before = survey["mappings/main/bmu_rotation"][:]
    survey["mappings/main/bmu_rotation"][:] = (before + 1) % surveys.ROTATIONS
    with pytest.raises(ConfigError, match=r"mapped differ"):
        open_collation(collated.root / "collation")
    survey["mappings/main/bmu_rotation"][:] = before


# --- the command ----------------------------------------------------------------------------------


def command(*arguments):
    app = Typer()
    app.command()(why_command)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_command_tells_and_draws(collated, tmp_path):
    folder = collated.root / "collation"
    result = command(folder, 0, "--output", tmp_path / "why.png")
    assert result.exit_code == 0, result.output
    assert "Source 0, J" in result.output
    assert (tmp_path / "why.png").stat().st_size > 10_000
    assert "s1" in command(folder, "--id", "s1").output
    assert command(folder, "--row", 3).exit_code == 0
    assert "Source 0, J" in command(collated.root, 0).output  # an output has its collation in it


def test_a_source_by_its_name(collated):
    folder = collated.root / "collation"
    sources = pd.read_parquet(folder / "sources.parquet")
    name, number = sources["name"][7], sources["source"][7]
    assert f"Source {number}, {name}:" in command(folder, name).output
    assert "it names a source: leave out --id" in str(command(folder, "--id", name).exception)
    assert "has no source named 'J000'" in str(command(folder, "J000").exception)
    found = open_collation(folder)
    twice = sources.assign(name=sources["name"].where(sources["source"] != 9, name))
    elsewhere = replace(found, folder=CollationFolder(folder.parent / "twice"))
    elsewhere.folder.root.mkdir()
    twice.to_parquet(elsewhere.folder.table("sources"))
    with pytest.raises(ConfigError, match=r"2 sources named .*: 7, 9; give a number"):
        elsewhere.source_named(name)


def test_the_command_refuses(collated):
    folder = collated.root / "collation"
    assert isinstance(command(folder).exception, ConfigError)
    assert isinstance(command(folder, 0, "--row", 1).exception, ConfigError)
    missing = command(folder, 0, "--som", "som.bin").exception
    assert isinstance(missing, ConfigError)
    assert "--map" in str(missing)


def test_the_command_on_files_of_pyink(shared, tmp_path):
    golden = shared("goldens/pyink")
    catalogues = tuple(
        CatalogueChoice(golden / name, id_column="row number") for name in ("radio_catalogue.csv", "ir_catalogue.csv")
    )
    actions = tmp_path / "actions.toml"
    labels = json.loads((golden / "labels.json").read_text())
    chosen = {"Related Radio": "LINK", "IR Host": "DATA_ATTACH"}
    actions.write_text("".join(f'"{label}" = "{chosen.get(label, "PASS")}"\n' for label in labels))
    options = CollateOptions(catalogues, str(actions), pixel_scale_arcsec=(1.5, 1.5), unannotated="singletons")
    files = {"--som": "som.bin", "--map": "map.bin", "--transform": "transform.bin"}
    files["--annotations"] = "som.bin.results.pkl"
    paths = [golden / name for name in files.values()]
    inputs = inputs_from_pyink(*paths, options)
    collate(inputs, tmp_path / "out", scheduler="threads")
    with pytest.raises(ConfigError, match="made from files of pyink"):
        open_collation(tmp_path / "out")
    named = [text for option, path in zip(files, paths, strict=True) for text in (option, path)]
    picture = tmp_path / "source.png"
    result = command(tmp_path / "out", 3, *named, "--images", golden / "images.bin", "--output", picture)
    assert result.exit_code == 0, result.output
    assert "Source 3, J" in result.output
    assert picture.stat().st_size > 20_000
