"""The sweep: what killed writers left half-written is removed when the next run begins.

Only what an unfinished stage may have left is looked for, shard by shard, so that a large finished survey
costs nothing.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from skysom.storage import place as places
from skysom.storage.place import remove_tree
from skysom.storage.survey import Survey

if TYPE_CHECKING:
    from skysom.jobs.output import Output

INGEST_ARRAYS = ("images", "image_scale", "status", "coverage")
PREPARED_ARRAYS = ("prepared", "prepared_scale", "channel_sum", "prepared_status", "ok", "redshift")
"""Arrays of the store that a stage makes."""
READINGS = ("analysis.json", "classification.json", "classifier.skops", "classifier.json", "judge.json")
"""What commands have read from maps and mappings; tables of neurons stay, since people write in them."""
CATALOGUES = ("catalogue.parquet", "catalogue.appended.parquet")
WRITTEN = (*READINGS, *CATALOGUES, "neurons.csv", "neurons.parquet", "survey.zarr", "report.html")
"""What is written into the output directory itself, beside its place first."""
PARTIAL = "*.partial"
"""Files that are written here and by Zarr are named so until they are whole."""


def sweep(output: "Output") -> int:
    """Remove stray partial files and uploads of ``output``, and end replacements of maps; returns how many."""
    swept = places.abort_uploads(output.root) + _sweep_beside(output)
    if not Survey.is_at(output.survey):
        return swept
    survey = Survey(output.survey, "r+")
    swept += survey.recover()
    if isinstance(survey.path, Path):  # an object store shows objects when they are whole
        swept += _remove(survey.path.glob(PARTIAL))
        ledger, shards = output.ledger(), survey.shards()
        for stage in output.recorded():
            missing = set(shards) - ledger.shards(stage)
            if missing:
                numbers = sorted(start // survey.shard_images for start, _ in missing)
                swept += sum(_sweep_array(survey.path / name, numbers) for name in _arrays(survey, stage))
    return swept


def _sweep_beside(output: "Output") -> int:
    """In the output directory, which may hold files of others, and the private one, where the lock is being renewed."""
    mine = {f"{name}{PARTIAL[1:]}" for name in WRITTEN} | {f".{name}{PARTIAL[1:]}" for name in WRITTEN}
    found = [entry for entry in places.entries(output.root) if entry.name in mine]
    private = places.entries(output.private)
    found += [entry for entry in private if entry.name.endswith(PARTIAL[1:]) and entry.name != "lock.partial"]
    return _remove(found)


def _arrays(survey: Survey, stage: str) -> Iterable[str]:
    kind, _, name = stage.partition(":")
    if kind == "map":
        group = f"mappings/{name}"
        return [f"{group}/{array}" for array in survey.group[group].array_keys()] if group in survey else []  # type: ignore[union-attr]
    return {"ingest": INGEST_ARRAYS, "preprocess": PREPARED_ARRAYS}.get(kind, ())


def _sweep_array(array: Path, numbers: Iterable[int]) -> int:
    """Of one array: beside its metadata, beside chunks of one dimension, and in the folders of unfinished shards."""
    chunks = array / "c"
    swept = _remove(array.glob(PARTIAL)) + _remove(chunks.glob(PARTIAL))
    return swept + sum(_remove((chunks / str(number)).rglob(PARTIAL)) for number in numbers)


def _remove(found: Iterable[places.Place]) -> int:
    paths = list(found)
    for path in paths:
        remove_tree(path)
    return len(paths)
