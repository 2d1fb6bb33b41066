"""`skysom label`: labels of neurons, or of a labelled catalogue, to columns of the catalogue."""

from typing import Annotated

import typer

from skysom.jobs.cli_options import IdColumn, SomName, open_output


def label_command(
    output: Annotated[str, typer.Argument(help="Directory or URL of a mapped survey.")],
    column: Annotated[
        list[str], typer.Option("--column", help="Column of the table, or COLUMN=NAME to rename it; repeatable.")
    ],
    neurons: Annotated[
        str | None,
        typer.Option("--neurons", help="Table with a row a neuron: neuron (or row, col) and labels; CSV, Parquet."),
    ] = None,
    sources: Annotated[
        str | None, typer.Option("--sources", help="Or a labelled catalogue: a row a source, told by its id.")
    ] = None,
    id_column: IdColumn = None,
    where: Annotated[
        str | None,
        typer.Option("--where", help="Only rows for which this holds, e.g. \"peak_to_ring < 3 and s_code != 'E'\"."),
    ] = None,
    som_name: SomName = None,
) -> None:
    """Carry labels to the catalogue: to every source what its neuron is labelled with, or a labelled catalogue's by id.

    `skysom analyse OUTPUT` writes such a table (OUTPUT/neurons.csv) to begin with: copy it (the next analysis replaces
    it), add a column, fill it in.
    Example: skysom label survey --neurons neurons.csv --column sidelobe_percent --where "peak_to_ring < 3"
    """
    from skysom.jobs.errors import ConfigError
    from skysom.jobs.label import label_sources, label_survey
    from skysom.jobs.mapping_reader import mapping_name

    if (neurons is None) == (sources is None):
        raise ConfigError("give --neurons with a table of neurons, or --sources with a labelled catalogue")
    if sources is not None and (where or som_name):
        raise ConfigError("--sources labels single sources; --where and --som-name go with --neurons")
    directory = open_output(output)
    with directory.lock():
        if neurons is not None:
            label_survey(directory, mapping_name(directory, som_name), neurons, column, where=where)
        else:
            label_sources(directory, str(sources), column, id_column=id_column)
    typer.echo(f"catalogue: {directory.catalogue}")
