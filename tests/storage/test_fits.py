"""Reading FITS images: every accepted layout gives the same pixels, every bad file its own status."""

import gzip
import pickle
import warnings

import numpy as np
import pytest
from astropy.io import fits

from skysom.storage.fits import ImageProblem, OpenImage, judge, read_cutout, read_image, resample_image
from skysom.storage.status import STATUSES

SIDE = 12


@pytest.fixture
def image():
    return np.random.default_rng(1).normal(size=(SIDE, SIDE)).astype(np.float32)


def sky_header(side=SIDE, scale=2.0, **cards):
    header = fits.Header()
    header.update(
        {
            "CTYPE1": "RA---TAN",
            "CTYPE2": "DEC--TAN",
            "CRVAL1": 150.0,
            "CRVAL2": 2.0,
            "CRPIX1": (side + 1) / 2,
            "CRPIX2": (side + 1) / 2,
            "CDELT1": -scale / 3600,
            "CDELT2": scale / 3600,
            "BUNIT": "Jy/beam",
            **cards,
        }
    )
    return header


def write(path, data, **cards):
    fits.writeto(path, data, sky_header(data.shape[-1], **cards))
    return path


def status_of(path):
    with pytest.raises(ImageProblem) as caught:
        read_image(path)
    assert caught.value.status in STATUSES
    assert read_cutout(path, SIDE).status == caught.value.status
    return caught.value.status


# --- what is read ---------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["fits", "fits.gz"])
@pytest.mark.parametrize("shape", [(SIDE, SIDE), (1, SIDE, SIDE), (1, 1, SIDE, SIDE)])
def test_layouts(tmp_path, image, suffix, shape):
    path = write(tmp_path / f"a.{suffix}", image.reshape(shape), BMAJ=0.001, BMIN=0.0005, BPA=30.0)
    found = read_image(path)
    assert found.data.dtype == np.float32
    np.testing.assert_array_equal(found.data, image)
    assert found.unit == "Jy/beam"
    assert found.beam == (0.001, 0.0005, 30.0)
    assert found.pixel_scale_arcsec == pytest.approx(2.0)
    assert found.wcs.pixel_to_world(5.5, 5.5).ra.deg == pytest.approx(150.0)
    assert read_cutout(path, SIDE).status == "ok"


def test_compressed_extension(tmp_path, image):
    path = tmp_path / "a.fits.fz"
    integers = (image * 100).astype(np.int32)
    fits.CompImageHDU(integers, sky_header()).writeto(path)
    found = read_image(path)
    np.testing.assert_array_equal(found.data, integers)
    assert found.pixel_scale_arcsec == pytest.approx(2.0)
    with OpenImage(path) as opened:
        np.testing.assert_array_equal(opened.read(slice(2, 5), slice(1, 4)), integers[2:5, 1:4])


def test_image_in_an_extension(tmp_path, image):
    path = tmp_path / "a.fits"
    table = fits.BinTableHDU.from_columns([fits.Column("x", "D", array=np.arange(7.0))])
    fits.HDUList([fits.PrimaryHDU(), table, fits.ImageHDU(image)]).writeto(path)
    np.testing.assert_array_equal(read_image(path).data, image)


def test_scaled_integers_and_blank(tmp_path):
    raw = np.arange(SIDE * SIDE, dtype=np.int16).reshape(SIDE, SIDE)
    hdu = fits.PrimaryHDU(raw)
    hdu.header.update({"BLANK": 5})
    path = tmp_path / "a.fits"
    hdu.writeto(path)
    content = path.read_bytes()
    cards = b"".join(c.ljust(80) for c in (b"BSCALE  =                  0.5", b"BZERO   =                 10.0"))
    end = content.index(b"END" + b" " * 77)
    path.write_bytes(content[:end] + cards + content[end : end + 80] + content[end + 240 :])
    data = read_image(path).data
    assert np.isnan(data[0, 5])
    assert np.isnan(data).sum() == 1
    expected = raw * 0.5 + 10
    expected[0, 5] = np.nan
    np.testing.assert_array_equal(data, expected.astype(np.float32))


def test_unsigned_integers(tmp_path):
    raw = np.full((SIDE, SIDE), 60000, dtype=np.uint16)
    raw[0, 0] = 1
    fits.writeto(tmp_path / "a.fits", raw)
    np.testing.assert_array_equal(read_image(tmp_path / "a.fits").data, raw)


def test_nan_is_kept_and_infinity_becomes_nan(tmp_path, image):
    image[0, 0], image[0, 1] = np.nan, np.inf
    result = read_cutout(write(tmp_path / "a.fits", image), SIDE)
    assert result.status == "ok"
    assert np.isnan(result.data[0, :2]).all()
    assert result.coverage == pytest.approx(1 - 2 / SIDE**2)


def test_no_wcs_is_none(tmp_path, image):
    fits.writeto(tmp_path / "a.fits", image)
    found = read_image(tmp_path / "a.fits")
    assert (found.wcs, found.pixel_scale_arcsec, found.beam, found.unit) == (None, None, None, "")
    assert read_image(write(tmp_path / "b.fits", image, CDELT1=0.0)).wcs is None


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["absent.fits", "folder", "x" * 300 + ".fits", "a\0b.fits"])
def test_missing(tmp_path, name):
    (tmp_path / "folder").mkdir()
    assert status_of(tmp_path / name) == "missing_file"


@pytest.mark.parametrize("content", [b"", b"hello", b"SIMPLE", b"\x1f\x8bgarbage", b"SIMPLE  =" + b" " * 9000])
def test_not_fits(tmp_path, content):
    (tmp_path / "a.fits").write_bytes(content)
    assert status_of(tmp_path / "a.fits") == "unreadable_file"


@pytest.mark.parametrize("suffix", ["fits", "fits.gz", "fits.fz"])
def test_every_truncation_is_found(tmp_path, image, suffix):
    path = tmp_path / f"a.{suffix}"
    if suffix == "fits.fz":
        fits.CompImageHDU(image, sky_header()).writeto(path)
    else:
        write(path, np.tile(image, (8, 8)))  # several blocks of data
    content = path.read_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for share in (0.05, 0.3, 0.6, 0.8):
            path.write_bytes(content[: int(len(content) * share)])
            assert status_of(path) in ("unreadable_file", "wrong_dimensions")
    if suffix == "fits.gz":
        path.write_bytes(content[:-4])  # only the checksum is short
        assert status_of(path) == "unreadable_file"


def test_whole_gzip_of_a_truncated_file(tmp_path, image):
    plain = write(tmp_path / "a.fits", np.tile(image, (8, 8))).read_bytes()
    (tmp_path / "b.fits.gz").write_bytes(gzip.compress(plain[: len(plain) - 4000]))
    assert status_of(tmp_path / "b.fits.gz") == "unreadable_file"


def test_corrupt_gzip(tmp_path, image):
    path = write(tmp_path / "a.fits.gz", image)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(bytes(content))
    assert status_of(path) == "unreadable_file"


def hostile(path, zipped=False, **cards):
    """A header with the given values and a little data."""
    lines = [f"{key:<8}= {value:>20}" for key, value in {"SIMPLE": "T", "BITPIX": -32, **cards}.items()]
    content = "".join(line.ljust(80) for line in [*lines, "END"]).encode().ljust(2880) + b"\0" * 2880
    path.write_bytes(gzip.compress(content) if zipped else content)
    return path


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(
    "cards",
    [
        {"NAXIS": 2, "NAXIS1": 10**9, "NAXIS2": 10**9},
        {"NAXIS": 2, "NAXIS1": 60000, "NAXIS2": 60000},
        {"NAXIS": 2, "NAXIS1": -5, "NAXIS2": 5},
        {"NAXIS": 2, "NAXIS1": 5},
        {"NAXIS": -1},
        {"NAXIS": 10**9},
        {"NAXIS": "'two'"},
        {"BITPIX": "'x'", "NAXIS": 2, "NAXIS1": 5, "NAXIS2": 5},
        {"BITPIX": 7, "NAXIS": 2, "NAXIS1": 5, "NAXIS2": 5},
        {"NAXIS": 2, "NAXIS1": 5, "NAXIS2": 5, "PCOUNT": -10, "GCOUNT": 1},
    ],
)
def test_hostile_headers(tmp_path, cards, zipped):
    assert status_of(hostile(tmp_path / "a.fits", zipped, **cards)) == "unreadable_file"


def test_hostile_wcs_is_no_wcs(tmp_path, image):
    path = write(tmp_path / "a.fits", image, CTYPE1="RA---XXX", CRVAL1="north", CDELT2=1e300)
    assert read_image(path).wcs is None


@pytest.mark.parametrize("shape", [(3, SIDE, SIDE), (2, 1, SIDE, SIDE), (SIDE,)])
def test_wrong_dimensions(tmp_path, shape):
    fits.writeto(tmp_path / "a.fits", np.zeros(shape, np.float32))
    assert status_of(tmp_path / "a.fits") == "wrong_dimensions"


def test_table_only(tmp_path):
    fits.BinTableHDU.from_columns([fits.Column("x", "D", array=np.arange(7.0))]).writeto(tmp_path / "a.fits")
    assert status_of(tmp_path / "a.fits") == "wrong_dimensions"


@pytest.mark.parametrize(("shape", "side"), [((12, 11), None), ((14, 14), 12), ((10, 10), 12), ((12, 11), 12)])
def test_wrong_size(tmp_path, shape, side):
    fits.writeto(tmp_path / "a.fits", np.random.default_rng(0).normal(size=shape))
    result = read_cutout(tmp_path / "a.fits", side)
    assert (result.status, result.data, result.coverage) == ("wrong_size", None, 0.0)


@pytest.mark.parametrize(("value", "status"), [(np.nan, "all_nan"), (3.0, "constant"), (0.0, "constant")])
def test_empty_images(tmp_path, value, status):
    path = write(tmp_path / "a.fits", np.full((SIDE, SIDE), value, np.float32))
    result = read_cutout(path, SIDE)
    assert result.status == status
    assert result.data.shape == (SIDE, SIDE)
    assert result.coverage == (0 if status == "all_nan" else 1)


def test_constant_where_there_is_data():
    data = np.full((4, 4), np.nan)
    data[1, 1:3] = 2
    assert judge(data) == ("constant", 2 / 16)


def test_problem_pickles():
    problem = pickle.loads(pickle.dumps(ImageProblem("no_wcs", "why")))
    assert (problem.status, str(problem)) == ("no_wcs", "why")


# --- resampling -----------------------------------------------------------------------------------


def gaussian(side, scale, fwhm=20.0):
    """A Gaussian of ``fwhm`` arcseconds at the image centre."""
    offset = (np.arange(side) - (side - 1) / 2) * scale
    return np.exp(-4 * np.log(2) * (offset[:, None] ** 2 + offset**2) / fwhm**2).astype(np.float32)


@pytest.mark.parametrize(("scale", "side"), [(0.5, 80), (1.0, 41), (2.0, 20), (3.0, 13)])
def test_resampling_keeps_brightness_and_centre(scale, side):
    found = resample_image(gaussian(60, 1.0), 1.0, scale, side)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, gaussian(side, scale), atol=0.02 + 0.02 * max(scale - 1, 0))
    np.testing.assert_allclose(found, found[::-1, ::-1], atol=1e-6)


def test_resampling_identity_and_outside():
    image = gaussian(20, 1.0)
    np.testing.assert_array_equal(resample_image(image, 2.0, 2.0, 20), image)
    larger = resample_image(image, 2.0, 2.0, 30)
    assert np.isfinite(larger).sum() == 400
    np.testing.assert_allclose(larger[5:25, 5:25], image, atol=1e-6)


def test_resampling_with_nan():
    image = np.ones((40, 40), np.float32)
    image[10:20, 10:20] = np.nan
    found = resample_image(image, 1.0, 2.0, 20)
    np.testing.assert_allclose(found[np.isfinite(found)], 1, atol=1e-6)  # NaN weighs nothing
    assert np.isnan(found[6:9, 6:9]).all()
    assert np.isnan(found).sum() < 36


@pytest.mark.parametrize("scale", [None, 0.0, np.nan])
def test_resampling_needs_a_scale(scale):
    with pytest.raises(ImageProblem) as caught:
        resample_image(np.ones((4, 4)), scale, 1.0, 4)
    assert caught.value.status == "no_wcs"


def test_cutout_resampled_on_reading(tmp_path, image):
    path = write(tmp_path / "a.fits", gaussian(60, 1.0), scale=1.0)
    result = read_cutout(path, 20, pixel_scale_arcsec=2.0)
    assert result.status == "ok"
    np.testing.assert_allclose(result.data, gaussian(20, 2.0), atol=0.04)
    fits.writeto(tmp_path / "b.fits", image)
    assert read_cutout(tmp_path / "b.fits", 20, pixel_scale_arcsec=2.0).status == "no_wcs"


# --- real files -----------------------------------------------------------------------------------


@pytest.mark.realdata
def test_real_cutouts(shared):
    for folder, side in (("radio_first_mirabest", 150), ("radio_vlass_ql", 256)):
        for path in sorted((shared(f"realdata/{folder}/cutouts")).glob("*.fits.gz"))[:20]:
            result = read_cutout(path, side)
            assert result.status == "ok"
            assert 0 < np.nanmax(result.data) < 10  # Jy/beam


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("name", "shape", "scale"),
    [
        ("1904-66_SIN.fits", (192, 192), 240.0),
        ("GRB120422A-120429.fits.gz", (512, 512), 5.0),
        ("gc_bolocam_gps.fits.gz", (638, 640), 7.2),
    ],
)
def test_real_mosaics(shared, name, shape, scale):
    found = read_image(shared(f"realdata/radio_mosaics/{name}"))
    assert found.data.shape == shape
    assert found.unit.lower() == "jy/beam"
    assert found.pixel_scale_arcsec == pytest.approx(scale, rel=1e-3)
    assert found.beam[0] * 3600 > scale


@pytest.mark.realdata
def test_real_compressed_frame(shared):
    found = read_image(shared("realdata/optical_ccd/panoptes_dslr/solved.fits.fz"))
    assert found.data.shape == (700, 700)
    assert found.wcs is not None
