"""An output with a mapping of distances that are given, as `skysom map` leaves it but without any search."""

from dataclasses import asdict

import numpy as np
import pandas as pd

from skysom.engine.geometry import Geometry
from skysom.engine.lattice import lattice_to_dict
from skysom.engine.reading.units import best_units, keep_best
from skysom.jobs.map_worker import mapping_arrays
from skysom.jobs.output import Output
from skysom.storage.survey import ArraySpec, Survey

SIDE = 8


def make_output(folder, distance, lattice, *, keep=None, shard=64, name="main", weights=True, sha256=None):
    """An output at ``folder`` whose mapping ``name`` has the distances (n, N), NaN rows for what was not mapped.

    keep : only the best so many are stored. weights : whether the map is in the store. sha256 : what the mapping
    says of the map it was made with; default the truth.
    """
    rows, geometry = len(distance), Geometry.derive(SIDE, 8, True, "circular")
    output = Output(folder)
    output.private.mkdir(parents=True)
    attrs = {"prepared_side": SIDE, "image_side": SIDE, "channels": ["radio"]}
    survey = Survey.create(output.survey, images=rows, shard_images=shard, attrs=attrs)
    survey.add_image_array("source_id", ArraySpec("str", fill=""))
    survey["source_id"][:] = np.array([f"source {row}" for row in range(rows)], dtype=object)
    for array, dtype in {"status": "uint8", "ok": "bool", "ra_deg": "float64", "dec_deg": "float64"}.items():
        survey.add_image_array(array, ArraySpec(dtype))
    survey["ra_deg"][:], survey["dec_deg"][:] = np.linspace(0, 90, rows), np.full(rows, np.nan)
    images = np.random.default_rng(1).random((lattice.size, 1, geometry.neuron_side, geometry.neuron_side), np.float32)
    group = f"mappings/{name}"
    survey.save_som(name, images, {"lattice": lattice_to_dict(lattice), "geometry": asdict(geometry)})
    truth = survey.load_som_attrs(name)["sha256"]
    if not weights:
        del survey.group["soms"][name]
    write_mapping(survey, group, np.asarray(distance, np.float32), keep)
    more = {"keep": keep} if keep is not None else {}
    survey.group[group].attrs.update(
        {
            "lattice": lattice_to_dict(lattice),
            "geometry": asdict(geometry),
            "som_sha256": sha256 or truth,
            "config_hash": "0123",
            **more,
        }
    )
    for stage in ("ingest", "preprocess", f"train:{name}", f"map:{name}"):
        output.claim(stage, {"imported": True})
    ids = [f"source {row}" for row in range(rows)]
    pd.DataFrame({"source_id": ids, "flux": np.arange(rows) * 1.0}).to_parquet(output.catalogue)
    return output


def write_mapping(survey, group, distance, keep):
    """The arrays of a mapping of distances (n, N); without rotations, which nobody asks for here."""
    specs = mapping_arrays(distance.shape[1], keep)
    bmu, best = best_units(distance)
    arrays = {"distance": distance, "bmu": bmu[:, 0], "bmu_distance": best[:, 0]}
    if keep is not None:
        arrays["neuron"], arrays["distance"] = keep_best(distance, keep)
    for name, values in arrays.items():
        survey.add_image_array(f"{group}/{name}", specs[name])
        survey[f"{group}/{name}"][:] = values
