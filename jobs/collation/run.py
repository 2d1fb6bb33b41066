"""One run of a collation inside its lock and its scheduler: the stages, what is recorded, and what is published."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from skysom.cluster.errors import LedgerError
from skysom.cluster.tables import compute_each
from skysom.engine.collation.groups import Corrections
from skysom.engine.collation.mask_words import mask_reach_arcsec
from skysom.engine.collation.sky_boxes import SkyBoxes
from skysom.jobs.collation.boxes import BoxWork, group_box, project_box
from skysom.jobs.collation.deal import BaseRows, boxes_for, deal_piece, distinct, extra_columns, pieces_of
from skysom.jobs.collation.folder import TABLES, CollationFolder
from skysom.jobs.collation.inputs import STATUSES, CollationInputs, Mapped
from skysom.jobs.collation.islands import Sky, changed_rows, read_sky
from skysom.jobs.collation.merge import MergeWork, boxes_of_ranges, count_column, merge_table, smallest_members
from skysom.jobs.collation.source_table import SourceColumns
from skysom.jobs.output import hash_of
from skysom.jobs.progress import Progress

RANGES = 64
"""Tables are merged in so many ranges of base rows, or fewer of `MIN_RANGE_ROWS`."""
MIN_RANGE_ROWS = 65_536

Shard = tuple[int, int]


def range_rows(rows: int) -> int:
    """Base rows of a range of the merge."""
    return max(MIN_RANGE_ROWS, -(-rows // RANGES))


@dataclass
class CollationRun:
    """What one run knows. config : hash of the configuration. most_pairs : carried pairs that a box may have, None for
    any number. seconds : of each stage that ran."""

    folder: CollationFolder
    inputs: CollationInputs
    columns: SourceColumns
    rows_per_box: int
    deadline_s: float
    config: str
    most_pairs: int | None = None
    seconds: dict[str, float] = field(default_factory=dict)

    # --- stages -----------------------------------------------------------------------------------

    def boxes(self) -> SkyBoxes:
        """Those of an earlier run, or new ones."""
        return self._timed("partition", lambda: boxes_for(self.inputs, self.rows_per_box, self.folder))

    def sky(self, boxes: SkyBoxes) -> Sky:
        """Islands and homes of all base rows; deals and projects what an earlier run has not."""
        if len(self.folder.ledger().done("project", self.config)) < boxes.count:
            self._timed("deal", lambda: self._deal(boxes))
            self._timed("project", lambda: self._project(boxes))
        self.folder.clear("dealt")
        given = self.folder, self.inputs.base.rows, boxes.count, self.inputs.corrections
        return self._timed("islands", lambda: read_sky(*given))

    def group_all(self, sky: Sky) -> dict[str, Any]:
        """Group every island and merge the tables; what is to be published."""
        stage, ledger = hash_of([self.config, plain(self.inputs.corrections)]), self.folder.ledger()
        try:
            ledger.done("group", stage)
        except LedgerError:  # under other corrections, and never published
            self.folder.forget_groups()
        counts = self._timed("group", lambda: self._group(sky, np.arange(len(sky)), stage))
        return self._merged(sky, counts, None)

    def group_again(self, sky: Sky, before: Corrections) -> dict[str, Any]:
        """Group the islands that changed corrections touch, and merge them into what is published."""
        now = self.inputs.corrections or Corrections()
        replaced = sky.touched(changed_rows(before, now), before)
        self.folder.forget_groups()
        counts = self._timed("group", lambda: self._group(sky, np.flatnonzero(replaced), None))
        return self._merged(sky, counts, replaced)

    # --- what they do -----------------------------------------------------------------------------

    def _deal(self, boxes: SkyBoxes) -> None:
        import dask

        shared = dask.delayed(boxes, pure=False, traverse=False)
        light = dask.delayed(self._light(), pure=False, traverse=False)
        folder = dask.delayed(self.folder.of_this_run(), pure=False, traverse=False)
        reach = max(float(reaches.max(initial=0)) for reaches in self._reaches())
        margin = min(self.inputs.limit_arcsec, reach)
        for channel, catalogue in distinct(self.inputs).items():
            extra = extra_columns(self.columns, channel)
            tasks: dict[Shard, Any] = {}
            for piece in pieces_of(catalogue):
                base = (
                    dask.delayed(BaseRows.of(self.inputs, piece), pure=False, traverse=False) if channel == 0 else None
                )
                deal = dask.delayed(deal_piece, pure=False)
                tasks[piece.first, piece.stop] = deal(folder, light, shared, channel, piece, margin, base, extra)
            self._stage(f"deal:{channel}", tasks, self.config, f"deal {catalogue.path.name}", catalogue.rows)

    def _project(self, boxes: SkyBoxes) -> None:
        import dask

        planes = tuple(np.ascontiguousarray(self.inputs.planes[:, c]) for c in range(self.inputs.planes.shape[1]))
        work = dask.delayed(self._work(planes), pure=False, traverse=False)
        tasks = {(box, box + 1): dask.delayed(project_box, pure=False)(work, box) for box in range(boxes.count)}
        self._stage("project", tasks, self.config, "project", self.inputs.base.rows)

    def _group(self, sky: Sky, rows: np.ndarray, config: str | None) -> dict[int, dict[str, Any]]:
        """Group ``rows``, whole islands; counts by box. config : under which boxes are recorded; None: they are not."""
        import dask

        work = dask.delayed(self._work(()), pure=False, traverse=False)
        tasks = {
            (box, box + 1): dask.delayed(group_box, pure=False)(work, box, own, homes)
            for box, own, homes in sky.by_box(rows)
        }
        found = self._stage("group", tasks, config, "group", len(rows))
        return {box: counts for (box, _), counts in found.items()}

    def _merged(self, sky: Sky, counts: dict[int, dict[str, Any]], replaced: np.ndarray | None) -> dict[str, Any]:
        """Merge what was grouped with what is kept of the published tables; what is to be published."""
        import dask

        parts = boxes_of_ranges(counts)
        work = MergeWork(self.folder.of_this_run(), self.columns, len(sky), range_rows(len(sky)), parts, replaced)
        self.folder.clear("merged")  # so that what is published later is of this merge alone
        smallest = self._timed("check", lambda: smallest_members(work))
        shared = dask.delayed(work, pure=False, traverse=False)
        tasks = {
            (number, number + 1): dask.delayed(merge_table, pure=False)(shared, name, smallest)
            for number, name in enumerate(TABLES)
        }
        found = self._timed("merge", lambda: self._stage("merge", tasks, None, "merge", len(TABLES), "tables"))
        merged = {name: found[number, number + 1] for number, name in enumerate(TABLES)}
        rows = np.arange(len(sky)) if replaced is None else np.flatnonzero(replaced)
        islands = int(np.count_nonzero(sky.roots[rows] == rows))
        summary = self._summary(sky, merged) | {
            "grouped": {"rows": len(rows), "islands": islands, "boxes": len(counts)}
        }
        return {"corrections": plain(self.inputs.corrections), "summary": summary}

    # --- small ------------------------------------------------------------------------------------

    def _stage(
        self, stage: str, tasks: Mapping[Shard, Any], config: str | None, title: str, total: int, unit: str = "rows"
    ) -> dict[Shard, Any]:
        """What every task returned, those of earlier runs from the ledger; config None: nothing is recorded."""
        ledger = self.folder.ledger()
        known = {} if config is None else ledger.done(stage, config)
        found: dict[Shard, Any] = {shard: known[shard] for shard in tasks if shard in known}
        missing = [shard for shard in tasks if shard not in found]
        done = sum(counts["rows"] for counts in found.values())
        with Progress(f"collate: {title}", unit) as progress:
            progress(done, total)

            def on_done(index: int, counts: Any) -> None:
                nonlocal done
                found[missing[index]] = counts
                if config is not None:
                    self.folder.check()
                    ledger.record(stage, config, missing[index], counts)
                done += counts["rows"] if unit == "rows" else 1
                progress(done, total)

            compute_each([tasks[shard] for shard in missing], on_done, deadline_s=self.deadline_s)
        ledger.flush()
        return found

    def _timed(self, name: str, call: Callable[[], Any]) -> Any:
        started = time.perf_counter()
        found = call()
        self.seconds[name] = round(time.perf_counter() - started, 3)
        return found

    def _light(self) -> CollationInputs:
        """The inputs without arrays of a value a base row, and without masks."""
        none, planes = np.empty(0, np.int64), self.inputs.planes[:0]
        mapped = Mapped(none, none, none, none, none)
        return replace(self.inputs, mapped=mapped, rank=none, status=none, planes=planes)

    def _reaches(self) -> tuple[np.ndarray, ...]:
        """By channel (N,) arcsec, how far the masks of neurons reach."""
        planes, scale = self.inputs.planes, self.inputs.pixel_scale_arcsec
        return tuple(mask_reach_arcsec(planes[:, channel], scale) for channel in range(planes.shape[1]))

    def _work(self, planes: tuple[np.ndarray, ...]) -> BoxWork:
        ledger, files = self.folder.ledger(), {}
        for channel in distinct(self.inputs):
            dealt = sorted(ledger.done(f"deal:{channel}", self.config).values(), key=lambda counts: counts["piece"])
            files[channel] = [(counts["piece"], number) for counts in dealt for number in range(counts["files"])]
        rows = range_rows(self.inputs.base.rows)
        folder, light, reaches = self.folder.of_this_run(), self._light(), self._reaches()
        return BoxWork(folder, light, planes, reaches, files, self.columns, rows, self.most_pairs)

    def _summary(self, sky: Sky, merged: Mapping[str, Mapping[str, int]]) -> dict[str, Any]:
        projected = self.folder.ledger().done("project", self.config).values()
        codes, counts = np.unique(self.inputs.status, return_counts=True)
        corrections = self.inputs.corrections or Corrections()
        by_channel = np.array([count["carried_by_channel"] for count in projected], np.int64).sum(axis=0).tolist()
        return {
            "config_hash": self.config,
            "rows": len(sky),
            "status": {STATUSES[code]: int(count) for code, count in zip(codes, counts, strict=True)},
            "boxes": len(projected),
            "carried_pairs": sum(count["carried"] for count in projected),
            "carried_by_channel": by_channel,
            "islands": len(sky.island_sizes),
            "largest_island": sky.largest,
            **{name: counts["rows"] for name, counts in merged.items()},
            "largest_source": merged["sources"]["largest"],
            "sources_of_several": merged["sources"]["several"],
            "attached": {
                self.columns.labels[label]: merged["sources"].get(count_column(self.columns, label), 0)
                for label in self.columns.data_labels
            },
            "corrections": {"together": len(corrections.together), "apart": len(corrections.apart)},
            "warnings": self._warnings(by_channel),
            "origin": dict(self.inputs.origin),
            "seconds": dict(self.seconds),
        }

    def _warnings(self, carried: Sequence[int]) -> list[str]:
        """Sentences on channels whose masks, of neurons in use, lie on nothing. carried : pairs by channel."""
        mapped = self.inputs.mapped
        used = np.unique(mapped.neuron[self.inputs.rank[mapped.row] >= 0])
        return [
            f"channel {channel} ({catalogue.path.name}): no row lies under any mask; is it a catalogue of the same "
            "sky, with positions in degrees?"
            for channel, catalogue in enumerate(self.inputs.catalogues)
            if carried[channel] == 0 and (self.inputs.planes[used, channel] != 0).any()
        ]


def plain(corrections: Corrections | None) -> dict[str, Any]:
    """Corrections as plain values; equal ones as equal values."""
    values = asdict(corrections or Corrections())
    together = sorted(sorted({int(row) for row in rows}) for rows in values["together"])
    return {"together": together, "apart": sorted({int(row) for row in values["apart"]})}


def corrections_of(values: Mapping[str, Any]) -> Corrections:
    """The corrections of `plain`."""
    return Corrections(tuple(tuple(rows) for rows in values["together"]), tuple(values["apart"]))
