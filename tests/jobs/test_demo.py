"""The simulated survey: what a reader of its files finds."""

import numpy as np
import pandas as pd
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from skysom.jobs.demo import RMS_MJY, simulate_survey
from skysom.jobs.simulation import Beam, correlated_noise, draw_source


@pytest.fixture(scope="module")
def survey(tmp_path_factory):
    return simulate_survey(tmp_path_factory.mktemp("demo"), components=120, seed=3, tiles=2)


@pytest.fixture(scope="module")
def table(survey):
    return pd.read_csv(survey.catalogue)


def test_the_tiles_have_wcs_beam_and_unit(survey):
    files = sorted(survey.images.glob("*.fits"))
    assert len(files) == 2
    for file in files:
        header = fits.getheader(file)
        assert header["BUNIT"] == "Jy/beam"
        assert header["CTYPE1"] == "RA---SIN"
        assert header["BMAJ"] * 3600 == pytest.approx(5.6)
        assert header["BMAJ"] >= header["BMIN"]
        assert "BPA" in header
        assert fits.getdata(file).dtype == ">f4"


def test_the_noise_is_what_it_says_and_correlated_over_the_beam():
    noise = correlated_noise((300, 280), 1.8, Beam(), RMS_MJY, np.random.default_rng(1))
    assert noise.std() == pytest.approx(RMS_MJY, rel=1e-6)
    neighbour = np.corrcoef(noise[:, 1:].ravel(), noise[:, :-1].ravel())[0, 1]
    # the correlation of noise convolved with a Gaussian of standard deviation s is exp(-x^2 / 4 s^2)
    sigma = 5.3 / 2.355 / 1.8
    assert neighbour == pytest.approx(np.exp(-1 / (4 * sigma**2)), abs=0.03)


def test_the_catalogue_has_every_class_and_the_promised_bad_rows(table):
    assert len(table) == 120
    assert set(table["true_class"]) == {"compact", "double", "triple", "fr1", "bent", "sidelobe", "noise"}
    assert table["ra"].isna().sum() == 1
    assert table["source_id"].duplicated().sum() == 1
    assert (table["dec"] < 25).sum() == 1
    assert (table["total_mjy"] > 0).all()


def test_catalogued_peaks_are_found_in_the_tiles(survey, table):
    images = [(WCS(fits.getheader(f)), fits.getdata(f) * 1e3) for f in sorted(survey.images.glob("*.fits"))]
    rows = table[~table["source_id"].str.contains("bad") & (table["peak_mjy_per_beam"] > 5)]
    ratios = []
    for row in rows.itertuples():
        for wcs, data in images:
            x, y = (int(np.rint(v)) for v in wcs.world_to_pixel_values(row.ra, row.dec))
            if 2 <= x < data.shape[1] - 2 and 2 <= y < data.shape[0] - 2 and np.isfinite(data[y, x]):
                ratios.append(np.nanmax(data[y - 2 : y + 3, x - 2 : x + 3]) / row.peak_mjy_per_beam)
    assert len(ratios) >= len(rows)
    assert np.median(ratios) == pytest.approx(1.0, abs=0.15)


def test_the_same_seed_gives_the_same_survey(tmp_path):
    first = simulate_survey(tmp_path / "a", components=40, tiles=1)
    again = simulate_survey(tmp_path / "b", components=40, tiles=1)
    other = simulate_survey(tmp_path / "c", components=40, seed=8, tiles=1)
    tile = "tile_00.fits"
    assert first.catalogue.read_bytes() == again.catalogue.read_bytes() != other.catalogue.read_bytes()
    np.testing.assert_array_equal(fits.getdata(first.images / tile), fits.getdata(again.images / tile))


def test_sources_keep_their_flux_and_are_not_all_alike():
    rng = np.random.default_rng(0)
    sources = [draw_source(rng) for _ in range(200)]
    assert {source.kind for source in sources} == {"compact", "double", "triple", "fr1", "bent"}
    assert all((source.elements[:, 2] > 0).all() for source in sources)
    assert any(len(source.components) > 1 for source in sources)


def test_too_few_components_are_refused(tmp_path):
    with pytest.raises(ValueError, match="at least 20 components"):
        simulate_survey(tmp_path, components=5)
