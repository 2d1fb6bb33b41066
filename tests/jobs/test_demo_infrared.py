"""The simulated sky with hosts: the truth fits the catalogues, and the images show what the catalogues list."""

import numpy as np
import pandas as pd
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.wcs import WCS

from skysom.jobs.demo_infrared import PIXEL_ARCSEC, simulate_sky


@pytest.fixture(scope="module")
def sky(tmp_path_factory):
    return simulate_sky(tmp_path_factory.mktemp("sky"), 150, seed=4)


@pytest.fixture(scope="module")
def tables(sky):
    return tuple(pd.read_csv(path) for path in (sky.radio_catalogue, sky.infrared_catalogue, sky.truth))


def values_at(folder, table):
    with fits.open(folder / "field.fits") as file:
        image, wcs = file[0].data, WCS(file[0].header)
    x, y = np.rint(wcs.world_to_pixel_values(table["ra"].to_numpy(), table["dec"].to_numpy())).astype(int)
    return image[y, x], image


def test_truth_and_catalogues_fit(tables):
    radio, infrared, truth = tables
    assert len(radio) == len(truth) >= 140
    assert radio["source_id"].is_unique
    assert infrared["name"].is_unique
    assert (truth.groupby("source")["kind"].nunique() == 1).all()
    assert (truth.groupby("source")["components"].first() == truth["source"].value_counts().sort_index()).all()
    assert {"compact", "double"} <= set(truth["kind"])
    assert truth["components"].max() >= 3


def test_hosts_lie_within_their_sources(tables):
    radio, infrared, truth = tables
    seen = truth["host"] >= 0
    assert 0.75 < seen.mean() < 1
    hosts = infrared.iloc[truth.loc[seen, "host"]]
    places = SkyCoord(radio.loc[seen, "ra"], radio.loc[seen, "dec"], unit="deg")
    away = places.separation(SkyCoord(hosts["ra"], hosts["dec"], unit="deg")).arcsec
    single = (truth.loc[seen, "kind"] == "compact").to_numpy()
    assert np.median(away[single]) < 1.5
    assert away[~single].max() < 60
    assert np.median(away[~single]) > 4


def test_images_show_the_catalogues(sky, tables):
    radio, infrared, _ = tables
    peaks, image = values_at(sky.radio, radio)
    # pixels of 2.5 arcsec, a beam of 5.6: a source between four pixels loses a third
    assert (peaks * 1e3 > 0.55 * radio["peak_mjy_per_beam"] - 0.5).mean() > 0.97
    assert np.median(np.abs(image)) * 1e3 < 0.2
    bright = infrared[infrared["flux"] > 50]
    found, image = values_at(sky.infrared, bright)
    inside = np.isfinite(found)
    assert (found[inside] > 0.5 * bright["flux"][inside]).mean() > 0.97
    area_deg2 = image.size * (PIXEL_ARCSEC / 3600) ** 2
    assert 30_000 < len(infrared) / area_deg2 < 50_000


def test_the_same_seed_gives_the_same_sky(sky, tables, tmp_path):
    again = simulate_sky(tmp_path, 150, seed=4)
    assert again.truth.read_bytes() == sky.truth.read_bytes()
    assert (again.radio / "field.fits").read_bytes() == (sky.radio / "field.fits").read_bytes()
    other = simulate_sky(tmp_path / "other", 150, seed=5)
    assert other.truth.read_bytes() != sky.truth.read_bytes()
    with pytest.raises(ValueError, match="at least 20"):
        simulate_sky(tmp_path, 3)
