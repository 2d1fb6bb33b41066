"""The main job on other inputs: tiles, two channels of different pixel scale, compressed files, real surveys."""

import sys

import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS

from skysom.jobs import cutouts
from skysom.jobs.cli import main

MAP = [
    "--set", "som.width=2", "--set", "som.height=2", "--set", "train.stages=[{rotations=8}]",
    "--set", "preprocess.steps=[{step='min_max'}]",
]  # fmt: skip


def write_tile(path, positions, scale_arcsec, side=120, noise=0.01):
    """A tile around (150, 2) degrees with a Gaussian source of 4 arcsec at every position."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval = ["RA---SIN", "DEC--SIN"], [150.0, 2.0]
    wcs.wcs.crpix, wcs.wcs.cdelt = [(side + 1) / 2] * 2, [-scale_arcsec / 3600, scale_arcsec / 3600]
    y, x = np.mgrid[:side, :side]
    image = np.random.default_rng(1).normal(0, noise, (side, side))
    for px, py in zip(*wcs.world_to_pixel_values(*np.transpose(positions)), strict=True):
        image += np.exp(-((x - px) ** 2 + (y - py) ** 2) / 2 / (4 / scale_arcsec) ** 2)
    path.parent.mkdir(parents=True, exist_ok=True)
    fits.PrimaryHDU(image[None, None].astype(np.float32), wcs.to_header()).writeto(path)


@pytest.fixture
def positions():
    rng = np.random.default_rng(3)
    return np.column_stack([rng.uniform(149.98, 150.02, 12), rng.uniform(1.98, 2.02, 12)])


@pytest.mark.slow
def test_two_channels_of_tiles_on_one_grid(tmp_path, positions, capsys):
    write_tile(tmp_path / "radio/tile.fits", positions, 2.0)
    write_tile(tmp_path / "infrared/tile.fits", positions, 3.0, side=80)
    table = pd.DataFrame(positions, columns=["ra", "dec"])
    table.loc[12] = [np.nan, 2.0]
    table.loc[13] = [151.0, 2.0]
    Table.from_pandas(table).write(tmp_path / "sources.fits")
    output = tmp_path / "out"
    arguments = ["run", "-i", str(tmp_path / "radio"), "-i", str(tmp_path / "infrared" / "*.fits"), "-o", str(output)]
    arguments += ["-c", str(tmp_path / "sources.fits"), *MAP, "--set", "ingest.side_pixels=15"]
    arguments += ["--set", "ingest.channels=['radio', 'infrared']", "--set", "preprocess.channel_weights='median_sum'"]
    assert main(arguments) == 0, capsys.readouterr().err
    store = zarr.open_group(output / "survey.zarr", mode="r")
    images = store["images"][:]
    assert images.shape == (14, 2, 15, 15)
    assert store.attrs["pixel_scale_arcsec"] == pytest.approx(2.0, rel=1e-6)
    peaks = [np.unravel_index(np.nanargmax(image), (15, 15)) for image in images[:12].reshape(-1, 15, 15)]
    assert np.mean([max(abs(y - 7), abs(x - 7)) <= 1 for y, x in peaks]) > 0.8  # others have a brighter neighbour
    sums = store["channel_sum"][:12] * np.asarray(store.attrs["channel_weights"])
    assert np.median(sums[:, 0]) == pytest.approx(np.median(sums[:, 1]), rel=1e-5)
    result = pd.read_parquet(output / "catalogue.parquet")
    assert result["status"].tolist() == ["ok"] * 12 + ["bad_position", "no_coverage"]
    assert result["source_id"].tolist() == list(range(14)) or result["source_id"].tolist() == [
        str(i) for i in range(14)
    ]
    assert zarr.open_group(output / "survey.zarr", mode="r")["soms/main/weights"].shape[:2] == (4, 2)


def test_sources_at_the_edge_are_padded_and_say_so(tmp_path, positions):
    write_tile(tmp_path / "tiles/t.fits", positions, 2.0)
    edge = pd.DataFrame({"ra": [150.0, 150.0], "dec": [2.0, 2.0 + 57 * 2 / 3600], "name": ["middle", "edge"]})
    edge.to_csv(tmp_path / "c.csv", index=False)
    arguments = ["run", "-i", str(tmp_path / "tiles"), "-c", str(tmp_path / "c.csv"), "-o", str(tmp_path / "o")]
    assert main([*arguments, *MAP, "--set", "ingest.side_pixels=15"]) == 0
    result = pd.read_parquet(tmp_path / "o/catalogue.parquet")
    assert result["status"].tolist() == ["ok", "ok"]
    assert result["coverage"][0] == 1
    assert 0.3 < result["coverage"][1] < 1


@pytest.mark.parametrize("suffix", [pytest.param(".fits.gz", marks=pytest.mark.slow), ".fits.fz"])
def test_compressed_cutouts_and_a_parquet_catalogue_with_result_names(tmp_path, suffix):
    survey_files = sys.modules["survey_files"]
    table = survey_files.write_cutouts(tmp_path, 10)
    for i, name in enumerate(table["filename"]):
        with fits.open(tmp_path / name) as file:
            data, header = file[0].data, file[0].header
            hdu = fits.CompImageHDU(data, header) if suffix == ".fits.fz" else fits.PrimaryHDU(data, header)
            hdu.writeto(tmp_path / f"c{i}{suffix}")
    table["filename"] = [f"c{i}{suffix}" for i in range(10)]
    table["status"], table["bmu"] = "mine", 7
    table.to_parquet(tmp_path / "c.parquet")
    output = tmp_path / "out"
    assert main(["run", "-i", str(tmp_path), "-c", str(tmp_path / "c.parquet"), "-o", str(output), *MAP]) == 0
    result = pd.read_parquet(output / "catalogue.parquet")
    assert (result["status"] == "ok").all()
    assert (result["input_status"] == "mine").all()
    assert (result["input_bmu"] == 7).all()


def test_a_survey_without_a_usable_image_is_no_success(tmp_path, capsys):
    survey_files = sys.modules["survey_files"]
    survey_files.write_cutouts(tmp_path, 3).to_csv(tmp_path / "c.csv", index=False)
    arguments = ["run", "-i", str(tmp_path), "-c", str(tmp_path / "c.csv"), "-o", str(tmp_path / "o"), *MAP]
    assert main([*arguments, "--set", "ingest.side_pixels=30"]) == 1
    assert "0 of 3 images usable (3 wrong_size)" in capsys.readouterr().err


@pytest.mark.slow
def test_resampling_to_a_common_scale(tmp_path):
    survey_files = sys.modules["survey_files"]
    survey_files.write_cutouts(tmp_path, 6).to_csv(tmp_path / "c.csv", index=False)
    arguments = ["run", "-i", str(tmp_path), "-c", str(tmp_path / "c.csv"), "-o", str(tmp_path / "o"), *MAP]
    assert main([*arguments, "--set", "ingest.pixel_scale_arcsec=3.6"]) == 0
    assert zarr.open_group(tmp_path / "o/survey.zarr", mode="r")["images"].shape == (6, 1, 12, 12)


@pytest.mark.realdata
def test_first_cutouts_of_mirabest(shared, tmp_path):
    """800 FIRST cut-outs; their Fanaroff-Riley class is predicted from neighbours on the map."""
    folder = shared("realdata/radio_first_mirabest")
    output = tmp_path / "out"
    arguments = ["run", "-i", str(folder), "-c", str(folder / "mirabest_catalogue.csv"), "-o", str(output)]
    assert main([*arguments, "--preset", "quick"]) == 0
    result = pd.read_parquet(output / "catalogue.parquet")
    assert len(result) == 800
    assert (result["status"] == "ok").sum() >= 799
    store = xr.open_zarr(output / "survey.zarr", consolidated=False)
    assert store.sizes == {"image": 800, "channel": 1, "y": 150, "x": 150, "prepared_y": 75, "prepared_x": 75}
    distance = zarr.open_group(output / "survey.zarr", mode="r")["mappings/main/distance"][:]
    known = (result["fr_class"].isin(["FRI", "FRII"]) & result["bmu"].notna()).to_numpy()
    predicted = leave_one_out(distance[known], result["fr_class"][known].to_numpy(str))
    truth = result["fr_class"][known].to_numpy(str)
    majority = max(np.mean(truth == name) for name in set(truth))
    accuracy = np.mean(predicted == truth)
    print(f"FR class from 9 neighbours: {accuracy:.3f}, majority {majority:.3f}")  # noqa: T201 - the figure of the README
    assert accuracy > majority + 0.15


def leave_one_out(distances, labels, neighbours=9):
    from sklearn.neighbors import NearestNeighbors

    _, index = NearestNeighbors(n_neighbors=neighbours + 1).fit(distances).kneighbors(distances)
    out = []
    for row, near in enumerate(index):
        votes = labels[[n for n in near if n != row][:neighbours]]
        names, counts = np.unique(votes, return_counts=True)
        out.append(names[counts.argmax()])
    return np.array(out)


@pytest.mark.realdata
def test_vlass_quick_look_cutouts(shared, tmp_path):
    folder = shared("realdata/radio_vlass_ql")
    output = tmp_path / "out"
    arguments = ["run", "-i", str(folder), "-c", str(folder / "vlass_catalogue.csv"), "-o", str(output)]
    assert main([*arguments, "--preset", "quick"]) == 0
    result = pd.read_parquet(output / "catalogue.parquet")
    assert len(result) == 131
    assert result["status"].isin(["ok", "empty_mask"]).all()
    assert (result["status"] == "ok").sum() >= 115
    assert (output / "report.html").stat().st_size < 8e6


@pytest.mark.realdata
def test_a_real_mosaic_and_its_component_list(shared, tmp_path):
    mosaic, components = (
        shared("realdata/radio_mosaics/1904-66_SIN.fits"),
        shared("realdata/radio_mosaics/1904_comp.fits"),
    )
    output = tmp_path / "out"
    arguments = ["run", "-i", str(mosaic), "-c", str(components), "-o", str(output), *MAP]
    assert main([*arguments, "--set", "ingest.side_pixels=16"]) == 0
    result = pd.read_parquet(output / "catalogue.parquet")
    assert len(result) == 51
    assert (result["status"] == "ok").sum() >= 45


def test_a_directory_named_like_a_pattern_is_a_directory(tmp_path):
    survey_files = sys.modules["survey_files"]
    folder = tmp_path / "field [a] 2?"
    survey_files.write_cutouts(folder, 3)
    assert cutouts.root_of(str(folder)) == folder
    assert len(cutouts.image_files(str(folder))) == 3
    assert cutouts.root_of(str(folder / "cutouts")) == folder / "cutouts"
    assert len(cutouts.image_files(f"{tmp_path}/f*/cutouts/*.fits")) == 3
