"""`skysom join`: results to the catalogue, catalogues by position, counts of neighbours, and HATS."""

from typing import Annotated, Literal

import typer

JoinedOutput = Annotated[
    str,
    typer.Option("--output", "-o", help="FILE.parquet, .csv, .fits or .vot, or a directory for a HATS catalogue."),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an output that is there.")]
Backend = Annotated[
    Literal["auto", "astropy", "lsdb"],
    typer.Option("--backend", help="astropy: in memory. lsdb: by partitions, for catalogues larger than memory."),
]
LeftCatalogue = Annotated[str, typer.Argument(help="Catalogue whose rows are kept: CSV, FITS, VOTable, Parquet, HATS.")]
RightCatalogue = Annotated[str, typer.Argument(help="Catalogue that is searched.")]
LeftRa = Annotated[
    str | None, typer.Option("--left-ra", help="LEFT's right ascension in degrees; default: ra_deg, ra, RAJ2000, ...")
]
LeftDec = Annotated[
    str | None, typer.Option("--left-dec", help="LEFT's declination in degrees; default: dec_deg, dec, DEJ2000, ...")
]
RightRa = Annotated[str | None, typer.Option("--right-ra", help="As --left-ra, of RIGHT.")]
RightDec = Annotated[str | None, typer.Option("--right-dec", help="As --left-dec, of RIGHT.")]
LeftWhere = Annotated[str | None, typer.Option("--left-where", help="Only left rows for which this holds: 'snr > 5'.")]
RightWhere = Annotated[str | None, typer.Option("--right-where", help="Only right rows for which this holds.")]
Where = Annotated[
    str | None, typer.Option("--where", help="Only rows of the result for which this holds: 'separation_arcsec < 2'.")
]
Suffix = Annotated[str, typer.Option("--suffix", help="Ending of added columns whose name is there already.")]
NotSelf = Annotated[bool, typer.Option("--not-self", help="LEFT and RIGHT are one catalogue: no row matches itself.")]
DaskScheduler = Annotated[
    str | None,
    typer.Option(
        "--dask", help="What works on partitions: threads, ray, distributed, tcp://host:port; default: what runs."
    ),
]

join_app = typer.Typer(
    help="Join catalogues: results by id, other catalogues by position, counts of neighbours; write HATS.",
    no_args_is_help=True,
)


@join_app.command("results")
def results_command(
    results: Annotated[str, typer.Argument(help="Directory of a survey, of a collation, or a table with ids.")],
    catalogue: Annotated[str, typer.Option("--catalogue", "-c", help="The original catalogue; every row of it stays.")],
    output: JoinedOutput,
    id_column: Annotated[
        str | None,
        typer.Option("--id", help="The catalogue's column of ids; default: source_id, name, or the row number."),
    ] = None,
    column: Annotated[
        list[str] | None, typer.Option("--column", help="Column of the results, repeatable; default: all skysom made.")
    ] = None,
    source_column: Annotated[
        list[str] | None,
        typer.Option("--source-column", help="Of a collation: column of its sources that components get; repeatable."),
    ] = None,
    duplicates: Annotated[
        Literal["refuse", "mark"],
        typer.Option("--duplicates", help="Ids that are there more than once: refuse, or mark in duplicate_id."),
    ] = "refuse",
    suffix: Suffix = "_skysom",
    ra: Annotated[str | None, typer.Option("--ra", help="Right ascension in degrees, for an output in HATS.")] = None,
    dec: Annotated[str | None, typer.Option("--dec", help="Declination in degrees.")] = None,
    where: Annotated[
        str | None, typer.Option("--where", help="Only rows of the result for which this holds: 'status == \"ok\"'.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Carry results back to the catalogue a survey began with, by id.

    Every row stays (or those that --where selects), in its order and with its columns; rows without a result have empty
    values. Of a collation the components are joined, which say the source of each: its ids are those of the published
    catalogue of components.
    Example: skysom join results survey --catalogue VLASS.csv --id Component_name --output joined.parquet
    """
    from skysom.jobs.joins.results import ResultsJoin, join_results

    settings = ResultsJoin(id_column, column or None, source_column or (), duplicates, suffix, ra, dec, where)
    typer.echo(f"{output}: {join_results(results, catalogue, output, settings, overwrite=overwrite)}")


@join_app.command("sky")
def sky_command(
    left: LeftCatalogue,
    right: RightCatalogue,
    radius: Annotated[float, typer.Option("--radius", help="Farthest that a match may be, in arcseconds.")],
    output: JoinedOutput,
    nearest: Annotated[
        bool, typer.Option("--nearest", help="The nearest right row of each left one (default).")
    ] = False,
    every: Annotated[bool, typer.Option("--all", help="All right rows within the radius, a row each.")] = False,
    one_to_one: Annotated[
        bool, typer.Option("--one-to-one", help="Closest pairs first, and no row of either side twice.")
    ] = False,
    inner: Annotated[bool, typer.Option("--inner", help="Leave out left rows without a match.")] = False,
    not_self: NotSelf = False,
    left_ra: LeftRa = None,
    left_dec: LeftDec = None,
    right_ra: RightRa = None,
    right_dec: RightDec = None,
    left_where: LeftWhere = None,
    right_where: RightWhere = None,
    where: Where = None,
    right_column: Annotated[
        list[str] | None, typer.Option("--right-column", help="Right column in the result, repeatable; default: all.")
    ] = None,
    suffix: Suffix = "_right",
    backend: Backend = "auto",
    dask: DaskScheduler = None,
    overwrite: Overwrite = False,
) -> None:
    """Match two catalogues by position: who lies within a radius of whom.

    Each row gets the right columns, separation_arcsec, and rank (1: the nearest). Rows without a position match nothing
    and are counted. Catalogues larger than memory are cut into partitions of the sky; the answer is the same.
    Example: skysom join sky sources.parquet allwise.parquet --radius 5 --one-to-one --output hosts.parquet
    """
    from skysom.jobs.errors import ConfigError
    from skysom.jobs.joins.sky import SkyJoin, join_sky

    if nearest + every + one_to_one > 1:
        raise ConfigError("--nearest, --all and --one-to-one exclude one another; give one of them")
    settings = SkyJoin(
        radius,
        "all" if every else "one-to-one" if one_to_one else "nearest",
        "inner" if inner else "left",
        not_self,
        left_ra,
        left_dec,
        right_ra,
        right_dec,
        left_where,
        right_where,
        where,
        right_column or None,
        suffix,
    )
    found = join_sky(left, right, settings, output, backend=backend, scheduler=dask, overwrite=overwrite)
    typer.echo(f"{output}: {found}")


@join_app.command("counts")
def counts_command(
    left: LeftCatalogue,
    right: RightCatalogue,
    radius: Annotated[list[float], typer.Option("--radius", help="Radius in arcseconds; repeatable.")],
    output: JoinedOutput,
    not_self: NotSelf = False,
    left_ra: LeftRa = None,
    left_dec: LeftDec = None,
    right_ra: RightRa = None,
    right_dec: RightDec = None,
    left_where: LeftWhere = None,
    right_where: RightWhere = None,
    where: Where = None,
    suffix: Suffix = "_right",
    backend: Backend = "auto",
    dask: DaskScheduler = None,
    overwrite: Overwrite = False,
) -> None:
    """Count neighbours: how many right rows lie within some radii of each left row, as count_5arcsec and so on.

    Example: skysom join counts sources.parquet allwise.parquet --radius 5 --radius 30 --output crowded.parquet
    """
    from skysom.jobs.joins.counts import join_counts
    from skysom.jobs.joins.sky import SkyJoin

    settings = SkyJoin(
        0,
        not_self=not_self,
        left_ra=left_ra,
        left_dec=left_dec,
        right_ra=right_ra,
        right_dec=right_dec,
        left_where=left_where,
        right_where=right_where,
        where=where,
        suffix=suffix,
    )
    found = join_counts(left, right, radius, output, settings, backend=backend, scheduler=dask, overwrite=overwrite)
    typer.echo(
        f"{output}: {found.matched:,} rows have a neighbour within {max(radius):g} arcsec, with {found.backend}; "
        f"{found.rows:,} rows written"
    )


@join_app.command("hats")
def hats_command(
    catalogue: Annotated[str, typer.Argument(help="CSV, FITS, Parquet (may be larger than memory), VOTable or HATS.")],
    directory: Annotated[str, typer.Argument(help="Directory that becomes a HATS catalogue; it is not there yet.")],
    margin: Annotated[
        float,
        typer.Option("--margin", min=0, help="Arcseconds: the largest radius that `join sky` can match with. 0: none."),
    ] = 60.0,
    ra: Annotated[
        str | None, typer.Option("--ra", help="Right ascension in degrees; default: ra_deg, ra, RAJ2000, ...")
    ] = None,
    dec: Annotated[str | None, typer.Option("--dec", help="Declination in degrees.")] = None,
    column: Annotated[
        list[str] | None, typer.Option("--column", help="Column that is kept, repeatable; default: all.")
    ] = None,
    where: Annotated[str | None, typer.Option("--where", help="Only rows for which this holds: 'w1mpro < 15'.")] = None,
    partition_rows: Annotated[
        int | None, typer.Option("--partition-rows", min=1, help="Most rows of a partition; default: 64 MiB of them.")
    ] = None,
    dask: DaskScheduler = None,
    overwrite: Overwrite = False,
) -> None:
    """Write a catalogue as HATS: Parquet by patches of the sky, which LSDB opens and works on lazily.

    Run the same command again after an interruption: it goes on where it was. The directory appears when it is whole.
    Example: skysom join hats allwise.parquet allwise --margin 60, then in Python lsdb.open_catalog("allwise")
    """
    from skysom.jobs.joins.hats import HatsOptions, import_hats

    options = HatsOptions(ra, dec, column or None, where, margin, partition_rows)
    found = import_hats(catalogue, directory, options, scheduler=dask, overwrite=overwrite)
    typer.echo(
        f"{directory}: {found.rows:,} rows in {found.partitions:,} partitions, {found.margin_rows:,} rows in margins; "
        f"{found.no_position:,} without a position, {found.left_out:,} left out"
    )
