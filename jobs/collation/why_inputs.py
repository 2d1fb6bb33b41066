"""The inputs of a finished collation, made again from what its folder remembers, and the sources it published."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from skysom.jobs.collation.collate import configuration
from skysom.jobs.collation.folder import CONFIGURATION, CollationFolder
from skysom.jobs.collation.inputs import CollationInputs
from skysom.jobs.collation.inputs_catalogue import fingerprint
from skysom.jobs.collation.part import part_of
from skysom.jobs.collation.run import corrections_of
from skysom.jobs.collation.source_table import SourceColumns
from skysom.jobs.collation.why_images import Images, PinkImages, SurveyImages
from skysom.jobs.collation.why_recorded import (
    Recorded,
    RecordedCatalogue,
    finished_folder,
    nothing_there,
    read_recorded,
    table_rows,
)
from skysom.jobs.errors import ConfigError, SkysomErrors
from skysom.jobs.output import Output
from skysom.storage import place as places
from skysom.storage.catalogue import parquet_source
from skysom.storage.place import Place

SAME = ("masks_sha256", "mapped_sha256", "order_sha256")
"""Hashes that say whether inputs are those of the collation."""
OF_A_FILE = ("bytes", "sha256", "sha256_of_both_ends", "changed")
"""What `fingerprint` says of a file, and "bytes" what is told of it."""


@dataclass(frozen=True)
class PinkFiles:
    """Files of the peer that a collation was made from; images : those of the trainer, for pictures."""

    som: Path
    mapping: Path
    transforms: Path
    annotations: Path
    images: Path | None = None


@dataclass(frozen=True, eq=False)
class Collation:
    """A finished collation: its folder, the inputs it was made from, and images where they are at hand."""

    folder: CollationFolder
    inputs: CollationInputs
    images: Images | None

    def source(self, number: int) -> dict[str, Any]:
        """A row of the source table; ConfigError where there is none of that number, or the table is damaged."""
        found = table_rows(self.folder.table("sources"), "source", number) if 0 <= number < self.sources else []
        if not found:
            raise ConfigError(f"{self.folder.root} has no source {number}; they count from 0 to {self.sources - 1}")
        return found[0]

    def source_of(self, *, row: int | None = None, name: str | None = None) -> tuple[int, dict[str, Any]]:
        """The base row and the source of the component of a row, or of an id (of several the first)."""
        own = row if row is None or not self.inputs.base.row_column else self._row_in_part(row)
        there = own is None or 0 <= own < self.inputs.base.rows
        key, value = ("id", name) if row is None else ("row", own)
        found = table_rows(self.folder.table("components"), key, value) if there else []
        if found:
            return found[0]["row"], self.source(found[0]["source"])
        what = f"id {name!r}" if row is None else f"row {row}"
        if row is None and self._named(str(name)):
            raise ConfigError(f"{self.folder.root} has no component with {what}; it names a source: leave out --id")
        raise ConfigError(f"{self.folder.root} has no component with {what}; see its components.parquet")

    def source_named(self, name: str) -> dict[str, Any]:
        """The row of the source of a name; ConfigError where there is none, or there are several."""
        found = self._named(name)
        if not found:
            raise ConfigError(
                f"{self.folder.root} has no source named {name!r}; give its number or its name, see sources.parquet, "
                "or a component with --id"
            )
        if len(found) > 1:
            numbers = ", ".join(str(each["source"]) for each in found)
            raise ConfigError(f"{self.folder.root} has {len(found)} sources named {name!r}: {numbers}; give a number")
        return found[0]

    def _named(self, name: str) -> list[dict[str, Any]]:
        return table_rows(self.folder.table("sources"), "name", name)

    def _row_in_part(self, row: int) -> int:
        """The row of the catalogue of a dry run that is ``row`` of the whole one, -1 where it is not in it."""
        whole = self.inputs.base.read([str(self.inputs.base.row_column)]).iloc[:, 0].to_numpy()
        return int(next(iter(np.flatnonzero(whole == row)), -1))

    @property
    def sources(self) -> int:
        """How many sources there are."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = self.folder.table("sources")
        try:
            return int(pq.read_metadata(parquet_source(path)).num_rows)
        except (OSError, ValueError, pa.ArrowException) as error:
            raise ConfigError(f"{path} cannot be read ({error}); collate again with --redo") from error


def open_collation(
    directory: str | Place,
    *,
    survey: str | Place | None = None,
    annotations: str | None = None,
    pink: PinkFiles | None = None,
) -> Collation:
    """Make the inputs of the collation in ``directory`` (or in the output there) again.

    Parameters
    ----------
    survey : the output it was made from; default: that of its annotations, or the folder that ``directory`` lies in.
    annotations : of that output, see `masks_of_output`; default: those it was made with.
    pink : the peer's files, where it was made from such.

    Raises
    ------
    ConfigError : nothing was published there, or not all of it; its records are damaged; or catalogues, masks or
    mapping are not those of that collation any more. Others as `inputs_from_output` and `inputs_from_pyink`.
    """
    folder = finished_folder(directory)
    published, path = folder.published(), folder.private / CONFIGURATION
    if published is None and places.exists(folder.private / "published.json"):
        raise ConfigError(f"the tables in {folder.root} are not as they were made; run the same skysom collate again")
    if published is None or not places.is_file(path):
        raise nothing_there(folder)
    recorded = read_recorded(path)
    _check_there(folder, recorded)
    _check_named(folder, recorded, annotations, pink)
    try:
        inputs, images = _made(recorded, folder, survey, annotations, pink)
    except (*SkysomErrors, OSError):
        # Another catalogue may be refused for any reason; that it is another one says more.
        _check_catalogues(
            folder, recorded.whole, recorded.fingerprints, [fingerprint(file.place) for file in recorded.whole]
        )
        raise
    _check_catalogues(folder, recorded.whole, recorded.fingerprints, inputs.origin["catalogues"])
    if recorded.part_of is not None:
        inputs = _cut(folder, recorded, inputs)
    inputs = replace(inputs, corrections=corrections_of(published["corrections"]))
    now = configuration(inputs, SourceColumns.of(inputs))
    changed = [name.removesuffix("_sha256") for name in SAME if now[name] != getattr(recorded, name)]
    if changed:
        raise ConfigError(
            f"{folder.root} was made from other inputs than are there now ({', '.join(changed)} differ); collate again "
            "with --redo, or restore them"
        )
    return Collation(folder, inputs, images)


def _check_there(folder: CollationFolder, recorded: Recorded) -> None:
    """ConfigError for catalogues that are gone."""
    named = {file.path: file for file in (*recorded.whole, *recorded.catalogues)}
    gone = [path for path, file in named.items() if not places.is_file(file.place)]
    if gone:
        raise ConfigError(
            f"{folder.root} was made from {', '.join(gone)}, where there is no file any more; restore it, or collate "
            "again with --redo and the catalogue that is there"
        )


def _check_named(folder: CollationFolder, recorded: Recorded, annotations: str | None, pink: PinkFiles | None) -> None:
    """ConfigError where files of the peer are needed, whose places are not remembered."""
    if pink is not None:
        return
    if recorded.mapping is None:
        raise ConfigError(
            f"{folder.root} was made from files of pyink; name them with --som, --map, --transform and --annotations"
        )
    if annotations is None and recorded.annotations() is None:
        raise ConfigError(
            f"{folder.root} was made with annotations of pyink, {recorded.pickle}; name the file with --annotations"
        )


def _cut(folder: CollationFolder, recorded: Recorded, inputs: CollationInputs) -> CollationInputs:
    """The inputs of a dry run, of those of the whole; ConfigError where its own catalogues have changed."""
    files = recorded.cut()
    _check_catalogues(folder, recorded.catalogues, recorded.parts or (), [fingerprint(file.path) for file in files])
    rows = files[0].read([str(files[0].row_column)]).iloc[:, 0].to_numpy(np.int64)
    return replace(part_of(inputs, files, rows), origin=inputs.origin)


def _check_catalogues(
    folder: CollationFolder,
    catalogues: Sequence[RecordedCatalogue],
    before: Sequence[dict[str, Any]],
    now: Sequence[dict[str, Any]],
) -> None:
    """ConfigError where catalogues are not the files that were collated. before, now : their fingerprints."""
    for catalogue, then, found in zip(catalogues, before, now, strict=True):
        old, new = ({key: values.get(key) for key in OF_A_FILE} for values in (then, found))
        if old == new:
            continue
        sizes = f"{old['bytes']} bytes then, {new['bytes']} now"
        what = sizes if old["bytes"] != new["bytes"] else f"{old['bytes']} bytes as then, with another content"
        raise ConfigError(
            f"{folder.root} was made from another {catalogue.path} than is there now ({what}); restore the file, or "
            "collate again with --redo"
        )


def _made(
    recorded: Recorded,
    folder: CollationFolder,
    survey: str | Place | None,
    annotations: str | None,
    pink: PinkFiles | None,
) -> tuple[CollationInputs, Images | None]:
    with tempfile.TemporaryDirectory() as temporary:
        options = recorded.options(Path(temporary))
        if pink is not None:
            from skysom.jobs.collation.pyink import inputs_from_pyink

            files = (pink.som, pink.mapping, pink.transforms, str(pink.annotations))
            return inputs_from_pyink(*files, options), None if pink.images is None else PinkImages(pink.images)
        from skysom.jobs.collation.inputs_output import inputs_from_output

        output, name = _output(recorded, folder, survey), str(recorded.mapping)
        chosen = annotations or recorded.annotations()
        return inputs_from_output(output, options, som_name=name, annotations=chosen), SurveyImages(output, name)


def _output(recorded: Recorded, folder: CollationFolder, survey: str | Place | None) -> Output:
    """The output that a collation was made from."""
    if survey is not None:
        return Output(survey)
    roots = [folder.root.parent, folder.root.parent.parent]  # a dry run lies in the folder of a collation
    if recorded.annotations_folder:
        roots.insert(0, places.place(recorded.annotations_folder).parent.parent)
    for root in roots:
        output = Output(root)
        if places.is_dir(output.survey):
            return output
    raise ConfigError(f"the survey that {folder.root} was made from is not beside it; name it with --survey")
