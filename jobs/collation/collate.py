"""Collate: components to sources, box by box on Dask, into tables that no box, worker or restart has a part in.

    deal       rows of the catalogues to boxes of the sky and their margins
    project    neighbours that lie under a label of the mask of a source's neuron            a task a box
    (islands)  base rows that may touch one another, by union-find in the driver
    group      islands in the global order, each in the box of its smallest row; tables      a task a box
    merge      tables of all boxes, sorted by base rows, and published together              a task a table

A finished box is recorded after its data and never done again. The driver holds a few bytes a base row; tasks hold a
box, an island, or a range of rows.
"""

import hashlib
import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from skysom.cluster.ray_executor import local_cores
from skysom.cluster.tables import dask_scheduler, default_scheduler
from skysom.engine.collation.actions import Action, built_in
from skysom.engine.collation.groups import Corrections
from skysom.jobs.collation.deal import DEALT_ROWS, distinct, extra_columns
from skysom.jobs.collation.folder import TABLES, CollationFolder
from skysom.jobs.collation.inputs import CollationInputs
from skysom.jobs.collation.memory import Memory, pairs_allowed, projected_memory
from skysom.jobs.collation.run import CollationRun, corrections_of, plain
from skysom.jobs.collation.source_table import SourceColumns
from skysom.jobs.errors import ConfigError
from skysom.jobs.progress import say
from skysom.storage.place import Place

FORMAT = 1
"""Of the work folder: another one is not gone on with."""


@dataclass(frozen=True)
class CollateSettings:
    """How a collation runs; no result depends on it, but for ``columns``.

    rows_per_box : rows of all catalogues in a box of the sky, about; memory grows with it. threads : at work, with the
    scheduler "threads"; default one a core. memory_gb : refuse to start where more is projected. redo : discard what
    the directory holds. columns : of the source table, where they say more than the inputs do. deadline_s : longest
    time until a cluster finishes a task.

    Raises
    ------
    ConfigError : memory that is no number above 0.
    """

    rows_per_box: int = 200_000
    threads: int | None = None
    memory_gb: float | None = None
    redo: bool = False
    columns: SourceColumns | None = None
    deadline_s: float = 3600.0

    def __post_init__(self) -> None:
        if self.memory_gb is not None and not 0 < self.memory_gb < math.inf:
            raise ConfigError(f"{self.memory_gb:g} GB of memory is allowed (--memory-gb); give a number above 0")


def collate(
    inputs: CollationInputs,
    directory: str | Place,
    settings: CollateSettings | None = None,
    *,
    scheduler: str | None = None,
) -> dict[str, Any]:
    """Group the components of a catalogue into sources; writes DIR/sources.parquet and its companions.

    The same call goes on where an interrupted one ended. Where the directory holds this collation with other
    corrections, only the islands they touch are grouped again.

    Parameters
    ----------
    inputs : what it is made from, checked. directory : a path or URL.
    scheduler : for `dask_scheduler`; default `default_scheduler()`. On a cluster every worker must reach ``directory``
        and the catalogues by the same paths.

    Returns
    -------
    summary : plain values, also in DIR/collation.json.

    Raises
    ------
    ConfigError : another configuration is there, more memory is needed than allowed, corrections of rows that are not
    there. LockedError : another run writes there. SchedulerError : nothing computes. CatalogueError : a file that
    cannot be read.
    """
    settings = settings or CollateSettings()
    folder, scheduler = CollationFolder(directory), scheduler or default_scheduler()
    columns = settings.columns or SourceColumns.of(inputs)
    _check_columns(inputs, columns)
    _check_corrections(inputs)
    _check_memory(projection(inputs, settings, scheduler), settings, f"{inputs.base.rows:,} components")
    with folder.locked(redo=settings.redo):
        held = folder.corrections()
        config = folder.claim(configuration(inputs, columns), redo=settings.redo)
        published = folder.published()
        if published is not None and published["corrections"] == plain(inputs.corrections):
            folder.forget_leftovers()
            say(f"collate: {folder.root} holds this collation already")
            return _told(published["summary"])
        run = CollationRun(folder, inputs, columns, settings.rows_per_box, settings.deadline_s, config)
        boxes = run.boxes()
        run.most_pairs = _most_pairs(inputs, settings, scheduler, boxes.count)
        with dask_scheduler(scheduler, threads=_threads(inputs, settings, scheduler, boxes.count)):
            sky = run.sky(boxes)
            if published is None:
                pairs = sky.pairs_at_once(_workers(settings, scheduler))
                known = {"boxes": boxes.count, "island": sky.largest, "pairs": pairs}
                needed = projection(inputs, settings, scheduler, **known)
                what = f"{len(sky.island_sizes):,} islands, the largest of {sky.largest:,} components"
                _check_memory(needed, settings, what)
                record = run.group_all(sky)
            else:
                record = run.group_again(sky, corrections_of(published["corrections"]))
        folder.publish(record)
        folder.forget_groups()
    _tell_corrections(held, record, again=published is not None)
    return _told(record["summary"])


def projection(
    inputs: CollationInputs,
    settings: CollateSettings,
    scheduler: str = "threads",
    *,
    boxes: int | None = None,
    island: int = 0,
    pairs: int = 0,
) -> Memory:
    """Bytes that a collation needs above those of the imported process: of this one, or of one with a single worker.

    boxes, island, pairs : as `projected_memory` has them; the last two are known when the masks are projected.
    """
    workers = _workers(settings, scheduler)
    return projected_memory(inputs, settings.rows_per_box, workers, boxes=boxes, island=island, pairs=pairs)


def configuration(inputs: CollationInputs, columns: SourceColumns) -> dict[str, Any]:
    """All that results depend on, but for corrections, in plain values."""
    mapped = inputs.mapped
    return {
        "format": FORMAT,
        "origin": inputs.origin,
        "catalogues": [
            [str(file.path), file.ra_column, file.dec_column, file.id_column, file.rows] for file in inputs.catalogues
        ],
        "base_channels": [bool(base) for base in inputs.base_channels],
        "actions": {label: _named(action) for label, action in zip(inputs.labels, inputs.actions, strict=True)},
        "pixel_scale_arcsec": [float(scale) for scale in inputs.pixel_scale_arcsec],
        "limit_arcsec": float(inputs.limit_arcsec),
        "float32_angles": inputs.float32_angles,
        "masks_sha256": _sha256(inputs.planes),
        "mapped_sha256": _sha256(mapped.row, mapped.neuron, mapped.angle_rad, mapped.flip, mapped.distance),
        "order_sha256": _sha256(inputs.rank, inputs.status),
        "columns": {
            "schema": [f"{field.name}: {field.type}" for field in (*columns.schema, *columns.component_schema)],
            **{name: getattr(columns, name) for name in ("flux", "redshift", "redshift_of", "prefix", "id_name")},
            "neuron_labels": columns.neuron_labels,
            "extra": _source(columns.extra) if columns.extra else None,
        },
    }


def _check_corrections(inputs: CollationInputs) -> None:
    """ConfigError where corrections are of rows that the base has not."""
    rows = (inputs.corrections or Corrections()).rows()
    if len(rows) and (rows[0] < 0 or rows[-1] >= inputs.base.rows):
        wrong = rows[0] if rows[0] < 0 else rows[-1]
        raise ConfigError(f"a correction names row {wrong}, the base has rows 0 to {inputs.base.rows - 1}; correct it")


def _check_columns(inputs: CollationInputs, columns: SourceColumns) -> None:
    """ConfigError where columns that are carried along have names that a collation needs."""
    for channel in distinct(inputs):
        extra_columns(columns, channel)


def _workers(settings: CollateSettings, scheduler: str) -> int:
    """Tasks that may be at work in one process."""
    return (settings.threads or local_cores()) if scheduler == "threads" else 1


def _threads(inputs: CollationInputs, settings: CollateSettings, scheduler: str, boxes: int) -> int | None:
    """Threads to start: as asked, but no more than a stage may have tasks."""
    if scheduler != "threads" or settings.threads is None:
        return None
    pieces = 1 + max(file.rows for file in inputs.catalogues) // DEALT_ROWS
    return min(settings.threads, max(boxes, pieces, len(TABLES)))


def _most_pairs(inputs: CollationInputs, settings: CollateSettings, scheduler: str, boxes: int) -> int | None:
    """Carried pairs that a box may have with the memory that is allowed, None without a limit."""
    if settings.memory_gb is None:
        return None
    needed = projection(inputs, settings, scheduler, boxes=boxes)
    return pairs_allowed(needed, settings.memory_gb * 1e9, min(_workers(settings, scheduler), boxes))


def _told(summary: Mapping[str, Any]) -> dict[str, Any]:
    """The summary, its warnings said."""
    for sentence in summary.get("warnings", ()):
        say(f"collate: WARNING: {sentence}")
    return dict(summary)


def _tell_corrections(held: Mapping[str, Any], record: Mapping[str, Any], *, again: bool) -> None:
    """Say which corrections were made, and where those that were held before are gone."""
    now, islands = record["corrections"], record["summary"]["grouped"]["islands"]
    counts = [f"{len(now[name]):,} {name}" for name in ("apart", "together") if now[name]]
    if counts:
        grouped = f"; {islands:,} island{'s' * (islands != 1)} grouped again" if again else ""
        say(f"collate: corrections: {', '.join(counts)}{grouped}")
    elif any(held.values()):
        say(
            "collate: WARNING: the corrections this collation held are taken back (give --corrections again to keep "
            "them)"
        )


def _check_memory(needed: Memory, settings: CollateSettings, what: str) -> None:
    """Say what is projected; ConfigError where that is more than allowed."""
    say(f"collate: {what}; at most {needed.total / 1e9:.2f} GB of memory is projected")
    if settings.memory_gb is not None and needed.total > settings.memory_gb * 1e9:
        raise ConfigError(
            f"{needed.total / 1e9:.2f} GB of memory is projected ({needed.driver / 1e9:.2f} for the rows, "
            f"{needed.tasks / 1e9:.2f} for tasks, {needed.masks / 1e9:.2f} for masks), {settings.memory_gb:g} GB is "
            f"allowed; give fewer rows a box than {settings.rows_per_box:,}, fewer threads, or more memory; where one "
            "island holds most components, let the masks reach less far"
        )


def _named(action: Action) -> str:
    """What tells one action from another: its name, and of a user's what it does."""
    return action.name if built_in([action]) else f"{action.name} {_source(action.act)}"


def _source(function: Any) -> str:
    """A hash of a user's function, of its text where that can be found."""
    try:
        text = inspect.getsource(function)
    except (OSError, TypeError):
        text = f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', type(function))}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _sha256(*arrays: np.ndarray) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()[:16]
