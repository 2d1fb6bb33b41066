"""Analyse: what a mapping says of its map and of the survey, in one pass over it."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from skysom.engine.lattice import lattice_to_dict
from skysom.engine.reading.agreement import AMBIGUOUS_SHARE, FEW_MEMBERS, Agreement, AgreementSums
from skysom.engine.reading.dispersion import NeuronDistances, SizeAdvice, edge_neurons, neuron_distances, size_advice
from skysom.engine.reading.labels import LabelCounts, LabelSums, encode_labels, majority_labels
from skysom.engine.reading.u_matrix import u_matrix
from skysom.engine.reading.units import Extremes, excluded_mask
from skysom.jobs.errors import ConfigError
from skysom.jobs.mapping_reader import MappingReader
from skysom.jobs.output import Output
from skysom.jobs.progress import Progress
from skysom.jobs.report_data import source_ids
from skysom.jobs.results import catalogue_columns, check_rows, check_whole, selected_rows
from skysom.storage import place as places
from skysom.storage.catalogue import parquet_source, read_catalogue, write_catalogue
from skysom.storage.place import Place, write_atomically
from skysom.storage.survey import Survey

if TYPE_CHECKING:
    import pandas as pd

MOST_CLASSES = 100
"""More distinct values than this are measurements, not labels."""
WORST = 20
TABLE = "neurons.csv"
COLUMNS = (
    "neuron", "row", "col", "depth", "hits", "mean_distance", "median_distance", "std_distance", "edge", "excluded",
    "coherent_share", "ambiguous_share", "u_matrix", "labelled", "purity", "entropy_bits", "majority_label",
    "som_sha256",
)  # fmt: skip
"""Columns of that table, beside label_CLASS."""

Tell = Callable[[int, int], None]


@dataclass(frozen=True)
class Findings:
    """What a pass over a mapping finds.

    bmu (rows,) int32, -1 where a row has none or was not asked for; distance (rows,) float32, NaN there. lost: mapped
    rows whose neurons are all left out. worst (n,) rows of the largest distances, largest first.
    """

    agreement: Agreement
    distances: NeuronDistances
    bmu: np.ndarray
    distance: np.ndarray
    worst: np.ndarray
    lost: int
    labels: LabelCounts | None = None


def read_through(
    reader: MappingReader,
    *,
    excluded: np.ndarray | None = None,
    chosen: np.ndarray | None = None,
    labels: tuple[np.ndarray, Sequence[Any]] | None = None,
    worst: int = WORST,
    tell: Tell | None = None,
) -> Findings:
    """Read a mapping once and gather everything that is asked of it.

    Memory is that of a few blocks of rows, and 8 bytes a row (16 more while medians are made); it does not grow with
    the neurons.

    Parameters
    ----------
    excluded : (N,) bool, neurons left out. chosen : (rows,) bool, the rows asked for; default all.
    labels : codes (rows,) and classes of `encode_labels`.
    worst : how many of the worst matches to keep.
    tell : called with rows done and in all.

    Raises
    ------
    ConfigError : a selection or labels of other rows. ReadingError : a mask of another size. SurveyError : damage.
    """
    rows = len(reader)
    for name, values in (("selection", chosen), ("labels", labels and labels[0])):
        if values is not None and len(values) != rows:
            raise ConfigError(f"the {name} has {len(values)} rows, the survey {rows}; give one for each row")
    sums, kept = AgreementSums(reader.lattice), Extremes(worst, largest=True)
    counted = None if labels is None else LabelSums(reader.neurons, labels[1])
    bmu, distance = np.full(rows, -1, np.int32), np.full(rows, np.nan, np.float32)
    lost, recorded = 0, reader.best_units()
    for units in reader.units(2, excluded=excluded):
        block = slice(units.start, units.stop)
        reader.check_rows(recorded[block], (units.neuron[:, 0] >= 0) | units.lost, units.start)
        own = np.arange(units.start, units.stop) if chosen is None else np.flatnonzero(chosen[block]) + units.start
        neuron, best = units.neuron[own - units.start], units.distance[own - units.start]
        sums.update(neuron, best)
        kept.update(own, best[:, 0])
        if counted is not None and labels is not None:
            counted.update(neuron[:, 0], labels[0][own])
        bmu[own], distance[own] = neuron[:, 0], best[:, 0]
        lost += int(np.count_nonzero(units.lost[own - units.start]))
        if tell is not None:
            tell(units.stop, rows)
    own_distances = neuron_distances(bmu, distance, reader.neurons)
    found = None if counted is None else counted.result()
    return Findings(sums.result(), own_distances, bmu, distance, kept.rows, lost, found)


@dataclass(frozen=True)
class Analysis:
    """A mapping analysed: ``summary`` is plain values (NaN where undefined), ``neurons`` a table of a row a neuron."""

    summary: dict[str, Any]
    neurons: "pd.DataFrame"
    findings: Findings


def analyse(
    output: Output,
    name: str,
    *,
    labels: str | None = None,
    where: str | None = None,
    exclude: Sequence[int] = (),
    worst: int = WORST,
    scheduler: str = "threads",
) -> Analysis:
    """Analyse mapping ``name`` and write analysis.json, neurons.csv and neurons.parquet into the output.

    Parameters
    ----------
    labels : column of the catalogue whose values are labels of sources.
    where : only rows for which this expression on the catalogue holds.
    exclude : neurons that are left out, as if the map had not got them.
    worst : how many of the worst matches are listed.
    scheduler : where Dask evaluates ``where``.

    Raises
    ------
    MissingStageError : no finished mapping. ConfigError : the map is not that of the mapping, a catalogue of other
    rows, a column that is no label, a selection of nothing, a neurons.csv that somebody wrote in. ReadingError :
    neurons the map has not.
    """
    check_table(output)
    reader = MappingReader(output, name)
    compared = reader.check_map()
    excluded = excluded_mask(reader.neurons, exclude)
    if labels is not None or where is not None:
        check_whole(output.catalogue, reader.survey.column("source_id"))
    codes = None if labels is None else label_column(output.catalogue, labels, len(reader))
    chosen = None if where is None else selected_rows(output.catalogue, where, scheduler)
    with Progress("analyse") as progress:
        found = read_through(reader, excluded=excluded, chosen=chosen, labels=codes, worst=worst, tell=progress)
    advice = size_advice(reader.lattice, found.distances, excluded=excluded)
    asked = {"labels": labels, "where": where, "rows": len(reader) if chosen is None else int(chosen.sum())}
    summary = _summary(reader, found, advice, excluded, asked) | {"map_checked": compared}
    analysis = Analysis(summary, neuron_table(reader, found, excluded), found)
    write(output, analysis)
    return analysis


def label_column(catalogue: Place, column: str, rows: int) -> tuple[np.ndarray, list[Any]]:
    """Codes (rows,) int32 and classes of a column of the catalogue; see `encode_labels`. Whole numbers stay whole.

    ConfigError for a column that is not there or has too many values, or a catalogue of other rows; ReadingError
    where all its values are missing.
    """
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

    check_rows(catalogue, rows)
    names = catalogue_columns(catalogue)
    if column not in names:
        raise ConfigError(f"{catalogue} has no column {column!r} of labels; it has {', '.join(names)}")
    table = pq.read_table(parquet_source(catalogue), columns=[column])
    whole = pd.Int64Dtype() if pa.types.is_signed_integer(table[column].type) else None  # also where some are missing
    codes, classes = encode_labels(table[column].to_pandas(types_mapper=lambda _: whole))
    if len(classes) > MOST_CLASSES:
        raise ConfigError(
            f"column {column!r} has {len(classes)} different values, at most {MOST_CLASSES} are labels; "
            "give a column of classes"
        )
    return codes, classes


def _summary(
    reader: MappingReader, found: Findings, advice: SizeAdvice, excluded: np.ndarray | None, asked: dict[str, Any]
) -> dict[str, Any]:
    """Everything but the table of neurons, in plain values."""
    agreed, mapped = found.agreement, found.agreement.mapped
    kept = np.ones(reader.neurons, bool) if excluded is None else ~excluded
    summary: dict[str, Any] = {
        "map": reader.name,
        "som_sha256": reader.attrs.get("som_sha256"),
        "config_hash": reader.attrs.get("config_hash"),
        "lattice": lattice_to_dict(reader.lattice),
        "neurons": reader.neurons,
        "excluded_neurons": np.flatnonzero(~kept).tolist(),
        "kept_neurons_an_image": reader.keep,
        "where": asked["where"],
        "rows": asked["rows"],
        "mapped": mapped,
        "not_mapped": agreed.unmapped - found.lost,
        "lost_to_excluded_neurons": found.lost,
        "without_second_best": mapped - int(agreed.decided.sum()),
        "best_exact": _exact(reader, excluded, 1),
        "second_best_exact": _exact(reader, excluded, 2),
        "quantisation_error": agreed.quantisation_error,
        "topographic_error": agreed.topographic_error,
        "coherent": agreed.coherence,
        "median_distance": float(np.nanmedian(found.distance)) if mapped else float("nan"),
        "empty_neurons": np.flatnonzero((agreed.hits == 0) & kept).tolist(),
        "ambiguous_neurons": agreed.ambiguous_neurons().tolist(),
        "ambiguous_when": {
            "share_of_members": AMBIGUOUS_SHARE,
            "members": FEW_MEMBERS,
            "second_best_within": agreed.close_margin,
        },
        "size": asdict(advice),
        "worst_matches": worst_matches(reader.survey, found),
    }
    if found.labels is not None:
        counts = found.labels
        summary["labels"] = {
            "column": asked["labels"],
            "classes": [str(name) for name in counts.classes],
            "members": counts.class_totals.tolist(),
            "mapped_without_label": counts.missing,
            "labelled_without_neuron": counts.unmapped,
            "mean_purity": _by_members(counts.purity(), counts.labelled),
            "mean_entropy_bits": _by_members(counts.entropy_bits(), counts.labelled),
        }
    return summary


def _exact(reader: MappingReader, excluded: np.ndarray | None, count: int) -> bool:
    """Whether the ``count`` best of the neurons left in are as the exact search has them, whichever are left out."""
    left_out = 0 if excluded is None else int(np.count_nonzero(excluded))
    return reader.exact_neurons is None or reader.exact_neurons >= min(count + left_out, reader.neurons)


def _by_members(values: np.ndarray, members: np.ndarray) -> float:
    return float(np.average(values[members > 0], weights=members[members > 0])) if members.any() else float("nan")


def worst_matches(survey: Survey, found: Findings) -> list[dict[str, Any]]:
    """Row, id, neuron, distance and, where the store has them, position and coverage of the worst matches."""
    ids, columns = source_ids(survey, found.worst), {}
    for name in ("ra_deg", "dec_deg", "coverage"):
        if name in survey and len(found.worst):
            order = np.sort(found.worst)
            columns[name] = dict(zip(order.tolist(), np.asarray(survey[name].oindex[order]).tolist(), strict=True))
    return [
        {"row": row, "source_id": ids[row], "neuron": int(found.bmu[row]), "distance": float(found.distance[row])}
        | {name: values[row] for name, values in columns.items()}
        for row in found.worst.tolist()
    ]


def neuron_table(reader: MappingReader, found: Findings, excluded: np.ndarray | None = None) -> "pd.DataFrame":
    """A row a neuron: its place, its members, their distances, coherence and labels.

    row, col, depth are the three lattice indices. ``u_matrix`` is there where the map is in the store, the counts of
    labels where there are labels, ``som_sha256`` where the mapping has it: `engine.reading.labels.neuron_values` tells
    by it whether a table is of a map.
    """
    import pandas as pd

    place, agreed, distances = reader.lattice.positions(), found.agreement, found.distances
    columns: dict[str, Any] = {
        "neuron": np.arange(reader.neurons),
        "row": place[:, 0],
        "col": place[:, 1],
        "depth": place[:, 2],
        "hits": distances.hits,
        "mean_distance": distances.mean,
        "median_distance": distances.median,
        "std_distance": distances.std,
        "edge": edge_neurons(reader.lattice),
        "excluded": np.zeros(reader.neurons, bool) if excluded is None else excluded,
        "coherent_share": agreed.coherent_share,
        "ambiguous_share": agreed.ambiguous_share,
    }
    borders = _u_matrix(reader)
    if borders is not None:
        columns["u_matrix"] = borders
    if found.labels is not None:
        counts, best = found.labels, majority_labels(found.labels)
        columns |= {f"label_{name}": counts.counts[:, i] for i, name in enumerate(counts.classes)}
        columns |= {"labelled": counts.labelled, "purity": counts.purity(), "entropy_bits": counts.entropy_bits()}
        columns["majority_label"] = best.label
    if "som_sha256" in reader.attrs:
        columns["som_sha256"] = reader.attrs["som_sha256"]
    return pd.DataFrame(columns)


def _u_matrix(reader: MappingReader) -> np.ndarray | None:
    """U-matrix of the map of a mapping, over the pixels an image fills; None where it is not in the store."""
    if reader.name not in reader.survey.som_names():
        return None
    weights = reader.survey.load_som(reader.name)[0]
    side = min(reader.geometry.image_side, weights.shape[-1])
    return u_matrix(weights, reader.lattice, reader.attrs["geometry"], side)


def check_table(output: Output) -> None:
    """ConfigError where neurons.csv holds columns that people added: an analysis would write over them."""
    path = output.root / TABLE
    if not places.is_file(path):
        return
    columns = read_catalogue(path).columns
    own = [name for name in columns if name not in COLUMNS and not str(name).startswith("label_")]
    if own:
        raise ConfigError(
            f"{path} has columns of your own ({', '.join(map(str, own))}), which an analysis would write over; "
            "move it elsewhere first (`skysom label --neurons` takes any path)"
        )


def write(output: Output, analysis: Analysis) -> None:
    """Write the three files, each whole or not at all; what is undefined is null or empty."""
    output.check()
    text = json.dumps(plain(analysis.summary), indent=1, allow_nan=False)
    write_atomically(output.root / TABLE, analysis.neurons.to_csv(index=False).encode())
    write_catalogue(analysis.neurons, output.root / "neurons.parquet", len(analysis.neurons))
    write_atomically(output.root / "analysis.json", (text + "\n").encode())


def plain(value: Any) -> Any:
    """Values JSON holds: NumPy's become Python's, and numbers that are not finite None."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not np.isfinite(value) else value
