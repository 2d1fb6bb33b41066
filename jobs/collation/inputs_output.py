"""Inputs of a collation from an output of skysom: its mapping, annotations of its map, and catalogues by id."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from skysom.jobs.collation.inputs import CollationInputs, Mapped
from skysom.jobs.collation.inputs_assembly import Base, CollateOptions, assemble, open_catalogues, read_base
from skysom.jobs.collation.inputs_catalogue import CatalogueChoice, fingerprint
from skysom.jobs.collation.inputs_masks import check_masks, masks_of_output, reach_arcsec
from skysom.jobs.collation.inputs_sky import seen_on_sky
from skysom.jobs.errors import ConfigError
from skysom.jobs.mapping_reader import MappingReader
from skysom.jobs.output import Output
from skysom.jobs.progress import say
from skysom.jobs.results import catalogue_columns, check_whole
from skysom.storage.catalogue import ROW_NUMBER
from skysom.storage.place import Place, place
from skysom.storage.survey import Survey

if TYPE_CHECKING:
    from skysom.engine.collation.projection import Frames

SCALES_AGREE = 0.01
"""Relative difference of two pixel scales that are taken for one."""


def inputs_from_output(
    output: Output, options: CollateOptions, *, som_name: str = "main", annotations: str | None = None
) -> CollationInputs:
    """Inputs of a collation from the mapping ``som_name`` of an output.

    Mapped rows are found in the base by their id (``source_id`` of the survey); the base may have more rows. Without
    ``options.catalogues`` it is the survey's own catalogue. Turns of the images on the sky are taken into account.
    annotations : see `masks_of_output`.

    Raises
    ------
    MissingStageError : no such mapping. ConfigError : a mapping without transforms or of another map, ids of mapped
    rows that the base has not, positions that are not the survey's, a pixel scale that is not known. AnnotationError :
    annotations of another map. CollationError : images of which each has a scale of its own. Others as `assemble`.
    """
    reader = MappingReader(output, som_name)
    reader.check_map()
    _check_transforms(reader)
    scale = _pixel_scale(reader, options.pixel_scale_arcsec)
    masks = masks_of_output(output, som_name, annotations)
    channels = [str(name) for name in reader.survey.attrs["channels"]]
    sha256 = _map_sha256(reader)
    side = reader.geometry.neuron_side
    check_masks(masks, neurons=reader.neurons, channels=channels, side=side, som_sha256=sha256)
    options = _with_base(output, options)
    files = open_catalogues(options, channels, masks)
    base = read_base(files[0])
    rows, frames, distance = _mapped(reader, options.excluded)
    reach = reach_arcsec(masks.planes, scale)
    found = _in_base(reader.survey, output, base, rows, reach)
    where = (base.ra_deg[found], base.dec_deg[found])
    frames, notes = seen_on_sky(reader.survey, output.catalogue, rows, *where, frames, reach / min(scale), scale)
    order = np.argsort(found, kind="stable")
    columns = (frames.neuron, frames.angle_rad, frames.flip, distance)
    mapped = Mapped(found[order], *(column[order] for column in columns))
    origin = {
        "mapping": som_name,
        "som_sha256": sha256,
        "mapping_hash": reader.attrs.get("config_hash"),
        "excluded_neurons": sorted(options.excluded),
        "notes": notes,
    }
    return assemble(base, files, mapped, masks, options, scale, origin)


# --- the mapping ----------------------------------------------------------------------------------


def _check_transforms(reader: MappingReader) -> None:
    """ConfigError where the mapping does not say how each image lies in its neuron."""
    missing = [name for name in ("bmu_rotation", "bmu_flip") if name not in reader.arrays]
    if missing:
        raise ConfigError(
            f"mapping {reader.name!r} of {reader.output.root} has no {' and '.join(missing)}: nobody knows how images "
            "lie in their neurons; import it with its transform file (--transforms), or map again"
        )


def _map_sha256(reader: MappingReader) -> str | None:
    """Hash of the map of the mapping; of an imported mapping that of the map beside it, if it is there."""
    wanted = reader.attrs.get("som_sha256")
    if wanted is None and reader.name in reader.survey.som_names():
        wanted = reader.survey.load_som_attrs(reader.name).get("sha256")
    if wanted is None:
        say(f"collate: mapping {reader.name!r} was imported without its map: nobody knows if the annotations are of it")
    return wanted


def _mapped(reader: MappingReader, excluded: tuple[int, ...]) -> tuple[np.ndarray, "Frames", np.ndarray]:
    """Rows (m,) int64 of the survey that have a neuron, how they lie in it, and their distance (m,) float32."""
    from skysom.engine.collation.orientation import mapping_frames
    from skysom.engine.reading.units import excluded_mask

    left_out = excluded_mask(reader.neurons, excluded)
    if left_out is None:
        bmu = reader.best_units()
        rows = np.flatnonzero(bmu >= 0)
        names = ("bmu_rotation", "bmu_flip", "bmu_distance")
        turns, flips, distance = (reader.survey.column(f"{reader.group}/{name}")[rows] for name in names)
        neuron = bmu[rows]
    else:
        rows, neuron, turns, flips, distance = _allowed(reader, left_out)
    if not len(rows):
        raise ConfigError(f"mapping {reader.name!r} of {reader.output.root} has no mapped row; nothing can be collated")
    return rows, mapping_frames(neuron, turns, flips, reader.geometry), distance.astype(np.float32)


def _allowed(reader: MappingReader, left_out: np.ndarray) -> tuple[np.ndarray, ...]:
    """Rows, best units, rotations, flips and distances where neurons are left out; lines say what that costs."""
    from skysom.engine.reading.units import best_units

    parts, lost, rough = [], 0, 0
    kept_few, certified = reader.keep is not None, "exact" in reader.arrays
    names = ["distance", "rotation", "flip"] + ["neuron"] * kept_few + ["exact"] * certified
    for block in reader.blocks(names):
        kept = block["neuron"] if kept_few else None
        best, distance = best_units(block["distance"], neuron=kept, excluded=left_out)
        here = np.flatnonzero(best[:, 0] >= 0)
        lost += int(np.isfinite(block["distance"]).any(axis=1).sum()) - len(here)
        neuron = best[here, 0]
        column = neuron if kept is None else (kept[here] == neuron[:, None]).argmax(axis=1)
        turns, flips = (block[name][here, column] for name in ("rotation", "flip"))
        rough += int((~block["exact"][here, column]).sum()) if certified else 0
        parts.append((block.start + here, neuron, turns, flips, distance[here, 0]))
    if lost:
        say(f"collate: {lost:,} components have only neurons that are left out (--exclude); they count as not mapped")
    if rough:
        say(
            f"collate: {rough:,} components have a neuron whose distance and turn are approximate, since the best one "
            "is left out (--exclude); map with `--set map.exact_neurons=...` to have them exactly"
        )
    return tuple(np.concatenate(column) for column in zip(*parts, strict=True))


def _pixel_scale(reader: MappingReader, given: tuple[float, float] | None) -> tuple[float, float]:
    """Arcsec a pixel of the images as they were mapped: as given, or the survey's after its preprocessing."""
    from skysom.engine.collation.orientation import prepared_pixel_scale

    attrs: dict[str, Any] = reader.survey.attrs
    known = attrs.get("pixel_scale_arcsec")
    chain = [(str(name), dict(values)) for name, values in attrs.get("chain", [])]
    # Also where it is given: images of different scales are refused.
    scale = prepared_pixel_scale(chain, attrs["image_side"], len(attrs["channels"]), known or 1.0)
    if given is not None:
        if known and max(abs(one / scale - 1) for one in given) > SCALES_AGREE:
            shown = ", ".join(f"{one:g}" for one in dict.fromkeys(given))
            say(f"collate: --pixel-scale is {shown}, the survey's mapped images have {scale:g} arcsec a pixel")
        return given
    if not known:
        raise ConfigError(
            f"the survey {reader.output.root} does not know the pixel scale of its images; give --pixel-scale ARCSEC, "
            "of the images as they were mapped"
        )
    return float(scale), float(scale)


# --- its rows in the base -------------------------------------------------------------------------


def _with_base(output: Output, options: CollateOptions) -> CollateOptions:
    """With the survey's own catalogue where none is named, and its columns where they are not."""
    first = options.catalogues[0] if options.catalogues else CatalogueChoice(output.catalogue)
    if not _is_own(output, place(first.path)):
        return options
    recorded, there = output.recorded().get("ingest", {}), catalogue_columns(output.catalogue)
    ra, dec = (recorded.get(f"ingest.{name}_column") for name in ("ra", "dec"))
    base = CatalogueChoice(
        output.catalogue,
        first.ra_column or (ra if ra in there else None),
        first.dec_column or (dec if dec in there else None),
        first.id_column or "source_id",
    )
    return replace(options, catalogues=(base, *options.catalogues[1:]))


def _is_own(output: Output, path: Place) -> bool:
    own = output.catalogue
    return (
        path.resolve() == own.resolve() if isinstance(path, Path) and isinstance(own, Path) else str(path) == str(own)
    )


def _in_base(survey: Survey, output: Output, base: Base, rows: np.ndarray, reach: float) -> np.ndarray:
    """The row of the base (m,) int64 of each of ``rows`` (m,) of the survey: found by id, and compared by position.

    ConfigError where the base lacks ids of mapped rows, or has them elsewhere on the sky than ``reach`` arcsec.
    """
    ids = survey.column("source_id")
    if _is_own(output, base.file.path):
        check_whole(output.catalogue, ids)
        found = rows
    else:
        found = _rows_by_id(survey, base, ids[rows])
    _check_places(survey, base, ids, rows, found, reach)
    return found


def _rows_by_id(survey: Survey, base: Base, wanted: np.ndarray) -> np.ndarray:
    """Rows (m,) of the base with the ids ``wanted`` (m,); of equal ids the first."""
    import pyarrow as pa
    import pyarrow.compute as pc

    path = base.file.path
    if base.ids is None:
        parts = survey.attrs["parts"]
        same = len(parts) == 1 and parts[0]["catalogue_sha256"] == fingerprint(path).get("sha256")
        if not (same and survey.attrs["id_column"] == ROW_NUMBER):
            raise ConfigError(
                f"{path} has no column source_id or name, and it is not the file the survey was made from: its rows "
                "cannot be told; name the column of the survey's ids with --id-column"
            )
        return wanted.astype(np.int64)
    place_of = pc.index_in(pa.array(wanted.astype(object), pa.large_string()), value_set=base.ids)
    found = pc.fill_null(place_of, -1).to_numpy().astype(np.int64)
    missing = np.flatnonzero(found < 0)
    if len(missing):
        raise ConfigError(
            f"{len(missing):,} of {len(wanted):,} mapped sources are not in {path}, such as {wanted[missing[0]]!r}; "
            f"its column {base.file.id_column!r} begins with {base.ids[0].as_py()!r}: give the catalogue the survey is "
            "of, or name the column of ids with --id-column"
        )
    return found


def _check_places(
    survey: Survey, base: Base, ids: np.ndarray, rows: np.ndarray, found: np.ndarray, reach: float
) -> None:
    """ConfigError where a source lies elsewhere in the base than in the survey by more than its mask reaches."""
    from skysom.engine.collation.projection import sky_offsets_arcsec

    there = survey.column("ra_deg")[rows], survey.column("dec_deg")[rows]
    here = base.ra_deg[found], base.dec_deg[found]
    known = np.flatnonzero(np.isfinite(there[0]) & np.isfinite(here[0]))
    apart = np.hypot(*sky_offsets_arcsec(there[0][known], there[1][known], here[0][known], here[1][known]))
    far = known[~(apart <= reach)]
    if len(far):
        one = far[0]
        raise ConfigError(
            f"{len(far):,} of {len(rows):,} mapped sources lie elsewhere in {base.file.path}: {ids[rows[one]]!r} was "
            f"mapped at {there[0][one]:.6f} {there[1][one]:.6f}, its row {found[one]} is at {here[0][one]:.6f} "
            f"{here[1][one]:.6f}; give the catalogue the survey is of, with its columns of ids and positions "
            "(--id-column, --ra-column, --dec-column)"
        )
