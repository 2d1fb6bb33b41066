"""Small real inputs for the tests of the jobs: FITS cut-outs and tiles of simulated sources, with bad ones."""

from pathlib import Path

import numpy as np
import pandas as pd
from astropy.io import fits
from astropy.wcs import WCS

SIDE = 24

TINY = [
    "--set", "preprocess.steps=[{step='noise'}, {step='signal_to_noise_mask', threshold=5.0}, {step='min_max'}]",
    "--set", "som.width=3", "--set", "som.height=2", "--set", "som.region='circular'",
    "--set", "train.stages=[{sigma=1.0, rotations=8}, {sigma=0.5, rotations=16, rate=0.1}]",
    "--set", "ingest.shard_images=64",
]  # fmt: skip
"""Flags of a run that takes about a second."""


def source_image(index: int, side: int = SIDE) -> np.ndarray:
    """A double source of its own angle and separation on noise, (side, side) float32."""
    rng = np.random.default_rng(index)
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    angle, half = rng.uniform(0, np.pi), rng.uniform(0, side / 5)
    image = rng.normal(0, 0.02, (side, side))
    for sign, peak in ((-1, 1.0), (1, rng.uniform(0.3, 1))):
        image += peak * np.exp(
            -((x - sign * half * np.cos(angle)) ** 2 + (y - sign * half * np.sin(angle)) ** 2) / 2 / 1.5**2
        )
    return image.astype(np.float32)


def header(side: int, ra: float = 10.0, dec: float = 20.0) -> fits.Header:
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [ra, dec]
    wcs.wcs.crpix = [(side + 1) / 2] * 2
    wcs.wcs.cdelt = [-1.8 / 3600, 1.8 / 3600]
    return wcs.to_header()


def write_cutouts(folder: Path, count: int, first: int = 0) -> pd.DataFrame:
    """``count`` FITS cut-outs under folder/cutouts and their catalogue (name, flux, filename)."""
    (folder / "cutouts").mkdir(parents=True, exist_ok=True)
    rows = []
    for i in range(first, first + count):
        name = f"cutouts/source{i:04d}.fits"
        fits.PrimaryHDU(source_image(i), header(SIDE)).writeto(folder / name, overwrite=True)
        rows.append({"name": f"source{i:04d}", "flux": float(i), "filename": name})
    return pd.DataFrame(rows)


def write_bad_cutouts(folder: Path) -> pd.DataFrame:
    """One cut-out of each kind that cannot be used; column ``expected`` is the status it must get."""
    good = source_image(0)
    bad = folder / "bad"
    bad.mkdir(parents=True, exist_ok=True)
    fits.PrimaryHDU(np.full((SIDE, SIDE), np.nan, np.float32)).writeto(bad / "nan.fits", overwrite=True)
    fits.PrimaryHDU(np.full((SIDE, SIDE), 3.0, np.float32)).writeto(bad / "constant.fits", overwrite=True)
    fits.PrimaryHDU(source_image(1, SIDE + 6)).writeto(bad / "large.fits", overwrite=True)
    fits.PrimaryHDU(good[:, :-2]).writeto(bad / "oblong.fits", overwrite=True)
    (bad / "text.fits").write_text("this is not FITS")
    (bad / "empty.fits").write_bytes(b"")
    fits.PrimaryHDU(good).writeto(bad / "whole.fits", overwrite=True)
    whole = (bad / "whole.fits").read_bytes()
    (bad / "short.fits").write_bytes(whole[: 2880 + 500])
    noise = np.random.default_rng(5).normal(0, 1, (SIDE, SIDE)).astype(np.float32)
    fits.PrimaryHDU(noise).writeto(bad / "noise.fits", overwrite=True)
    rows = [
        ("nan.fits", "all_nan"),
        ("constant.fits", "constant"),
        ("large.fits", "wrong_size"),
        ("oblong.fits", "wrong_size"),
        ("text.fits", "unreadable_file"),
        ("empty.fits", "unreadable_file"),
        ("short.fits", "unreadable_file"),
        ("missing.fits", "missing_file"),
        ("noise.fits", "empty_mask"),
        (None, "no_file_name"),
    ]
    return pd.DataFrame(
        {
            "name": [f"bad {i}" for i in range(len(rows))],
            "flux": 0.0,
            "filename": [None if name is None else f"bad/{name}" for name, _ in rows],
            "expected": [status for _, status in rows],
        }
    )
