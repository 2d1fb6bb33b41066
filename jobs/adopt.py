"""Adopt: make an output of files that another program made, so that the other jobs go on from them."""

from typing import Any

import numpy as np

from skysom.engine.geometry import Geometry
from skysom.engine.lattice import lattice_from_dict
from skysom.jobs.config import Config
from skysom.jobs.map import result_columns
from skysom.jobs.output import Output, stage_values
from skysom.jobs.progress import say
from skysom.jobs.results import MAPPING_COLUMNS, update_catalogue
from skysom.storage.catalogue import write_catalogue
from skysom.storage.survey import Survey


def adopt(output: Output, name: str, *, som: bool, mapping: bool) -> None:
    """Record imported images, and where so the map and mapping ``name``, as finished stages.

    Writes catalogue.parquet where there is none, and the columns of the mapping into it. Nothing that
    a run has recorded is changed.
    """
    survey = Survey(output.survey)
    say(f"import: {len(survey):,} images" + " and a map" * som + " and a mapping" * mapping + f" in {output.survey}")
    stages = ["ingest", "preprocess"] + [f"train:{name}"] * som + [f"map:{name}"] * mapping
    for stage in stages:
        if stage not in output.recorded():
            output.claim(stage, stage_values(Config(), stage.partition(":")[0]) | {"imported": True})
    if not output.catalogue.exists():
        import pandas as pd

        table = pd.DataFrame({"source_id": np.asarray(survey["source_id"][:]).tolist()})
        table["status"] = survey.statuses()
        table["coverage"] = np.asarray(survey["coverage"][:])
        write_catalogue(table, output.catalogue, survey.shard_images)
    if mapping:
        attrs: dict[str, Any] = dict(survey.group[f"mappings/{name}"].attrs)
        geometry = Geometry(**attrs["geometry"])
        columns = result_columns(survey, name, lattice_from_dict(attrs["lattice"]), geometry)
        update_catalogue(output.catalogue, columns, survey.shard_images, drop=MAPPING_COLUMNS)
