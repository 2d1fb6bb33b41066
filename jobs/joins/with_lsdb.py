"""Cross-match of catalogues larger than memory: LSDB brings partitions and margins together, a task a partition.

work folder:  left/, right/ (HATS of files that were none)   pairs.npy (one-to-one)   tree/ (the result)   written/
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from skysom.cluster.tables import compute_each, dask_scheduler, default_scheduler
from skysom.jobs.errors import ConfigError
from skysom.jobs.joins.hats import HatsOptions, check_scheduler, identity, import_hats
from skysom.jobs.joins.output import kind_of
from skysom.jobs.joins.pairs import one_to_one
from skysom.jobs.joins.sky import ADDED, LSDB_SEPARATION, Joined, SkyJoin, SkyPlan
from skysom.jobs.joins.unmatched import has_positions, join_unmatched
from skysom.jobs.joins.work import WorkFolder
from skysom.jobs.progress import Progress
from skysom.storage import hats, hats_partitions
from skysom.storage.place import Place
from skysom.storage.selection import column_names
from skysom.storage.table_stream import TableStream, is_hats, open_table

if TYPE_CHECKING:
    import pandas as pd

Matched = Callable[[tuple[Place, Place], SkyPlan, Path | None], Any]
"""Makes the lazy result of two HATS catalogues, a plan for them, and the file of pairs of a one-to-one plan."""


def join_by_partitions(
    left: TableStream,
    right: TableStream,
    plan: SkyPlan,
    output: str | Place,
    *,
    matched: Matched | None = None,
    claim: Mapping[str, Any] | None = None,
    scheduler: str | None = None,
    overwrite: bool = False,
) -> Joined:
    """`join_sky` with LSDB. A run that was killed goes on where it was, partition by partition.

    matched : makes another result than `matched_catalogue`. claim : plain values that such a result depends on beside
    the catalogues and the settings; a run with others does not go on with it.
    """
    from skysom.jobs.joins.lsdb_write import Writing

    scheduler = scheduler or default_scheduler()
    check_scheduler(scheduler)
    check_sides(left, right, plan)
    if not has_positions(left, right, plan):
        return join_unmatched(left, right, plan, output, overwrite)
    own = {"left": identity(left.path), "right": identity(right.path), "settings": asdict(plan.settings)}
    with WorkFolder(output, own | dict(claim or {}), overwrite=overwrite, kind=kind_of(output)) as work:
        sides, plan = as_hats(left, right, plan, work.path, scheduler)
        with hats_partitions.quiet():
            pairs = None
            if plan.settings.how == "one-to-one":
                with hats.partitions_readable(*sides):
                    pairs = _taken_pairs(sides, plan, work.path, scheduler)
            result = (matched or matched_catalogue)(sides, plan, pairs)
            return Writing(plan, work, sides, result).run(scheduler)


def lazy_join(left: str | Place, right: str | Place, settings: SkyJoin) -> Any:
    """The result of `join_sky` for two HATS catalogues as a lazy `lsdb.Catalog`; its `to_dask_dataframe` is Dask's.

    Nothing is read before it is computed. Left rows without a position are not in it.

    Raises
    ------
    ConfigError : see `join_sky`; a catalogue that is not HATS, or one-to-one, which needs all pairs at once.
    """
    from skysom.jobs.joins.lsdb_write import finished_frame, frame_meta

    if settings.how == "one-to-one":
        raise ConfigError("one-to-one looks at all pairs at once; use join_sky, and open what it writes")
    streams = open_table(left, lists=True), open_table(right, lists=True)
    for stream in streams:
        if not is_hats(stream.path):
            raise ConfigError(f"{stream.path} is no HATS catalogue; make one: skysom join hats {stream.path} DIR")
    plan = SkyPlan.of(*streams, settings)
    check_sides(*streams, plan)
    with hats_partitions.quiet():
        found = matched_catalogue((streams[0].path, streams[1].path), plan, None)
        return found.map_partitions(finished_frame, plan, meta=frame_meta(plan.schema))


# --- sides ----------------------------------------------------------------------------------------


def check_sides(left: TableStream, right: TableStream, plan: SkyPlan) -> None:
    """See that catalogues in HATS can be matched, before work starts.

    Raises
    ------
    ConfigError : a margin that is too narrow, or row numbers that are needed and not there.
    CatalogueError : partitions that are not there.
    """
    numbered = plan.settings.how == "one-to-one" or plan.settings.not_self
    for stream in (left, right):
        if numbered and is_hats(stream.path) and not stream.numbered:
            raise ConfigError(
                f"{stream.path} has no row numbers that skysom gave it ({hats.ROW_COLUMN}), which one-to-one and "
                f"not-self need; write it again with: skysom join hats {stream.path} DIR"
            )
        if is_hats(stream.path):
            hats.check_partitions(stream.path)
    if is_hats(right.path):
        margin, radius = hats.margin_of(right.path), plan.settings.radius_arcsec
        if margin < radius:
            raise ConfigError(
                f"the margin of {right.path} is {margin:g} arcsec, the radius {radius:g}; write it with a wider one: "
                f"skysom join hats {right.path} DIR --margin {_safe(radius):g}"
            )


def as_hats(
    left: TableStream, right: TableStream, plan: SkyPlan, folder: Path, scheduler: str
) -> tuple[tuple[Place, Place], SkyPlan]:
    """HATS catalogues of both sides, their own or made in a folder, and the plan without what making them has done."""
    settings, margin = plan.settings, _safe(plan.settings.radius_arcsec)
    options = (
        HatsOptions(plan.left.ra, plan.left.dec, plan.left_columns, settings.left_where, 0),
        HatsOptions(plan.right.ra, plan.right.dec, plan.right_columns, settings.right_where, margin),
    )
    found: list[Place] = []
    for name, stream, option in zip(("left", "right"), (left, right), options, strict=True):
        path = stream.path
        if not is_hats(path):
            path = folder / name
            if not path.exists():
                import_hats(stream.path, path, option, scheduler=scheduler)
            settings = replace(settings, left_where=None) if name == "left" else replace(settings, right_where=None)
        found.append(path)
    return (found[0], found[1]), replace(plan, settings=settings)


def _safe(radius_arcsec: float) -> float:
    """A margin for a radius: rounding in between does no harm."""
    return radius_arcsec * 1.001 + 0.01


def opened(path: Place, columns: tuple[str, ...]) -> Any:
    """A catalogue as LSDB opens it, with these columns and the row numbers if skysom gave it some."""
    import lsdb

    numbers = [hats.ROW_COLUMN] if hats.has_row_numbers(path) else []
    return lsdb.open_catalog(path, columns=list(dict.fromkeys([*columns, *numbers])))


# --- matching -------------------------------------------------------------------------------------


def matched_catalogue(
    sides: tuple[Place, Place], plan: SkyPlan, pairs: Path | None, left_columns: tuple[str, ...] | None = None
) -> Any:
    """The lazy cross-match as LSDB gives it: left columns, right ones with a suffix, separation and rank."""
    from skysom.jobs.joins.lsdb_match import SkyMatch

    return brought_together(sides, plan, SkyMatch(plan, pairs), left_columns)


def brought_together(
    sides: tuple[Place, Place], plan: SkyPlan, algorithm: Any, left_columns: tuple[str, ...] | None = None
) -> Any:
    """The lazy catalogue that an algorithm makes of every left partition and the right rows in and around it."""
    _keep_compiled()
    left = opened(sides[0], plan.left_columns if left_columns is None else left_columns)
    right = opened(sides[1], plan.right_needed)
    names: Any = {"suffixes": ("", ADDED), "suffix_method": "all_columns", "log_changes": False}
    try:
        return left.crossmatch(right, algorithm=algorithm, how=plan.settings.keep, **names)
    except RuntimeError as error:
        if plan.settings.keep != "inner" or "overlap" not in str(error):
            raise
        # No left partition has a right row in it or near: what is left of the left rows then is dropped at the end.
        return left.crossmatch(right, algorithm=algorithm, how="left", **names)


def open_backend() -> None:
    """Import LSDB, which takes some seconds, ahead of its first use."""
    with hats_partitions.quiet():
        import skysom.jobs.joins.lsdb_match

        assert skysom.jobs.joins.lsdb_match
    _keep_compiled()


def _keep_compiled() -> None:
    """Have numba keep what it makes of the alignment of partitions: 15 s of each process that matches otherwise."""
    from hats.pixel_tree import moc_filter, pixel_alignment
    from numba.core.dispatcher import Dispatcher

    for module in (pixel_alignment, moc_filter):
        for function in vars(module).values():
            if isinstance(function, Dispatcher):
                with suppress(RuntimeError):  # no folder to keep it in can be written
                    function.enable_caching()


def _taken_pairs(sides: tuple[Place, Place], plan: SkyPlan, folder: Path, scheduler: str) -> Path:
    """The pairs that one-to-one takes, by their row numbers, in a file; only columns of positions are read."""
    path = folder / "pairs.npy"
    if path.exists():
        return path
    positions = replace(plan, settings=replace(plan.settings, keep="inner"), right_columns=())
    asked = column_names(plan.settings.left_where) if plan.settings.left_where else []
    columns = tuple(dict.fromkeys([plan.left.ra, plan.left.dec, *asked]))
    result = matched_catalogue(sides, positions, None, columns).map_partitions(_pair_rows, meta=_pair_rows_meta())
    rows: list[np.ndarray] = [np.zeros((2, 0), np.int64)]
    separations: list[np.ndarray] = [np.zeros(0)]
    tasks = result.to_delayed()
    with Progress("join: pairs", unit="partitions") as progress, dask_scheduler(scheduler):

        def on_done(which: int, frame: "pd.DataFrame") -> None:
            rows.append(frame[["left", "right"]].to_numpy(np.int64).T)
            separations.append(frame["separation"].to_numpy(np.float64))
            progress(len(rows) - 1, len(tasks))

        compute_each(tasks, on_done)
    left, right = np.concatenate(rows, axis=1)
    taken = one_to_one(np.concatenate(separations), left, right)
    taken = taken[np.argsort(left[taken])]
    beside = path.with_name("pairs.partial.npy")
    np.save(beside, np.stack([left[taken], right[taken]]))
    beside.replace(path)
    return path


def _pair_rows(frame: "pd.DataFrame") -> "pd.DataFrame":
    import pandas as pd

    frame = frame[frame[LSDB_SEPARATION].notna()]
    return pd.DataFrame(
        {
            "left": frame[hats.ROW_COLUMN].to_numpy(np.int64),
            "right": frame[f"{hats.ROW_COLUMN}{ADDED}"].to_numpy(np.int64),
            "separation": frame[LSDB_SEPARATION].to_numpy(np.float64),
        }
    )


def _pair_rows_meta() -> "pd.DataFrame":
    import pandas as pd

    return pd.DataFrame({"left": np.zeros(0, np.int64), "right": np.zeros(0, np.int64), "separation": np.zeros(0)})
