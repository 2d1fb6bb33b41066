"""The inputs of a finished collation, made again from what its folder remembers, and the sources it published."""

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from skysom.jobs.collation.collate import configuration
from skysom.jobs.collation.folder import CollationFolder
from skysom.jobs.collation.inputs import CollationInputs
from skysom.jobs.collation.inputs_assembly import CollateOptions
from skysom.jobs.collation.inputs_catalogue import CatalogueChoice
from skysom.jobs.collation.run import corrections_of
from skysom.jobs.collation.source_table import SourceColumns
from skysom.jobs.collation.why_images import Images, PinkImages, SurveyImages
from skysom.jobs.errors import ConfigError
from skysom.jobs.output import Output
from skysom.storage import place as places
from skysom.storage.catalogue import parquet_source
from skysom.storage.place import Place

SAME = ("masks_sha256", "mapped_sha256", "order_sha256")
"""Hashes that say whether inputs are those of the collation."""


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
        """A row of the source table; ConfigError where there is none of that number."""
        found = self._rows("sources", "source", number)
        if not found:
            raise ConfigError(f"{self.folder.root} has no source {number}; they count from 0 to {self.sources - 1}")
        return found[0]

    def source_of(self, *, row: int | None = None, name: str | None = None) -> tuple[int, dict[str, Any]]:
        """The base row and the source of the component of a row, or of an id (of several the first)."""
        key, value = ("row", row) if row is not None else ("id", name)
        found = self._rows("components", key, value)
        if not found:
            raise ConfigError(f"{self.folder.root} has no component with {key} {value!r}; see its components.parquet")
        return int(found[0]["row"]), self.source(int(found[0]["source"]))

    @property
    def sources(self) -> int:
        """How many sources there are."""
        import pyarrow.parquet as pq

        return int(pq.read_metadata(parquet_source(self.folder.table("sources"))).num_rows)

    def _rows(self, table: str, key: str, value: Any) -> list[dict[str, Any]]:
        import pyarrow.parquet as pq

        source = parquet_source(self.folder.table(table))
        return list(pq.read_table(source, filters=[(key, "=", value)]).to_pylist())


def open_collation(
    directory: str | Place, *, survey: str | Place | None = None, pink: PinkFiles | None = None
) -> Collation:
    """Make the inputs of the collation in ``directory`` again.

    Parameters
    ----------
    survey : the output it was made from; default: that of its annotations, or the folder that ``directory`` lies in.
    pink : the peer's files, where it was made from such.

    Raises
    ------
    ConfigError : nothing was published there, or catalogues, masks or mapping are not those of that collation any more.
    Others as `inputs_from_output` and `inputs_from_pyink`.
    """
    folder = CollationFolder(directory)
    published = folder.published()
    path = folder.private / "collation-config.json"
    if published is None or not places.is_file(path):
        raise ConfigError(f"{folder.root} holds no finished collation; make one with `skysom collate`")
    recorded = json.loads(places.read_bytes(path))
    with tempfile.TemporaryDirectory() as temporary:
        options = _options(recorded, Path(temporary))
        inputs, images = _made(recorded, options, folder, survey, pink)
    inputs = replace(inputs, corrections=corrections_of(published["corrections"]))
    now = configuration(inputs, SourceColumns.of(inputs))
    changed = [name.removesuffix("_sha256") for name in SAME if now[name] != recorded.get(name)]
    if changed:
        raise ConfigError(
            f"{folder.root} was made from other inputs than are there now ({', '.join(changed)} differ); collate again "
            "with --redo, or restore them"
        )
    return Collation(folder, inputs, images)


def _options(recorded: Mapping[str, Any], temporary: Path) -> CollateOptions:
    """What the user said then."""
    origin = {key.removeprefix("origin."): value for key, value in recorded.items() if key.startswith("origin.")}
    actions = temporary / "actions.toml"
    named = {key.removeprefix("actions."): value for key, value in origin.items() if key.startswith("actions.")}
    lines = (f"{json.dumps(label, ensure_ascii=False)} = {json.dumps(action)}\n" for label, action in named.items())
    actions.write_text("".join(lines), encoding="utf-8")
    return CollateOptions(
        catalogues=tuple(CatalogueChoice(*columns[:4]) for columns in recorded["catalogues"]),
        actions=str(actions),
        sort=origin["sort"],
        pixel_scale_arcsec=tuple(recorded["pixel_scale_arcsec"]),
        separation_limit_arcsec=recorded["limit_arcsec"],
        float32_angles=recorded["float32_angles"],
        flux_columns=tuple(origin.get("flux_columns") or ()),
        redshift_column=origin.get("redshift_column"),
        unannotated="singletons",
        excluded=tuple(origin.get("excluded_neurons") or ()),
    )


def _made(
    recorded: Mapping[str, Any],
    options: CollateOptions,
    folder: CollationFolder,
    survey: str | Place | None,
    pink: PinkFiles | None,
) -> tuple[CollationInputs, Images | None]:
    name = recorded.get("origin.mapping")
    if pink is not None:
        from skysom.jobs.collation.pyink import inputs_from_pyink

        files = (pink.som, pink.mapping, pink.transforms, str(pink.annotations))
        return inputs_from_pyink(*files, options), None if pink.images is None else PinkImages(pink.images)
    if not isinstance(name, str):
        raise ConfigError(
            f"{folder.root} was made from files of pyink; name them with --som, --map, --transform and --annotations"
        )
    from skysom.jobs.collation.inputs_output import inputs_from_output

    output = _output(recorded, folder, survey)
    version = recorded.get("origin.annotations.version")
    annotations = recorded["origin.annotations.folder"] + (f"/{version:06d}" if version else "")
    return inputs_from_output(output, options, som_name=name, annotations=annotations), SurveyImages(output, name)


def _output(recorded: Mapping[str, Any], folder: CollationFolder, survey: str | Place | None) -> Output:
    """The output that a collation was made from."""
    if survey is not None:
        return Output(survey)
    annotations = places.place(str(recorded.get("origin.annotations.folder", "")))
    for root in (annotations.parent.parent, folder.root.parent):
        output = Output(root)
        if places.is_dir(output.survey):
            return output
    raise ConfigError(f"the survey that {folder.root} was made from is not beside it; name it with --survey")
