"""Label: what an astronomer has written down, for neurons or for single sources, carried to the catalogue's rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from skysom.engine.reading.labels import neuron_values, transfer
from skysom.jobs.derived import Maker, add_derived, check_names
from skysom.jobs.errors import ConfigError
from skysom.jobs.mapping_reader import MappingReader
from skysom.jobs.output import Output
from skysom.jobs.progress import say
from skysom.jobs.results import selected_rows
from skysom.storage.catalogue import ROW_NUMBER, duplicate_rows, read_catalogue, required_column, source_ids
from skysom.storage.place import Place
from skysom.storage.survey import Survey

JOB = "label"


@dataclass(frozen=True)
class Labelled:
    """What a column of labels became.

    column : its name in the catalogue. neurons : how many have a value. sources : how many got one; unlabelled : mapped
    sources whose neuron has none, or that the expression leaves out; unmapped : sources without a neuron.
    """

    column: str
    neurons: int
    sources: int
    unlabelled: int
    unmapped: int


def label_survey(
    output: Output,
    name: str,
    table: str | Place,
    columns: Sequence[str],
    *,
    where: str | None = None,
) -> list[Labelled]:
    """Carry columns of a table of neurons to the catalogue; call it while holding the output's lock.

    Parameters
    ----------
    name : of the mapping.
    table : CSV, Parquet, FITS or VOTable with a row a neuron: ``neuron``, or ``row`` and ``col``, and values.
    columns : of the table, each as ``NAME`` or ``NAME=NEW``, the name in the catalogue.
    where : only rows for which this expression on catalogue columns holds (pandas query); the others have no value.

    Raises
    ------
    ReadingError : a table of another map, unknown or repeated neurons, a column it has not. ConfigError : a name that
    is taken, an expression that selects nothing, or a map that is not that of the mapping. CatalogueError : a table
    that cannot be read.
    """
    reader = MappingReader(output, name)
    reader.check_map()
    pairs = _pairs(output, columns)
    neurons = read_catalogue(table)
    sha256 = reader.attrs.get("som_sha256")
    values = {new: neuron_values(neurons, reader.lattice, old, som_sha256=sha256) for old, new in pairs}
    bmu = reader.best_units()
    chosen = np.ones(len(bmu), bool) if where is None else selected_rows(output.catalogue, where)
    unmapped = int(np.count_nonzero(bmu < 0))
    carried: dict[str, Any] = {}
    found = []
    for new, of_neuron in values.items():
        carried[new] = transfer(np.where(chosen, bmu, -1), of_neuron)
        labelled = int((~carried[new].isna()).sum())
        known = sum(value is not None for value in of_neuron)
        found.append(Labelled(new, known, labelled, len(bmu) - unmapped - labelled, unmapped))
    add_derived(output, carried, Maker(JOB, name))
    output.log("label", stage="label", mapping=name, columns=[new for _, new in pairs], where=where)
    for one in found:
        say(
            f"label: {one.column!r} of {one.neurons} neurons is now that of {one.sources:,} sources; "
            f"{one.unlabelled:,} mapped ones have none, {one.unmapped:,} have no neuron"
        )
    return found


def label_sources(
    output: Output, table: str | Place, columns: Sequence[str], *, id_column: str | None = None
) -> dict[str, int]:
    """Carry columns of a labelled catalogue to the survey's rows by source id; call it while holding the output's lock.

    Sources that the table has not, and missing values of it, have no value. Returns how many rows got one, by column.

    Parameters
    ----------
    table : CSV, Parquet, FITS or VOTable with a row a source.
    columns : of the table, each as ``NAME`` or ``NAME=NEW``, the name in the catalogue.
    id_column : of the table, with the ids of the survey's ``source_id``; by default found as `skysom ingest` does.

    Raises
    ------
    ConfigError : no column of ids, sources that the survey has not or that the table names twice, a name that is taken.
    CatalogueError : a table that cannot be read, or lacks a column.
    """
    import pandas as pd

    pairs, known = _pairs(output, columns), read_catalogue(table)
    for old, _ in pairs:
        required_column(known, old, f"--column {old}")
    ids, id_column = source_ids(known, id_column)
    if id_column == ROW_NUMBER:  # rows of two catalogues need not be the same sources
        raise ConfigError(f"{table} has no column source_id or name; name that of the ids with --id-column")
    twice = ids[duplicate_rows(ids)]
    if len(twice):
        raise ConfigError(f"{table} names source {twice[0]!r} in {id_column!r} more than once; give each one row")
    survey = Survey(output.survey)
    rows = {str(source): row for row, source in reversed(list(enumerate(survey.column("source_id").tolist())))}
    unknown = [source for source in ids if source not in rows]
    if unknown:
        raise ConfigError(
            f"{len(unknown):,} of {len(ids):,} sources of {table} are not in this survey, such as {unknown[0]!r} "
            f"(column {id_column!r}); leave them out, or name the column of ids with --id-column"
        )
    place = pd.Series(np.arange(len(ids)), index=[rows[source] for source in ids])
    taken = place.reindex(range(len(survey)), fill_value=-1).to_numpy()
    carried = {new: pd.array(known[old].convert_dtypes()).take(taken, allow_fill=True) for old, new in pairs}
    add_derived(output, carried, Maker(JOB))
    output.log("label", stage="label", columns=[new for _, new in pairs])
    found = {new: int((~values.isna()).sum()) for new, values in carried.items()}
    for new, count in found.items():
        say(f"label: {new!r} of {count:,} sources; {len(survey) - count:,} have none")
    return found


def _pairs(output: Output, columns: Sequence[str]) -> list[tuple[str, str]]:
    """Names in a table and in the catalogue; ConfigError where the latter may not be written."""
    pairs = [_names(text) for text in columns]
    if len({new for _, new in pairs}) < len(pairs):
        raise ConfigError(f"columns {', '.join(columns)} would share a name; give each another, as NAME=NEW")
    check_names(output, (new for _, new in pairs), JOB)
    return pairs


def _names(text: str) -> tuple[str, str]:
    """The name in the table and the name in the catalogue of ``NAME`` or ``NAME=NEW``."""
    old, _, new = text.partition("=")
    if not old or ("=" in text and not new):
        raise ConfigError(f"--column {text!r} is not NAME or NAME=NEW")
    return old, new or old
