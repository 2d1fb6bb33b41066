"""Choose: a boolean column of the catalogue that says which rows a map is to learn from."""

import keyword
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from skysom.cluster.tables import rows_where
from skysom.engine.reading.choosing import (
    Strata,
    chosen_rows,
    neighbour_counts,
    quantile_strata,
    quotas,
    value_strata,
)
from skysom.jobs.config import Strict
from skysom.jobs.derived import Maker, add_derived, check_names
from skysom.jobs.errors import ConfigError
from skysom.jobs.output import Output
from skysom.jobs.results import MAPPING_COLUMNS, catalogue_columns, check_rows
from skysom.jobs.train import check_usable
from skysom.storage import catalogue as tables
from skysom.storage.selection import column_names
from skysom.storage.survey import Survey

MOST_STRATA = 10_000
"""More values of a column are no classes to balance over, but numbers."""


class Choice(Strict):
    """Which rows: all of the conditions hold, and of those so many at random.

    where : expression on catalogue columns; neighbours : least and most sources (None: any number) within
    radius_arcsec; balance : column whose values (or ``quantiles``) are strata; per_class of each of them, or ``sample``
    in all, equally or ``proportional`` to what there is. Without strata ``sample`` is of all rows.
    """

    where: str | None = None
    neighbours: tuple[int, int | None] | None = None
    radius_arcsec: float | None = None
    balance: str | None = None
    quantiles: int | None = None
    per_class: int | None = None
    sample: int | None = None
    proportional: bool = False
    seed: int = 1234


@dataclass(frozen=True)
class Chosen:
    """What was chosen: rows (images,) bool, and of each stratum its name, rows there were, and rows taken."""

    rows: np.ndarray
    candidates: int
    strata: list[tuple[str, int, int]]


def choose(choice: Choice, output: Output, column: str = "chosen", scheduler: str = "threads") -> Chosen:
    """Write the column ``column`` (boolean; false for unusable rows), for ``--train-where COLUMN``.

    Call it while holding the output's lock. Raises ConfigError for a choice that contradicts itself, a column the
    catalogue has of its own, and where no usable row is left; CatalogueError for an expression or a column that cannot
    be used.
    """
    if not column.isidentifier() or keyword.iskeyword(column) or keyword.issoftkeyword(column):
        raise ConfigError(f"--column {column!r} is no word that an expression can name; use letters, digits and _")
    check(choice)
    check_names(output, [column], "choose")
    check_usable(output)
    began = time.perf_counter()
    found = rows_of(choice, output, scheduler)
    import pandas as pd

    add_derived(output, {column: pd.array(found.rows, dtype="boolean")}, Maker("choose", _mapping_of(choice, output)))
    output.log(
        "choose",
        column=column,
        choice={key: value for key, value in choice.model_dump(mode="json").items() if value is not None},
        candidates=found.candidates,
        chosen=int(found.rows.sum()),
        seconds=round(time.perf_counter() - began, 3),
    )
    return found


def _mapping_of(choice: Choice, output: Output) -> str | None:
    """The mapping whose columns (bmu ...) a choice is by, so that it goes with it; None where it is by none."""
    used = {choice.balance, *(column_names(choice.where) if choice.where else ())}
    if not used & set(MAPPING_COLUMNS):
        return None
    maps = [key.partition(":")[2] for key in output.recorded() if key.startswith("map:")]
    return maps[-1] if maps else None


def check(choice: Choice) -> None:
    """ConfigError where the options of a choice do not go together."""
    counted, balanced = choice.neighbours is not None, choice.balance is not None
    if counted != (choice.radius_arcsec is not None):
        raise ConfigError("--neighbours MIN..MAX and --radius-arcsec R go together: give both, or none")
    if choice.per_class is not None and choice.sample is not None:
        raise ConfigError(f"--per-class {choice.per_class} and --sample {choice.sample}: give one of them")
    if balanced and choice.per_class is None and choice.sample is None:
        raise ConfigError(f"--balance {choice.balance!r} of how many? give --per-class N or --sample N")
    if choice.per_class is not None and not balanced:
        raise ConfigError(f"--per-class {choice.per_class} of which classes? give --balance COLUMN")
    if (choice.quantiles is not None or choice.proportional) and not balanced:
        raise ConfigError("--quantiles and --proportional say how to balance; give --balance COLUMN")
    if choice.proportional and choice.sample is None:
        raise ConfigError("--proportional needs --sample N; --per-class takes as many of every class")
    if choice.where is None and not counted and choice.sample is None and not balanced:
        raise ConfigError("nothing to choose by; give --where, --neighbours, --balance or --sample")


def rows_of(choice: Choice, output: Output, scheduler: str = "threads") -> Chosen:
    """The rows of a choice, which depend on its seed and on each row alone, but for how many are taken of a stratum."""
    survey = Survey(output.survey)
    check_rows(output.catalogue, len(survey))
    rows = survey.column("ok")
    if choice.where is not None:
        rows &= rows_where(output.catalogue, choice.where, scheduler=scheduler)
    if choice.neighbours is not None:
        rows &= within(_neighbours(survey, float(choice.radius_arcsec or 0)), choice.neighbours)
    candidates = int(np.count_nonzero(rows))
    if not candidates:
        raise ConfigError(f"no usable row of {output.catalogue} is left by {_told(choice)}; ask for less")
    if choice.per_class is None and choice.sample is None:
        return Chosen(rows, candidates, [("all", candidates, candidates)])
    whole = Strata(np.zeros(len(rows), np.int64), ("all",))
    strata = (whole if choice.balance is None else strata_of(output, choice.balance, choice.quantiles)).among(rows)
    quota = quotas(strata.sizes, each=choice.per_class, total=choice.sample, proportional=choice.proportional)
    chosen = chosen_rows(strata, quota, seed=choice.seed)
    if not chosen.any():
        raise ConfigError(f"the column {choice.balance!r} is missing in all {candidates:,} rows there are to choose")
    counts = [
        (name, int(size), int(taken))
        for name, size, taken in zip(strata.names, strata.sizes, quota, strict=True)
        if size
    ]
    missing = candidates - int(strata.sizes.sum())
    return Chosen(chosen, candidates, counts + [("(missing)", missing, 0)] * (missing > 0))


def strata_of(output: Output, column: str, quantiles: int | None) -> Strata:
    """Strata of the rows by the values of a catalogue column, or its quantiles.

    Raises CatalogueError without such a column, ConfigError for one of too many values.
    """
    import pandas as pd

    values = read_columns(output, [column])[column]
    if quantiles is not None:
        numbers = pd.to_numeric(values, errors="coerce").to_numpy(np.float64, na_value=np.nan)
        return quantile_strata(numbers, quantiles)
    found = value_strata(values)
    if len(found.names) > MOST_STRATA:
        raise ConfigError(
            f"--balance {column!r} has {len(found.names):,} values, at most {MOST_STRATA:,} can be balanced over; give "
            "--quantiles Q"
        )
    return found


def read_columns(output: Output, columns: Sequence[str]) -> Any:
    """Some columns of the catalogue as a DataFrame; CatalogueError naming one that is not there."""
    import pandas as pd

    from skysom.storage.errors import CatalogueError

    there = catalogue_columns(output.catalogue)
    for name in columns:
        if name not in there:
            raise CatalogueError(f"{output.catalogue} has no column {name!r}; it has {', '.join(there)}")
    return pd.read_parquet(tables.parquet_source(output.catalogue), columns=list(columns))


def within(counts: np.ndarray, bounds: tuple[int, int | None]) -> np.ndarray:
    """Which ``counts`` (n,) are known and from the least to the most of ``bounds``."""
    least, most = bounds
    known = (counts >= 0) & (counts >= least)
    return known if most is None else known & (counts <= most)


def _neighbours(survey: Survey, radius_arcsec: float) -> np.ndarray:
    """Other sources (images,) int64 of the catalogue, usable or not, within the radius of each."""
    if "ra_deg" not in survey or not np.isfinite(survey.column("ra_deg")).any():
        raise ConfigError(f"{survey.path} has no positions to count neighbours by; ingest a catalogue with RA and Dec")
    return neighbour_counts(survey.column("ra_deg"), survey.column("dec_deg"), radius_arcsec, threads=-1)


def _told(choice: Choice) -> str:
    parts = [] if choice.where is None else [f"--where {choice.where!r}"]
    if choice.neighbours is not None:
        least, most = choice.neighbours
        parts.append(f"--neighbours {least}..{'' if most is None else most} --radius-arcsec {choice.radius_arcsec:g}")
    return " ".join(parts) or "the choice"
