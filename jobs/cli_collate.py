"""`skysom collate`: components to sources by the masks of their neurons."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from skysom.jobs.cli_options import RayAddress, SomName, open_output, runtime_of

if TYPE_CHECKING:
    from skysom.jobs.collation.collate import CollateSettings
    from skysom.jobs.collation.inputs import CollationInputs
    from skysom.jobs.collation.inputs_assembly import CollateOptions

COLLATE_HELP = """Collate components into sources: each component's neuron has masks, which say what belongs to it.

Writes into DIR sources.parquet (a row a source, with its members),
components.parquet (a row a component, to join to its catalogue),
edges.parquet, evidence.parquet and collation.json. Components that
nothing links are sources of their own. To resume, run it again.

An actions file has a line for each label of the masks:

    "Related Radio" = "LINK"
    "IR Host" = "DATA_ATTACH"
    "Sidelobe" = "FLAG"

LINK: what lies under it is one source.   UNLINK: it loses its links.
ISOLATE: it stays alone.   NODE_ATTACH: it never uses a mask itself.
DATA_ATTACH: it is listed beside the source, as hosts are.
FLAG, RESOLVE, TRUE_ATTACH, FALSE_ATTACH: a column that is true or false.
PASS: nothing.

Examples:

    skysom collate survey -c components.parquet -c infrared.parquet \\
        --actions actions.toml --dry-run

    skysom collate survey -c components.parquet -c infrared.parquet \\
        --actions actions.toml --flux total_flux

    skysom collate --som som.bin --map map.bin --transform transform.bin \\
        --annotations som.bin.results.pkl -c radio.csv -c infrared.csv \\
        --pixel-scale 1.8 --actions actions.toml --output sources
"""
"""What `skysom collate --help` says."""

PINK_FILES = ("--som", "--map", "--transform", "--annotations")

Survey = Annotated[
    str | None, typer.Argument(help="Directory or URL of a mapped survey; none with --som, --map, --transform.")
]
Annotations = Annotated[
    str | None,
    typer.Option(
        "--annotations",
        help="Name of an annotated map of OUTPUT (default: the mapping's), a folder of annotations, or a .results.pkl "
        "of pyink (read, never executed).",
    ),
]
Catalogues = Annotated[
    list[str] | None,
    typer.Option(
        "--catalogue",
        "-c",
        help="Catalogue of a channel: CSV, FITS, VOTable, Parquet; once a channel in their order. The first is the "
        "base, whose rows become sources (default: the survey's own, where masks are on one channel).",
    ),
]
Actions = Annotated[
    str | None, typer.Option("--actions", help='TOML file with a line "label" = "ACTION" for every label.')
]
Sort = Annotated[
    str,
    typer.Option(
        "--sort",
        help="Order in which masks are used: best_matching_first, largest_first, area_ratio, random:SEED, or an "
        "expression of columns of the base, smallest first (-flux: brightest first).",
    ),
]
PixelScale = Annotated[
    str | None,
    typer.Option("--pixel-scale", help="Arcsec a pixel of the mapped images, or X,Y; default: as the survey has it."),
]
SeparationLimit = Annotated[
    float | None,
    typer.Option("--separation-limit", help="Arcsec within which neighbours are looked up; default: the masks' reach."),
]
Flux = Annotated[
    list[str] | None,
    typer.Option("--flux", help="Column of the base to be summed; the first weights positions; repeatable."),
]
Redshift = Annotated[
    str | None, typer.Option("--redshift", help="Column of the base with redshifts, for linear sizes.")
]
RaColumns = Annotated[
    list[str] | None, typer.Option("--ra-column", help="Of each catalogue in their order; default: by its name.")
]
DecColumns = Annotated[
    list[str] | None, typer.Option("--dec-column", help="Of each catalogue in their order; default: by its name.")
]
IdColumns = Annotated[
    list[str] | None,
    typer.Option("--id-column", help="Of each catalogue in their order; default: source_id, name or the row number."),
]
Exclude = Annotated[
    list[int] | None, typer.Option("--exclude", help="Leave this neuron out, the next best counts; repeatable.")
]
Unannotated = Annotated[
    Literal["refuse", "singletons"],
    typer.Option("--unannotated", help="What becomes of components whose neuron nobody has annotated."),
]
Corrections = Annotated[
    str | None,
    typer.Option(
        "--corrections",
        help='TOML file: together = [["id", "id"]], apart = ["id"]. Where DIR holds the collation without them, only '
        "their islands are grouped again. Give it with every later run: one without it takes them back.",
    ),
]
PinkSom = Annotated[str | None, typer.Option("--som", help="pyink: the map, som.bin.")]
PinkMap = Annotated[str | None, typer.Option("--map", help="pyink: the mapping, map.bin.")]
PinkTransform = Annotated[str | None, typer.Option("--transform", help="pyink: its transforms, transform.bin.")]
Float32Angles = Annotated[
    bool, typer.Option("--float32-angles", help="Sines and cosines in single precision, as pyink has them.")
]
Directory = Annotated[
    str | None,
    typer.Option("--output", "-o", help="DIR: directory or URL of the sources; default OUTPUT/collation; resumes."),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Only one square degree, drawn, in DIR/dry_run; nothing else is touched.")
]
Redo = Annotated[bool, typer.Option("--redo", help="Discard the collation that DIR holds and begin again.")]
Scheduler = Annotated[
    str,
    typer.Option("--dask", help="auto (Ray with --ray-address, else threads), threads, ray or tcp://host:port."),
]
Threads = Annotated[int | None, typer.Option("--threads", min=1, help="With threads: how many; default all.")]
MemoryGb = Annotated[
    float | None, typer.Option("--memory-gb", help="Refuse to start where more memory is projected; default: no limit.")
]
RowsPerBox = Annotated[int, typer.Option("--rows-per-box", min=1, hidden=True)]


def collate_command(
    output: Survey = None,
    annotations: Annotations = None,
    catalogue: Catalogues = None,
    actions: Actions = None,
    sort: Sort = "best_matching_first",
    pixel_scale: PixelScale = None,
    separation_limit: SeparationLimit = None,
    flux: Flux = None,
    redshift: Redshift = None,
    directory: Directory = None,
    dry_run: DryRun = False,
    redo: Redo = False,
    corrections: Corrections = None,
    unannotated: Unannotated = "refuse",
    exclude: Exclude = None,
    ra_column: RaColumns = None,
    dec_column: DecColumns = None,
    id_column: IdColumns = None,
    som_name: SomName = None,
    som: PinkSom = None,
    mapping: PinkMap = None,
    transform: PinkTransform = None,
    float32_angles: Float32Angles = False,
    scheduler: Scheduler = "auto",
    ray_address: RayAddress = None,
    threads: Threads = None,
    memory_gb: MemoryGb = None,
    rows_per_box: RowsPerBox = 200_000,
) -> None:
    """`COLLATE_HELP` says what it does; typer shows it."""
    from skysom.jobs.collation.collate import CollateSettings
    from skysom.jobs.collation.inputs_assembly import CollateOptions

    options = CollateOptions(
        catalogues=_catalogues(catalogue or [], ra_column or [], dec_column or [], id_column or []),
        actions=actions,
        sort=sort,
        pixel_scale_arcsec=_pixel_scale(pixel_scale),
        separation_limit_arcsec=separation_limit,
        float32_angles=float32_angles,
        flux_columns=tuple(flux or ()),
        redshift_column=redshift,
        unannotated=unannotated,
        corrections=corrections,
        excluded=tuple(exclude or ()),
    )
    _check_directory(directory)
    settings = CollateSettings(rows_per_box=rows_per_box, threads=threads, memory_gb=memory_gb, redo=redo)
    inputs, default = _inputs(output, som, mapping, transform, annotations, som_name, options)
    _run(inputs, directory or default, settings, _scheduler(scheduler, ray_address), dry_run)


collate_command.__doc__ = COLLATE_HELP


def _check_directory(directory: str | None) -> None:
    from skysom.jobs.errors import ConfigError

    if directory is not None and directory.startswith("memory://"):
        raise ConfigError(f"--output {directory} would be gone when this command ends; give a path or another URL")


def _scheduler(name: str, ray_address: str | None) -> str | None:
    """Where Dask computes, attached to Ray where that is asked for; None: wherever it would by itself."""
    if name == "ray" or (name == "auto" and ray_address is not None):
        return runtime_of(None, "auto", ray_address, 0, "ray").dask_ready()
    return None if name == "auto" else name


def _run(
    inputs: "CollationInputs", directory: str, settings: "CollateSettings", scheduler: str | None, dry: bool
) -> None:
    if dry:
        from skysom.jobs.collation.dry_run import dry_run

        found = dry_run(inputs, directory, settings, scheduler=scheduler)
        typer.echo(f"sources: {found.folder / 'sources.parquet'}\npicture: {found.picture}")
        return
    from skysom.jobs.collation.collate import collate

    summary = collate(inputs, directory, settings, scheduler=scheduler)
    hosts = "".join(f"; {count:,} with {label!r}" for label, count in summary.get("attached", {}).items())
    typer.echo(
        f"{summary['sources']:,} sources of {summary['rows']:,} components: {summary['sources_of_several']:,} of "
        f"several, the largest of {summary['largest_source']:,}{hosts}\n"
        f"sources: {directory.rstrip('/')}/sources.parquet"
    )


def _inputs(
    output: str | None,
    som: str | None,
    mapping: str | None,
    transform: str | None,
    annotations: str | None,
    som_name: str | None,
    options: "CollateOptions",
) -> tuple["CollationInputs", str]:
    """What is collated, of an output or of the peer's files, and where it goes by default."""
    from skysom.jobs.errors import ConfigError

    files = dict(zip(PINK_FILES, (som, mapping, transform, annotations), strict=True))
    if output is not None:
        given = [name for name in PINK_FILES[:3] if files[name] is not None]
        if given:
            raise ConfigError(f"{given[0]} is for files of pyink, in place of OUTPUT {output}; give one or the other")
        from skysom.jobs.collation.inputs_output import inputs_from_output
        from skysom.jobs.mapping_reader import mapping_name

        survey = open_output(output)
        name = mapping_name(survey, som_name)
        return inputs_from_output(survey, options, som_name=name, annotations=annotations), str(
            survey.root / "collation"
        )
    missing = [name for name in PINK_FILES if files[name] is None]
    if len(missing) >= 3 and som is None:
        raise ConfigError(
            "nothing to collate: give OUTPUT, a mapped survey, or files of pyink with " + ", ".join(PINK_FILES)
        )
    if missing:
        raise ConfigError(f"{', '.join(missing)} missing; files of pyink need {', '.join(PINK_FILES)}")
    if som_name is not None:
        raise ConfigError(f"--som-name {som_name} chooses a map of OUTPUT; files of pyink hold one")
    from skysom.jobs.collation.pyink import inputs_from_pyink

    inputs = inputs_from_pyink(Path(str(som)), Path(str(mapping)), Path(str(transform)), str(annotations), options)
    return inputs, "collation"


def _catalogues(paths: list[str], ra: list[str], dec: list[str], ids: list[str]) -> tuple:
    """The catalogues with their columns; of --ra-column and the like the n-th is for the n-th catalogue."""
    from skysom.jobs.collation.inputs_catalogue import CatalogueChoice
    from skysom.jobs.errors import ConfigError

    for option, given in (("--ra-column", ra), ("--dec-column", dec), ("--id-column", ids)):
        if len(given) > max(len(paths), 1):
            raise ConfigError(
                f"{option} is given {len(given)} times, --catalogue {len(paths)} times; give one for each"
            )
        if given and not paths:
            raise ConfigError(f"{option} {given[0]!r} is of a catalogue; name it with --catalogue")
    columns = [[*(name or None for name in given), *[None] * len(paths)] for given in (ra, dec, ids)]
    return tuple(CatalogueChoice(path, *(each[n] for each in columns)) for n, path in enumerate(paths))


def _pixel_scale(text: str | None) -> tuple[float, float] | None:
    """Arcsec a pixel in x and y, of ``1.5`` or ``1.5,1.6``."""
    from skysom.jobs.errors import ConfigError

    if text is None:
        return None
    try:
        scales = [float(part) for part in text.split(",")]
    except ValueError:
        scales = []
    if len(scales) not in (1, 2):
        raise ConfigError(f"--pixel-scale {text!r} is no number of arcsec, nor two (X,Y)")
    return scales[0], scales[-1]
