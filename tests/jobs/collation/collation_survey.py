"""An output with a mapping, positions and an annotated map, as `skysom map` and an editor of annotations leave it."""

from dataclasses import asdict

import numpy as np
import pandas as pd

from skysom.engine.geometry import Geometry
from skysom.engine.lattice import Cartesian, lattice_to_dict
from skysom.engine.reading.units import best_units, keep_best
from skysom.jobs.annotate import annotations_folder, annotations_of
from skysom.jobs.map_worker import mapping_arrays
from skysom.jobs.output import Output
from skysom.storage import annotations as kept
from skysom.storage.annotation_set import with_label, with_masks
from skysom.storage.survey import ArraySpec, Survey

IMAGE_SIDE, ROTATIONS, SCALE = 24, 16, 2.0
LATTICE = Cartesian(2, 2)
LABELS = ("Related Radio", "IR Host")


def positions(rows, seed=3):
    """RA and Dec (rows,) degrees in half a degree about RA 0: pairs of components that are 10 arcsec apart."""
    rng = np.random.default_rng(seed)
    ra, dec = rng.uniform(-0.25, 0.25, rows), rng.uniform(-0.25, 0.25, rows) + 20
    ra[1::2], dec[1::2] = ra[: rows - 1 : 2] + 6 / 3600, dec[: rows - 1 : 2] + 8 / 3600
    return ra % 360, dec


def make_survey(folder, rows=60, channels=("radio",), keep=None, exact=None, seed=3, **attrs):
    """An output whose row i is source ``s<i>``; row 5 was not mapped. keep : neurons kept an image.

    exact : (rows, N) bool, distances that are exact; makes it a certified mapping. attrs : of the survey.
    """
    rng, output = np.random.default_rng(seed), Output(folder)
    geometry = Geometry.derive(IMAGE_SIDE, ROTATIONS, True, "circular")
    output.private.mkdir(parents=True)
    base = {
        "prepared_side": IMAGE_SIDE, "image_side": IMAGE_SIDE, "channels": list(channels), "parts": [], "chain": [],
        "pixel_scale_arcsec": SCALE, "resample_arcsec": None, "filename_column": "filename", "id_column": "source_id",
    }  # fmt: skip
    survey = Survey.create(output.survey, images=rows, shard_images=64, attrs=base | attrs)
    survey.add_image_array("source_id", ArraySpec("str", fill=""))
    ids = [f"s{row}" for row in range(rows)]
    survey["source_id"][:] = np.array(ids, dtype=object)
    ra, dec = positions(rows, seed)
    for name, values in {"ra_deg": ra, "dec_deg": dec}.items():
        survey.add_image_array(name, ArraySpec("float64"))
        survey[name][:] = values
    weights = rng.random((LATTICE.size, len(channels), geometry.neuron_side, geometry.neuron_side), np.float32)
    survey.save_som("main", weights, {"lattice": lattice_to_dict(LATTICE), "geometry": asdict(geometry)})
    distance = rng.uniform(1, 9, (rows, LATTICE.size)).astype(np.float32)
    distance[5] = np.nan
    write_mapping(survey, distance, rng, keep, exact)
    survey.group["mappings/main"].attrs.update(
        {
            "lattice": lattice_to_dict(LATTICE),
            "geometry": asdict(geometry),
            "som_sha256": survey.load_som_attrs("main")["sha256"],
            "config_hash": "0123",
            **({} if keep is None else {"keep": keep}),
            **({} if exact is None else {"method": "certified"}),
        }
    )
    for stage in ("ingest", "preprocess", "train:main", "map:main"):
        output.claim(stage, {"imported": True})
    flux = rng.uniform(1, 20, rows)
    pd.DataFrame({"source_id": ids, "ra": ra, "dec": dec, "flux": flux}).to_parquet(output.catalogue)
    return output


def write_mapping(survey, distance, rng, keep, exact):
    """The arrays of a mapping of distances (n, N), with rotations and flips drawn by ``rng``."""
    specs = mapping_arrays(distance.shape[1], keep, exact is not None)
    bmu, best = best_units(distance)
    turns = rng.integers(0, ROTATIONS, distance.shape).astype(np.uint16)
    flips = rng.random(distance.shape) < 0.5
    arrays = {"distance": distance, "rotation": turns, "flip": flips, "bmu": bmu[:, 0], "bmu_distance": best[:, 0]}
    rows = np.arange(len(distance))
    arrays["bmu_rotation"], arrays["bmu_flip"] = turns[rows, bmu[:, 0]], flips[rows, bmu[:, 0]]
    if exact is not None:
        arrays["exact"] = exact
    if keep is not None:
        neuron, _ = keep_best(distance, keep)
        arrays = {n: np.take_along_axis(a, np.maximum(neuron, 0), 1) if a.ndim == 2 else a for n, a in arrays.items()}
        arrays["neuron"] = neuron
    for name, values in arrays.items():
        survey.add_image_array(f"mappings/main/{name}", specs[name])
        survey[f"mappings/main/{name}"][:] = values


def annotate(output, neurons=range(4), labels=LABELS, radius=9, channel=0, save=True):
    """A disc of every label, 2 pixels smaller than the one before, on each of ``neurons``; the set that is saved."""
    found = annotations_of(output)
    for label in labels:
        found = found if label in found.labels else with_label(found, label, author="ada")
    y, x = np.mgrid[: found.side, : found.side] - (found.side - 1) / 2
    masks = {
        (neuron, channel, label): np.hypot(y, x) <= radius - 2 * number
        for neuron in neurons
        for number, label in enumerate(labels)
    }
    found = with_masks(found, masks, author="ada") if masks else found
    return kept.save(annotations_folder(output), found, author="ada") if save else found
