"""Which rows a mapping of a part of the survey is of: evaluated once and stored with it."""

from typing import Any

import numpy as np

from skysom.cluster.tables import rows_where
from skysom.jobs.errors import ConfigError
from skysom.jobs.map_worker import SELECTED
from skysom.jobs.output import Output
from skysom.storage.survey import ArraySpec, Survey

ROWS_DECIDED = "selected_rows"
"""Attribute of the mapping: how many rows its selection was evaluated for."""


def selected_part(output: Output, survey: Survey, group: str, where: str, scheduler: str) -> np.ndarray:
    """Rows (images,) bool for which ``where`` holds, or held when they were decided for mapping ``group``.

    What was decided stays, because the catalogue's columns of results change with every mapping; rows
    appended since then are decided by the catalogue as it is now. Raises ConfigError, naming the
    expression, where it selects no usable row; CatalogueError for an expression that cannot be evaluated.
    """
    attrs: dict[str, Any] = dict(survey.group[group].attrs) if group in survey else {}
    decided = int(attrs.get(ROWS_DECIDED, 0))
    if decided == len(survey):
        return survey.column(f"{group}/{SELECTED}")
    chosen = rows_where(output.catalogue, where, scheduler=scheduler)
    if decided:
        chosen[:decided] = survey.column(f"{group}/{SELECTED}")[:decided]
    if not (chosen & survey.column("ok")).any():
        raise ConfigError(f"--where {where!r} selects no usable row of {output.catalogue}; change it or leave it out")
    return chosen


def keep_part(survey: Survey, group: str, where: str, chosen: np.ndarray) -> None:
    """Store the rows ``chosen`` (images,) bool of the mapping, so that whoever goes on with it has the same."""
    array = f"{group}/{SELECTED}"
    survey.add_image_array(array, ArraySpec("bool", attrs={"long_name": f"rows where {where}"}))
    survey.write_rows(array, 0, chosen)
    survey.group[group].attrs[ROWS_DECIDED] = len(chosen)  # written last: a kill before it decides again
