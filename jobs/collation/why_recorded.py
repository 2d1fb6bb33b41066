"""What the folder of a finished collation remembers of it, read with care: it may have been damaged since."""

import json
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from skysom.jobs.collation.folder import CollationFolder
from skysom.jobs.collation.inputs_assembly import CollateOptions
from skysom.jobs.collation.inputs_catalogue import CatalogueChoice, CatalogueFile
from skysom.jobs.errors import ConfigError
from skysom.storage import place as places
from skysom.storage.catalogue import parquet_source
from skysom.storage.place import Place

ACTIONS = "origin.actions."
"""Keys of the configuration that begin so are of labels."""


class RecordedCatalogue(NamedTuple):
    """A catalogue that was collated, and its columns."""

    path: str
    ra_column: str
    dec_column: str
    id_column: str
    rows: int

    @property
    def place(self) -> Place:
        """Where it was."""
        return places.place(self.path)


class Recorded(BaseModel):
    """The configuration of a collation as its folder has it, with dotted keys; ``extra`` has those of the labels."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)

    catalogues: Annotated[list[RecordedCatalogue], Field(min_length=1)]
    fingerprints: list[dict[str, Any]] = Field(alias="origin.catalogues")
    pixel_scale_arcsec: tuple[float, float]
    limit_arcsec: float
    float32_angles: bool
    masks_sha256: str
    mapped_sha256: str
    order_sha256: str
    sort: str = Field(alias="origin.sort")
    mapping: str | None = Field(None, alias="origin.mapping")
    annotations_folder: str | None = Field(None, alias="origin.annotations.folder")
    version: int | None = Field(None, alias="origin.annotations.version")
    pickle: str | None = Field(None, alias="origin.annotations.pyink")
    flux_columns: list[str] | None = Field(None, alias="origin.flux_columns")
    redshift_column: str | None = Field(None, alias="origin.redshift_column")
    excluded: list[int] | None = Field(None, alias="origin.excluded_neurons")
    part_of: list[RecordedCatalogue] | None = Field(None, alias="origin.part_of")
    part_rows: list[str] | None = Field(None, alias="origin.part_rows")
    parts: list[dict[str, Any]] | None = Field(None, alias="origin.parts")

    @property
    def whole(self) -> list[RecordedCatalogue]:
        """The catalogues that it was made from: of a dry run those that its own are cut from."""
        return self.catalogues if self.part_of is None else self.part_of

    def cut(self) -> tuple[CatalogueFile, ...]:
        """The catalogues of a dry run; none of others."""
        if self.part_of is None:
            return ()
        columns = zip(self.catalogues, self.part_rows or (), strict=True)
        return tuple(CatalogueFile(file.place, *file[1:], rows) for file, rows in columns)

    def annotations(self) -> str | None:
        """The folder of the version of annotations that was used; None where they were the peer's."""
        if self.annotations_folder is None:
            return None
        return self.annotations_folder + (f"/{self.version:06d}" if self.version else "")

    def options(self, folder: Path) -> CollateOptions:
        """What the user said then; the actions are written into ``folder``."""
        extra = self.model_extra or {}
        actions = {key.removeprefix(ACTIONS): str(name) for key, name in extra.items() if key.startswith(ACTIONS)}
        lines = (f"{_toml_text(label)} = {_toml_text(action)}\n" for label, action in actions.items())
        path = folder / "actions.toml"
        path.write_text("".join(lines), encoding="utf-8", newline="\n")
        return CollateOptions(
            catalogues=tuple(CatalogueChoice(*catalogue[:4]) for catalogue in self.whole),
            actions=str(path),
            sort=self.sort,
            pixel_scale_arcsec=self.pixel_scale_arcsec,
            separation_limit_arcsec=self.limit_arcsec,
            float32_angles=self.float32_angles,
            flux_columns=tuple(self.flux_columns or ()),
            redshift_column=self.redshift_column,
            unannotated="singletons",
            excluded=tuple(self.excluded or ()),
        )


def read_recorded(path: Place) -> Recorded:
    """The configuration in a file; ConfigError where it is damaged, or not that of inputs that can be made again."""
    try:
        found = Recorded.model_validate_json(places.read_bytes(path))
        counts = {len(found.catalogues), len(found.whole), len(found.fingerprints)}
        if found.part_of is not None:
            counts |= {len(found.parts or ()), len(found.part_rows or ())}
        if len(counts) > 1:
            raise ValueError(f"{len(found.catalogues)} catalogues, fingerprints of {len(found.fingerprints)}")
        return found
    except ValidationError as error:
        first = error.errors()[0]
        what = f"{'.'.join(map(str, first['loc'])) or 'all of it'}: {first['msg']}"
    except (OSError, ValueError) as error:
        what = str(error)
    raise ConfigError(
        f"{path} is damaged, or does not say what the collation was made from ({what}); collate again with --redo"
    ) from None


def finished_folder(directory: str | Place) -> CollationFolder:
    """The folder of a collation; of an output that of its own. Raises as `check_finished`."""
    folder = CollationFolder(directory)
    own = CollationFolder(folder.root / "collation")
    if not places.exists(folder.table("sources")) and places.exists(own.table("sources")):
        folder = own
    check_finished(folder)
    return folder


def nothing_there(folder: CollationFolder) -> ConfigError:
    """What is said where nothing was collated."""
    return ConfigError(f"{folder.root} holds no finished collation; make one with `skysom collate`")


def check_finished(folder: CollationFolder) -> None:
    """ConfigError where a run was killed while it put its tables in their place: they may be of two collations."""
    if folder.unfinished():
        raise ConfigError(
            f"the tables in {folder.root} may be of two collations, as one was stopped while it put its own in their "
            "place; run the same skysom collate again"
        )


class _Source(BaseModel):
    """Columns of sources.parquet that are needed, of one row."""

    model_config = ConfigDict(extra="allow")
    source: int
    name: str | None
    members: Annotated[list[int], Field(min_length=1)]
    ra_deg: float | None
    dec_deg: float | None


class _Component(BaseModel):
    """Columns of components.parquet that are needed, of one row."""

    row: int
    id: str | int
    source: int


def table_rows(path: Place, key: str, value: int | str | None) -> list[dict[str, Any]]:
    """Rows of a published table, "sources" or "components", whose ``key`` is ``value``.

    ConfigError for a table that cannot be read, or lacks columns or values.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    kind: type[BaseModel] = _Source if path.stem == "sources" else _Component
    try:
        found: list[dict[str, Any]] = pq.read_table(parquet_source(path), filters=[(key, "=", value)]).to_pylist()
        return [{**row, **kind.model_validate(row).model_dump()} for row in found]
    except ValidationError as error:
        first = error.errors()[0]
        what = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    except (OSError, ValueError, TypeError, KeyError, OverflowError, pa.ArrowException) as error:
        what = str(error).partition("\n")[0] or type(error).__name__
    raise ConfigError(f"{path} cannot be read as a table of a collation ({what}); collate again with --redo")


def _toml_text(text: str) -> str:
    """A basic string of TOML; JSON leaves DEL as it is."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
