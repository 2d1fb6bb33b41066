"""Real and simulated cut-outs for the benchmarks, raw and preprocessed, and maps of them."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

SHARED = Path(os.environ.get("SKYSOM_SHARED", Path(__file__).resolve().parents[2].parent / "shared"))
SIDE = 150
"""Pixels of every cut-out."""
RAW: tuple = (("fill_nan", {}), ("min_max", {}))
PREPARED: tuple = (
    ("noise", {}),
    ("signal_to_noise_mask", {"threshold": 3.0}),
    ("islands", {}),
    ("transfer", {"function": "sqrt"}),
    ("min_max", {}),
)
REAL = ("mirabest", "vlass", "first+nvss")
SIMULATED = ("low noise", "high noise")


def cutouts(name: str) -> np.ndarray:
    """Cut-outs (n, C, 150, 150) float32 in image units; FileNotFoundError where a survey is not at hand."""
    if name == "mirabest":
        return _fits("radio_first_mirabest/cutouts")
    if name == "vlass":
        return _fits("radio_vlass_ql/cutouts")
    if name == "first+nvss":
        return _pairs()
    return simulated(200, 0.02 if name == "low noise" else 0.2)


def prepared(images: np.ndarray, steps: Sequence = PREPARED) -> np.ndarray:
    """The cut-outs that pass a chain of preprocessing."""
    from skysom.engine.preprocess import preprocess

    batch = preprocess(images, steps)
    return batch.images[batch.ok]


def simulated(count: int, noise: float, seed: int = 3) -> np.ndarray:
    """Sources of one to three blobs (count, 1, 150, 150) float32 of peak 1, with white noise of rms ``noise``."""
    from bench_search import sources

    rng = np.random.default_rng(seed)
    return sources(count, SIDE, rng) + rng.normal(0, noise, (count, 1, SIDE, SIDE)).astype(np.float32)


def distinct_map(images: np.ndarray, neurons: int, seed: int = 0) -> np.ndarray:
    """Weights (N, C, D, D) that are images, or turned images where there are too few."""
    from skysom.engine import Geometry
    from skysom.engine.transforms import transform

    geometry, rng = Geometry.derive(images.shape[2], 360), np.random.default_rng(seed)
    order = np.concatenate([rng.permutation(len(images)) for _ in range(-(-neurons // len(images)))])[:neurons]
    angles = np.where(np.arange(neurons) < len(images), 0, rng.integers(1, 360, neurons))
    return np.stack([transform(images[i], int(t), geometry) for i, t in zip(order, angles, strict=True)])


def trained_map(images: np.ndarray, side: int, epochs: int = 2, seed: int = 0) -> np.ndarray:
    """Weights (side^2, C, D, D) of a map trained on ``images`` in batches, from neurons that are images.

    Maps of more than 400 neurons see the images less often and at fewer angles: they take minutes as it is.
    """
    from skysom.engine import Cartesian, Neighbourhood, Som, train_batched

    rng, large = np.random.default_rng(seed), side > 20
    epochs, rotations, reach = (1, 36, 2) if large else (epochs, 92, 3)
    som = Som(distinct_map(images, side * side, seed), Cartesian(side, side))
    for sigma, rate in ((side / 6, 0.3), (side / 12, 0.2), (0.7, 0.1)):
        neighbourhood = Neighbourhood(
            "unity_gaussian", max(sigma, 0.7), rate, max_update_distance=reach * max(sigma, 0.7)
        )
        order = np.concatenate([rng.permutation(len(images)) for _ in range(epochs)])
        som = train_batched(
            images, som, neighbourhood, batch_size=64, rotations=rotations, region="circular", order=order
        ).som
    return np.asarray(som.weights)


def _fits(folder: str) -> np.ndarray:
    from astropy.io import fits

    found = []
    for path in sorted((SHARED / "realdata" / folder).glob("*.fits*")):
        plane = np.squeeze(fits.getdata(path)).astype(np.float32)
        if plane.ndim == 2 and min(plane.shape) >= SIDE:
            row, column = ((size - SIDE) // 2 for size in plane.shape)
            found.append(plane[row : row + SIDE, column : column + SIDE])
    if not found:
        raise FileNotFoundError(f"no cut-outs in {SHARED / 'realdata' / folder}; set SKYSOM_SHARED")
    return np.stack(found)[:, None]


def _pairs() -> np.ndarray:
    """FIRST and NVSS cut-outs of the same objects, as two channels (their pixel scales differ)."""
    import h5py

    with h5py.File(SHARED / "realdata/radio_frdeep_first_nvss/frdeep_first_nvss_150.h5") as file:
        planes = []
        for name in ("first", "nvss"):
            data = file[name]
            values = data[()]
            blank = values == np.iinfo(np.int32).min
            planes.append(np.where(blank, np.nan, values * float(data.attrs["scale"])).astype(np.float32))
    return np.stack(planes, axis=1)
