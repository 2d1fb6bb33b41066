"""The dry run: one typical square degree, equal to the same part of the whole, and nothing else touched."""

import importlib.util
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from astropy.coordinates import SkyCoord
from matplotlib.image import imread

from skysom.engine.collation.groups import Corrections
from skysom.jobs.cli import main
from skysom.jobs.collation.collate import CollateSettings, collate
from skysom.jobs.collation.dry_run import MARGINS, Square, dry_run, reduced_inputs, typical_square
from skysom.jobs.collation.dry_run_picture import draw_field
from skysom.jobs.collation.inputs_assembly import CollateOptions
from skysom.jobs.collation.inputs_catalogue import CatalogueChoice
from skysom.jobs.collation.inputs_output import inputs_from_output
from skysom.jobs.collation.why import why
from skysom.jobs.collation.why_inputs import open_collation
from skysom.jobs.errors import ConfigError
from skysom.storage.errors import CatalogueError
from skysom.storage.survey import Survey

_spec = importlib.util.spec_from_file_location("collation_survey", Path(__file__).with_name("collation_survey.py"))
made = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(made)

ROWS = 1200
SETTINGS = CollateSettings(threads=1)


@pytest.fixture(scope="module")
def survey(tmp_path_factory):
    """A survey whose pairs lie in 12 square degrees at the equator, with an infrared catalogue without ids."""
    folder = tmp_path_factory.mktemp("dry")
    output = made.make_survey(folder / "survey", ROWS, channels=("radio", "infrared"))
    rng, table = np.random.default_rng(8), pd.read_parquet(output.catalogue)
    ra, dec = rng.uniform(30, 34, ROWS), rng.uniform(-1.5, 1.5, ROWS)
    ra[1::2], dec[1::2] = ra[::2] + 6 / 3600, dec[::2] + 8 / 3600
    table.assign(ra=ra, dec=dec).to_parquet(output.catalogue)
    store = Survey(output.survey, "r+")
    store["ra_deg"][:], store["dec_deg"][:] = ra, dec
    made.annotate(output, labels=["Related Radio"])
    made.annotate(output, labels=["IR Host"], radius=6, channel=1)
    hosts = folder / "infrared.csv"
    middle = pd.DataFrame({"RA": ra[::2] + 3 / 3600, "DEC": dec[::2] + 4 / 3600, "w1": 1.0})
    pd.concat([middle, pd.DataFrame({"RA": rng.uniform(0, 360, 500), "DEC": 0.5})]).to_csv(hosts, index=False)
    choices = (CatalogueChoice(output.catalogue), CatalogueChoice(hosts))
    return output, inputs_from_output(output, CollateOptions(choices, flux_columns=("flux",))), hosts


def test_a_dry_run_is_a_part_of_the_whole(survey, tmp_path, capsys):
    _, inputs, _ = survey
    found = dry_run(inputs, tmp_path, SETTINGS)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["dry_run"]
    assert found.folder == tmp_path / "dry_run"
    collate(inputs, tmp_path / "whole", SETTINGS)
    parts = pq.read_table(found.folder / "sources.parquet").to_pandas()
    whole = pq.read_table(tmp_path / "whole" / "sources.parquet").to_pandas()
    base = pd.read_parquet(found.folder / "catalogues" / "channel0.parquet")
    hosts = pd.read_parquet(found.folder / "catalogues" / "channel1.parquet")
    assert 60 < len(base) < 250
    of_members = {tuple(source["member_ids"]): source for _, source in whole.iterrows()}
    compared = 0
    square = found.square
    inner = set(square.inside(parts["ra_deg"].to_numpy(), parts["dec_deg"].to_numpy()).tolist())
    for place, source in parts.iterrows():
        if place not in inner:
            continue
        same = of_members[tuple(source["member_ids"])]
        assert base["catalogue_row"][list(source["members"])].tolist() == same["members"].tolist()
        assert source["flux_sum"] == same["flux_sum"]
        assert hosts["catalogue_row"][list(source["ir_host_rows"])].tolist() == same["ir_host_rows"].tolist()
        assert list(source["ir_host_ids"]) == list(same["ir_host_ids"])
        compared += 1
    assert 30 < compared < 80
    assert f"  {compared} sources: {compared} of several components" in found.words
    assert f"{compared} with 'IR Host'" in found.words
    assert found.words in capsys.readouterr().err
    picture = imread(found.picture)
    assert picture.shape[2] == 4
    assert picture.std() > 0.05
    again = dry_run(inputs, tmp_path, SETTINGS)
    assert again.square == found.square


def test_the_command(survey, tmp_path, capsys):
    output, _, hosts = survey
    before = {path: path.stat().st_mtime_ns for path in output.root.rglob("*") if path.is_file()}
    arguments = [str(output.root), "-c", str(output.catalogue), "-c", str(hosts), "--dry-run", "--threads", "1"]
    assert main(["collate", *arguments]) == 0
    folder = output.root / "collation" / "dry_run"
    assert capsys.readouterr().out.splitlines() == [
        f"sources: {folder}/sources.parquet",
        f"picture: {folder}/sources.png",
    ]
    after = {path: path.stat().st_mtime_ns for path in output.root.rglob("*") if path.is_file()}
    assert {path: after[path] for path in before} == before
    assert all(folder in path.parents for path in after.keys() - before.keys())


def test_why_tells_of_a_dry_run(survey, tmp_path):
    """Its inputs are those of the whole, for the rows that are in it; rows are told as the whole catalogue has them."""
    _, inputs, hosts = survey
    found = dry_run(inputs, tmp_path, SETTINGS)
    collation = open_collation(found.folder)
    assert collation.inputs.base.rows < ROWS / 2
    base = pd.read_parquet(found.folder / "catalogues" / "channel0.parquet")
    record = collation.source(3)
    told = why(collation.inputs, int(record["members"][0]), images=None, source=record)
    assert told.members.tolist() == record["members"]
    rows = base["catalogue_row"][record["members"]].tolist()
    for name, row in zip(record["member_ids"], rows, strict=True):
        assert f"{name} (row {row})" in told.text
        assert collation.source_of(row=row)[1]["source"] == 3
    first = pd.read_parquet(found.folder / "catalogues" / "channel1.parquet")["catalogue_row"]
    assert f"row {first[told.hosts[1][0]]} at" in told.text
    outside = np.setdiff1d(np.arange(ROWS), base["catalogue_row"])[0]
    with pytest.raises(ConfigError, match=f"no component with row {outside}"):
        collation.source_of(row=int(outside))
    kept = hosts.read_text()
    hosts.write_text(kept + "1.0,2.0,3.0\n")
    with pytest.raises(ConfigError, match=f"made from another {re.escape(str(hosts))}"):
        open_collation(found.folder)
    hosts.write_text(kept)
    cut = found.folder / "catalogues" / "channel0.parquet"
    base.iloc[::-1].to_parquet(cut)
    with pytest.raises(ConfigError, match=f"made from another {re.escape(str(cut))}"):
        open_collation(found.folder)


# --- which square ---------------------------------------------------------------------------------


def test_the_square_is_one_of_median_density():
    rng = np.random.default_rng(2)
    fields = {20.0: 50, 60.0: 400, 100.0: 3000}  # at 100 most components see 3000, at 20 the edge of a survey
    ra = np.concatenate([rng.uniform(centre - 0.3, centre + 0.3, count) for centre, count in fields.items()])
    dec = rng.uniform(-0.3, 0.3, len(ra))
    usable = np.ones(len(ra), bool)
    everything = typical_square(ra, dec, usable)
    assert 99 < everything.ra_deg < 101
    assert everything.crowded < 0.5
    usable[ra > 80] = rng.random((ra > 80).sum()) < 0.05
    sparse = typical_square(ra, dec, usable)
    assert 59 < sparse.ra_deg < 61
    with pytest.raises(CatalogueError, match="no component that uses a mask has a position"):
        typical_square(ra, dec, np.zeros(len(ra), bool))
    ra[:] = np.nan
    with pytest.raises(CatalogueError):
        typical_square(ra, dec, usable)


@pytest.mark.parametrize(("ra", "dec"), [(0.0, 0.0), (359.9, 45.0), (187.3, 75.0), (40.0, -89.0)])
def test_a_survey_that_fits_into_the_square_lies_in_its_middle(ra, dec):
    rng, square = np.random.default_rng(5), Square(ra, dec, 0.5)
    east, north = rng.uniform(-0.35, 0.35, 400), rng.uniform(-0.35, 0.35, 400)
    north[:300] = rng.uniform(0.2, 0.35, 300)  # most lie at one side
    centre = SkyCoord(ra, dec, unit="deg").skyoffset_frame()
    sky = SkyCoord(east, north, unit="deg", frame=centre).icrs
    found = typical_square(sky.ra.deg, sky.dec.deg, np.ones(400, bool))
    assert found.whole
    assert len(found.inside(sky.ra.deg, sky.dec.deg)) == 400
    for offsets in found.offsets(sky.ra.deg, sky.dec.deg):
        assert abs(offsets.min() + offsets.max()) < 40  # arcsec; that of the mean is 600 off
    wide = SkyCoord(2 * east, 2 * north, unit="deg", frame=centre).icrs
    assert not typical_square(wide.ra.deg, wide.dec.deg, np.ones(400, bool)).whole
    assert not square.whole


@pytest.mark.parametrize(("ra", "dec"), [(0.0, 0.0), (359.9, 45.0), (120.0, 89.8), (10.0, -90.0)])
def test_a_square_holds_a_square_degree_anywhere(ra, dec):
    rng, square = np.random.default_rng(1), Square(ra, dec, 0.5)
    z = rng.uniform(-1, 1, 2_000_000)
    cap = np.flatnonzero(np.abs(np.degrees(np.arcsin(z)) - dec) < 1)
    positions = rng.uniform(0, 360, len(cap)), np.degrees(np.arcsin(z[cap]))
    held = square.inside(*positions)
    expected = 2e6 / 41253  # square degrees of the sky
    assert abs(len(held) - expected) < 4 * np.sqrt(expected)
    positions[0][held[:3]] = np.nan
    assert len(square.inside(*positions)) == len(held) - 3


def test_corrections_within_the_square_are_kept(survey, tmp_path):
    _, inputs, _ = survey
    table = inputs.base.read()
    ra, dec = inputs.base.positions(table)
    square = typical_square(ra, dec, inputs.rank >= 0)
    rows = square.inside(ra, dec, MARGINS * inputs.limit_arcsec)
    inner, outer = rows.tolist(), np.setdiff1d(np.arange(ROWS), rows).tolist()
    given = Corrections(((inner[2], inner[9]), (inner[0], outer[0])), (inner[5], outer[1]))
    found = reduced_inputs(replace(inputs, corrections=given), square, ra, dec, tmp_path)
    assert found.corrections == Corrections(((2, 9),), (5,))
    assert found.base.rows == len(rows) == len(found.rank) == len(found.status)
    order = np.argsort(found.rank[found.rank >= 0])
    assert np.array_equal(order, np.argsort(inputs.rank[rows][found.rank >= 0]))
    assert sorted(found.rank[found.rank >= 0]) == list(range((found.rank >= 0).sum()))
    place = np.searchsorted(inputs.mapped.row, rows[found.mapped.row])
    assert np.array_equal(found.mapped.neuron, inputs.mapped.neuron[place])
    assert np.array_equal(found.mapped.angle_rad, inputs.mapped.angle_rad[place])


def test_a_field_without_links_or_hosts_is_drawn():
    sources = pd.DataFrame(
        {"source": [0, 1], "name": ["a", "b"], "components": [1, 1], "members": [[0], [1]], "inside": [True, True]}
    )
    none = np.empty((0, 2))
    figure = draw_field(np.zeros((2, 2)), sources, none.astype(int), {"Host": none, "Other": none})
    assert len(figure.axes) == 1
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["alone", "linked", "Host", "Other"]


def test_a_catalogue_without_rows_in_the_square(survey, tmp_path):
    output, _, _ = survey
    pd.DataFrame({"RA": [200.0], "DEC": [80.0]}).to_csv(tmp_path / "far.csv", index=False)
    choices = (CatalogueChoice(output.catalogue), CatalogueChoice(tmp_path / "far.csv"))
    found = dry_run(inputs_from_output(output, CollateOptions(choices)), tmp_path / "out", SETTINGS)
    assert len(pd.read_parquet(found.folder / "catalogues" / "channel1.parquet")) == 0
    assert "; 0 with 'IR Host'" in found.words
