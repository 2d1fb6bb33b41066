"""Sources like one, on a real run: by profile, by image, and by the images of the nearest profiles."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import survey_files

from skysom.engine.errors import ReadingError
from skysom.engine.lattice import Cartesian
from skysom.jobs.analysis import analyse
from skysom.jobs.cli import main
from skysom.jobs.errors import ConfigError
from skysom.jobs.mapping_reader import MappingReader
from skysom.jobs.output import Output
from skysom.jobs.similar import similar_sources
from skysom.storage.survey import Survey

_spec = importlib.util.spec_from_file_location("mapping_files", Path(__file__).with_name("mapping_files.py"))
mapping_files = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(mapping_files)


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    """150 cut-outs and some bad ones, run through to a map and a mapping."""
    folder = tmp_path_factory.mktemp("run")
    good, bad = survey_files.write_cutouts(folder, 150), survey_files.write_bad_cutouts(folder)
    pd.concat([good.iloc[:70], bad, good.iloc[70:]], ignore_index=True).to_csv(folder / "sources.csv", index=False)
    found = folder / "out"
    run = ["run", "--images", str(folder), "--catalogue", str(folder / "sources.csv"), "-o", str(found)]
    tiny = [*survey_files.TINY, "--set", "map.method='exact'", "--workers", "1"]
    assert main([*run, *tiny]) == 0
    return Output(found)


def test_a_real_run_is_analysed(output):
    summary = analyse(output, "main").summary
    table = pd.read_parquet(output.catalogue)
    assert summary["map_checked"]
    assert summary["mapped"] == table["bmu"].notna().sum() == 150
    assert summary["not_mapped"] == len(table) - 150
    neurons = pd.read_csv(output.root / "neurons.csv")
    assert neurons["hits"].tolist() == np.bincount(table["bmu"].dropna().astype(int), minlength=6).tolist()
    worst = table["bmu_distance"].idxmax()
    assert json.loads((output.root / "analysis.json").read_text())["worst_matches"][0]["row"] == worst


def test_by_profile(output):
    reader = MappingReader(output)
    distance = next(reader.blocks(rows=1000))["distance"].astype(np.float64)
    apart = np.linalg.norm(distance - distance[3], axis=1)
    apart[3] = np.nan
    told = []
    found = similar_sources(reader, 3, 5, tell=lambda done, total: told.append((done, total)))
    assert found.rows.tolist() == np.argsort(apart)[:5].tolist()
    np.testing.assert_allclose(found.distance, np.sort(apart)[:5])
    assert told[-1] == (len(reader), len(reader))


def test_by_image_and_by_the_images_of_the_nearest_profiles(output):
    reader = MappingReader(output)
    every = similar_sources(reader, 3, 8, by="image")
    assert 3 not in every.rows
    assert (np.diff(every.distance) >= 0).all()
    assert (every.rotation < reader.geometry.rotations).all()
    usable = Survey(output.survey).column("ok")
    assert usable[every.rows].all()
    among = similar_sources(reader, 3, 8, by="image", among=int(usable.sum()))
    assert among.rows.tolist() == every.rows.tolist()
    np.testing.assert_allclose(among.distance, every.distance, rtol=1e-5)
    assert among.flip.tolist() == every.flip.tolist()
    few = similar_sources(reader, 3, 8, by="image", among=20)
    assert set(few.rows) <= set(similar_sources(reader, 3, 20).rows.tolist())


def test_sources_that_cannot_be_compared_are_refused(output, tmp_path):
    reader = MappingReader(output)
    with pytest.raises(ConfigError, match="row 999"):
        similar_sources(reader, 999, 3)
    bad = int(np.flatnonzero(~Survey(output.survey).column("ok"))[0])
    with pytest.raises(ReadingError, match="not mapped"):
        similar_sources(reader, bad, 3)
    with pytest.raises(ConfigError, match=f"row {bad} is not usable"):
        similar_sources(reader, bad, 3, by="image")
    kept = mapping_files.make_output(
        tmp_path / "kept", np.random.default_rng(0).random((70, 4)), Cartesian(2, 2), keep=2
    )
    with pytest.raises(ConfigError, match="best 2 neurons"):
        similar_sources(MappingReader(kept), 0, 3)
