"""The command that writes sources for other programs, on the tables of a collation."""

import importlib.util
import shutil
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
from astropy.table import Table
from regions import Regions
from typer.testing import CliRunner

from skysom.jobs.cli_export_sources import export_sources_command
from skysom.jobs.collation.source_table import component_table, number_sources, source_table
from skysom.jobs.errors import ConfigError
from skysom.storage.errors import CatalogueError
from skysom.storage.fits_export import ExportError

_spec = importlib.util.spec_from_file_location("source_table_skies", Path(__file__).with_name("source_table_skies.py"))
assert _spec is not None
assert _spec.loader is not None
skies = importlib.util.module_from_spec(_spec)
sys.modules["source_table_skies"] = skies
_spec.loader.exec_module(skies)


@pytest.fixture(scope="module")
def collated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pa.Table]:
    """A folder with the tables of a sky, and the sources."""
    sky, folder = skies.sky(12), tmp_path_factory.mktemp("collated")
    smallest = sky.groups.members[sky.groups.starts[:-1]]
    sources = source_table(sky.groups, sky.base, sky.carried, {1: sky.infrared}, sky.columns)
    components = number_sources(component_table(sky.groups, sky.base, sources, sky.columns), smallest)
    sources = number_sources(sources, smallest)
    pq.write_table(sources, folder / "sources.parquet")
    pq.write_table(components, folder / "components.parquet")
    return folder, sources


def run(*arguments: object) -> str:
    app = typer.Typer()
    app.command()(export_sources_command)
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None:
        raise result.exception
    return result.output


@pytest.mark.parametrize("name", ["s.fits", "s.vot"])
def test_tables_hold_what_the_sources_are(collated: tuple[Path, pa.Table], tmp_path: Path, name: str) -> None:
    folder, sources = collated
    assert f"{len(sources)} sources: {tmp_path / name}" in run(folder, tmp_path / name).replace("\n", "")
    found = Table.read(tmp_path / name)
    assert found.colnames == sources.column_names
    assert found["source"].tolist() == list(range(len(sources)))
    assert [list(rows) for rows in found["members"]] == sources["members"].to_pylist()
    assert [str(text) for text in found["member_ids"]] == [
        ";".join(text.replace(";", "%3B") for text in texts) for texts in sources["member_ids"].to_pylist()
    ]
    assert str(found["size_arcsec"].unit) == "arcsec"
    if name == "s.vot":
        assert found["size_arcsec"].description == "largest separation of two members"
    else:
        assert "largest separation of two members" in [value for key, value in found.meta.items() if "TCOMM" in key]


def test_regions_of_chosen_sources(collated: tuple[Path, pa.Table], tmp_path: Path) -> None:
    folder, sources = collated
    chosen = [row for row in sources.to_pylist() if row["components"] > 1]
    said = run(folder / "sources.parquet", tmp_path / "s.reg", "--where", "components > 1")
    assert f"{len(chosen)} sources" in said
    drawn = [region.meta.get("text") for region in Regions.read(tmp_path / "s.reg", format="ds9")]
    assert [text for text in drawn if text] == [row["name"] for row in chosen]
    hosts = sum(row["ir_host_count"] + row["nearby_count"] for row in chosen)
    assert len(drawn) == len(chosen) + sum(row["components"] for row in chosen) + hosts


def test_files_are_replaced_only_when_asked(collated: tuple[Path, pa.Table], tmp_path: Path) -> None:
    run(collated[0], tmp_path / "s.vot")
    with pytest.raises(ExportError, match="is there already; write elsewhere, or give --overwrite"):
        run(collated[0], tmp_path / "s.vot")
    run(collated[0], tmp_path / "s.vot", "--overwrite", "--where", "components > 100")
    assert len(Table.read(tmp_path / "s.vot")) == 0


def test_columns_that_are_not_there_are_told_with_those_that_are(
    collated: tuple[Path, pa.Table], tmp_path: Path
) -> None:
    for name in ("s.reg", "s.fits"):
        with pytest.raises(
            CatalogueError, match=r"'size_arcsc'.*did you mean 'size_arcsec'\?.* size_arcsec, .*curvature"
        ):
            run(collated[0], tmp_path / name, "--where", "size_arcsc > 60")
        with pytest.raises(CatalogueError, match="has lists in its column 'members'"):
            run(collated[0], tmp_path / name, "--where", "members > 60")
        assert not (tmp_path / name).exists()


def test_where_nothing_was_collated(collated: tuple[Path, pa.Table], tmp_path: Path) -> None:
    for given in (tmp_path, tmp_path / "none", tmp_path / "none" / "sources.parquet"):
        with pytest.raises(ConfigError, match="holds no finished collation; make one with `skysom collate`"):
            run(given, tmp_path / "t.vot")
    shutil.copytree(collated[0], tmp_path / "survey" / "collation")  # an output has its collation in it
    run(tmp_path / "survey", tmp_path / "t.vot")
    assert len(Table.read(tmp_path / "t.vot")) == len(collated[1])


def test_folders_that_are_not_there_are_refused_at_once(collated: tuple[Path, pa.Table], tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"there is no folder .*none; make it"):
        run(collated[0], tmp_path / "none" / "s.fits")
    assert not (tmp_path / "none").exists()
    (tmp_path / "s.fits").mkdir()
    with pytest.raises(ExportError, match="is a directory; give a file in it"):
        run(collated[0], tmp_path / "s.fits", "--overwrite")


def test_tables_of_two_collations_are_refused(collated: tuple[Path, pa.Table], tmp_path: Path) -> None:
    folder = tmp_path / "collation"
    shutil.copytree(collated[0], folder)
    (folder / ".skysom").mkdir()
    (folder / ".skysom" / "publishing.json").write_text("{}")
    for given in (folder, folder / "sources.parquet"):
        with pytest.raises(ConfigError, match="run the same skysom collate again"):
            run(given, tmp_path / "s.vot")
    assert not (tmp_path / "s.vot").exists()
