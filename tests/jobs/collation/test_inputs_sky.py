"""Turns of images on the sky: neighbours land on the pixels of the image that was mapped, whatever way it lay."""

import importlib.util
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from astropy import units
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.wcs import WCS

from skysom.engine.collation.projection import (
    neuron_offsets,
    pixel_offsets,
    pixel_offsets_of_wcs,
    sky_offsets_arcsec,
)
from skysom.jobs.collation.inputs_assembly import CollateOptions
from skysom.jobs.collation.inputs_output import inputs_from_output
from skysom.jobs.errors import ConfigError
from skysom.storage.survey import Survey

_spec = importlib.util.spec_from_file_location("collation_survey", Path(__file__).with_name("collation_survey.py"))
made = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(made)

ROWS, SCALE = 12, made.SCALE


def wcs_at(ra, dec, turn_deg=0.0, mirrored=False, side=made.IMAGE_SIDE, off=0.0, scale=SCALE):
    """A gnomonic image whose centre (``off`` pixels beside it) is at a position, turned and perhaps mirrored.

    scale : arcsec a pixel, one or of columns and rows.
    """
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval, wcs.wcs.crpix = [ra, dec], [(side + 1) / 2 + off, (side + 1) / 2]
    turn = np.radians(turn_deg)
    matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    wcs.wcs.cd = np.diag([1.0 if mirrored else -1.0, 1.0]) @ matrix * np.asarray(scale) / 3600
    wcs.wcs.set()
    return wcs


def part(images, named):
    return {"start": 0, "stop": ROWS, "images": [str(images)], "named": named, "catalogue_sha256": "0"}


def survey_of_files(folder, wcs_of, **attrs):
    """An output whose cut-outs are files with the coordinates ``wcs_of(row, ra, dec)``; None: a header without any."""
    (folder / "images").mkdir(parents=True)
    ra, dec = made.positions(ROWS)
    for row in range(ROWS):
        wcs = wcs_of(row, ra[row], dec[row])
        header = None if wcs is None else wcs.to_header()
        image = np.zeros((made.IMAGE_SIDE, made.IMAGE_SIDE), np.float32)
        fits.PrimaryHDU(image, header).writeto(folder / "images" / f"{row}.fits")
    output = made.make_survey(folder / "survey", ROWS, parts=[part(folder / "images", True)], **attrs)
    table = pd.read_parquet(output.catalogue)
    table.assign(filename=[f"{row}.fits" for row in range(ROWS)]).to_parquet(output.catalogue)
    made.annotate(output)
    return output


def check_lands_on_the_image(output, wcs_of, atol=0.02):
    """Neighbours are where the image's own coordinates, and the stored turn onto the neuron, have them."""
    mapped, survey = inputs_from_output(output, CollateOptions()).mapped, Survey(output.survey)
    turns, flips = (survey.column(f"mappings/main/bmu_{name}") for name in ("rotation", "flip"))
    ra, dec = survey.column("ra_deg"), survey.column("dec_deg")
    rng, compared = np.random.default_rng(0), 0
    for row, angle, flip in zip(mapped.row, mapped.angle_rad, mapped.flip, strict=True):
        there = SkyCoord(ra[row], dec[row], unit="deg").spherical_offsets_by(
            *(rng.uniform(-20, 20, (2, 5)) * units.arcsec)
        )
        image = pixel_offsets_of_wcs(wcs_of(row, ra[row], dec[row]), SkyCoord(ra[row], dec[row], unit="deg"), there)
        expected = neuron_offsets(*image, turns[row] * 2 * np.pi / made.ROTATIONS, int(flips[row]))
        centre = np.full(5, ra[row]), np.full(5, dec[row])
        sky = pixel_offsets(*sky_offsets_arcsec(*centre, there.ra.deg, there.dec.deg), SCALE)
        assert np.allclose(neuron_offsets(*sky, angle, int(flip)), expected, rtol=0, atol=atol)
        compared += 1
    assert compared == ROWS - 1


def test_cut_outs_with_north_up_are_taken_as_they_are(tmp_path, capsys):
    output = survey_of_files(tmp_path, lambda row, ra, dec: wcs_at(ra, dec))
    check_lands_on_the_image(output, lambda row, ra, dec: wcs_at(ra, dec))
    assert "headers" not in capsys.readouterr().err
    turns = Survey(output.survey).column("mappings/main/bmu_rotation")
    mapped = inputs_from_output(output, CollateOptions()).mapped
    step = np.float32(2 * np.pi) / np.float32(made.ROTATIONS)
    assert np.array_equal(mapped.angle_rad, turns[mapped.row].astype(np.float32) * step)


def test_cut_outs_of_any_orientation(tmp_path, capsys):
    def wcs_of(row, ra, dec):
        return wcs_at(ra, dec, 17.0 * row, mirrored=row % 3 == 0)

    output = survey_of_files(tmp_path, wcs_of)
    check_lands_on_the_image(output, wcs_of)
    said = capsys.readouterr().err
    assert "the cut-outs are not all north up; reading the headers of 11" in said
    assert "north is not up in 11 of 11 images" in said


def test_cut_outs_that_say_nothing(tmp_path, capsys):
    output = survey_of_files(tmp_path / "bare", lambda row, ra, dec: None)
    inputs = inputs_from_output(output, CollateOptions())
    note = "the cut-outs do not tell how they lie on the sky, or are gone: north is taken as up in them"
    assert inputs.origin["notes"] == [note]
    assert note in capsys.readouterr().err
    some = survey_of_files(tmp_path / "some", lambda row, ra, dec: wcs_at(ra, dec, 90.0) if row % 2 else None)
    assert inputs_from_output(some, CollateOptions()).origin["notes"] == [
        "6 cut-outs do not tell how they lie on the sky: north is taken as up"
    ]
    assert np.allclose(turned_by(some)[::2], 0, atol=1e-5)


def turned_by(output):
    """How far the turns of the inputs are from those of the mapping, radians, by row of the survey (row 5 is 0)."""
    mapped, survey = inputs_from_output(output, CollateOptions()).mapped, Survey(output.survey)
    turns = survey.column("mappings/main/bmu_rotation")[mapped.row] * 2 * np.pi / made.ROTATIONS
    found = np.zeros(ROWS)
    found[mapped.row] = np.angle(np.exp(1j * (mapped.angle_rad - turns)))
    return found


def test_sources_beside_the_centres_of_their_cut_outs(tmp_path, capsys):
    output = survey_of_files(tmp_path / "all", lambda row, ra, dec: wcs_at(ra, dec, off=4.0))
    with pytest.raises(ConfigError, match=r"not lie at the centres of their cut-outs: .* more than 4 pixels away"):
        inputs_from_output(output, CollateOptions())
    output = survey_of_files(tmp_path / "few", lambda row, ra, dec: wcs_at(ra, dec, 45, off=9.0 * (row in (3, 8))))
    notes = inputs_from_output(output, CollateOptions()).origin["notes"]
    assert notes == ["2 sources lie more than 2 pixels from the centres of their cut-outs"]


OBLONG = (2.0, 3.0)


@pytest.mark.parametrize("turn", [45.0, 90.0, 200.0])
def test_pixels_that_are_not_square_on_images_that_are_turned(tmp_path, turn):
    def wcs_of(row, ra, dec):
        wcs = wcs_at(ra, dec, turn)
        wcs.wcs.cd = np.diag(np.array(OBLONG) / SCALE) @ wcs.wcs.cd
        return wcs

    output = survey_of_files(tmp_path, wcs_of)
    with pytest.raises(ConfigError, match=r"pixels of 2 by 3 arcsec on images that are turned: .* resample at ingest"):
        inputs_from_output(output, CollateOptions(pixel_scale_arcsec=OBLONG))


@pytest.mark.parametrize(("turn", "mirrored"), [(0.0, False), (180.0, False), (0.0, True)])
def test_pixels_that_are_not_square_on_images_that_are_not(tmp_path, turn, mirrored):
    output = survey_of_files(tmp_path, lambda row, ra, dec: wcs_at(ra, dec, turn, mirrored, scale=OBLONG))
    inputs = inputs_from_output(output, CollateOptions(pixel_scale_arcsec=OBLONG))
    assert (inputs.pixel_scale_arcsec, inputs.origin["notes"]) == (OBLONG, [])


def notes_of(output, **options):
    return inputs_from_output(output, CollateOptions(**options)).origin["notes"]


def test_images_of_another_scale_than_the_stated_one(tmp_path, capsys):
    files = survey_of_files(tmp_path / "files", lambda row, ra, dec: wcs_at(ra, dec, 30.0 * (row > 3), scale=2.5))
    (note,) = notes_of(files)
    assert "coordinates have pixels of 2.5 by 2.5 arcsec as they were mapped, the masks are laid on the sky wi" in note
    assert note in capsys.readouterr().err
    assert notes_of(files, pixel_scale_arcsec=(2.5, 2.5)) == []
    assert notes_of(survey_of_files(tmp_path / "near", lambda row, ra, dec: wcs_at(ra, dec, scale=2.01))) == []
    (tmp_path / "tiles").mkdir()
    tile = wcs_at(0.0, 20.0, side=2001, scale=(1.0, 2.0))
    fits.PrimaryHDU(np.ones((2001, 2001), np.float32), tile.to_header()).writeto(tmp_path / "tiles" / "tile.fits")
    output = made.make_survey(tmp_path / "survey", ROWS, parts=[part(tmp_path / "tiles", False)])
    made.annotate(output)
    assert "pixels of 1 by 2 arcsec" in notes_of(output)[-1]


def test_the_scale_of_images_is_that_after_their_preparation(tmp_path):
    def wcs_of(row, ra, dec):
        return wcs_at(ra, dec, scale=1.0)

    chain = [["block_mean", {"max_side": made.IMAGE_SIDE}]]
    for name, attrs in (
        ("files", {"pixel_scale_arcsec": 1.0}),
        ("resampled", {"resample_arcsec": 2.0, "pixel_scale_arcsec": 2.0}),
    ):
        attrs = {"pixel_scale_arcsec": 1.0, "chain": chain, "image_side": 2 * made.IMAGE_SIDE} | attrs
        assert notes_of(survey_of_files(tmp_path / name, wcs_of, **attrs)) == []
    attrs = {"pixel_scale_arcsec": 2.0, "chain": chain, "image_side": 2 * made.IMAGE_SIDE}
    (note,) = notes_of(survey_of_files(tmp_path / "not", wcs_of, **attrs))
    assert "pixels of 2 by 2 arcsec as they were mapped, the masks are laid on the sky with 4 by 4" in note
    assert notes_of(survey_of_files(tmp_path / "anew", wcs_of, resample_arcsec=SCALE)) == []


@pytest.mark.parametrize(("turn", "mirrored"), [(30.0, False), (200.0, True)])
def test_cut_outs_on_the_grid_of_a_tile(tmp_path, turn, mirrored):
    (tmp_path / "tiles").mkdir()
    tile = wcs_at(0.0, 20.0, turn, mirrored, side=2001)
    image = np.ones((2001, 2001), np.float32)
    fits.PrimaryHDU(image, tile.to_header()).writeto(tmp_path / "tiles" / "tile.fits")
    output = made.make_survey(tmp_path / "survey", ROWS, parts=[part(tmp_path / "tiles", False)])
    made.annotate(output)
    check_lands_on_the_image(output, lambda row, ra, dec: tile)


def test_resampled_cut_outs_of_tiles_are_north_up_and_tiles_may_be_gone(tmp_path):
    for name, resample, notes in (("same", None, 1), ("resampled", SCALE, 0)):
        parts = [part(tmp_path / "nowhere", False)]
        output = made.make_survey(tmp_path / name, ROWS, parts=parts, resample_arcsec=resample)
        made.annotate(output)
        inputs = inputs_from_output(output, CollateOptions())
        assert len(inputs.origin["notes"]) == notes
        assert np.allclose(turned_by(output), 0, atol=1e-5)
