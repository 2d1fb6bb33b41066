"""`skysom export-sources`: the table of sources for other programs."""

from typing import Annotated

import typer

SOURCES = "sources.parquet"


def export_sources_command(
    directory: Annotated[str, typer.Argument(help="Directory or URL of a collation or OUTPUT, or a sources.parquet.")],
    target: Annotated[str, typer.Argument(help="File to write: .fits, .vot (VOTable) or .reg (DS9 regions).")],
    where: Annotated[
        str | None,
        typer.Option("--where", help='Only sources for which this holds, e.g. "components > 2 and curvature > 1.2".'),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there.")] = False,
) -> None:
    """Write the sources of a collation as a FITS table, a VOTable, or regions for DS9.

    Lists (members, hosts) are arrays of any length; lists of ids are one text with ; between them. Regions show an
    ellipse a source, lines to its components and a cross on each host; of more than 100,000 sources only those of
    several components are drawn, unless --where chooses.
    Example: skysom export-sources collated giants.reg --where "size_arcsec > 60"
    """
    from skysom.jobs.collation.why_recorded import finished_folder, nothing_there
    from skysom.storage import place as places
    from skysom.storage.place import place
    from skysom.storage.table_export import export_sources

    source = place(directory)
    if source.name == SOURCES or not places.is_file(source):
        folder = finished_folder(source.parent if source.name == SOURCES else source)
        source = folder.table("sources")
        if not places.is_file(source):
            raise nothing_there(folder)
    count = export_sources(source, target, where=where, overwrite=overwrite)
    typer.echo(f"{count:,} sources: {target}")
