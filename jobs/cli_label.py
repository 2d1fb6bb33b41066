"""`skysom label`: a table of neurons to columns of the catalogue."""

from typing import Annotated

import typer

from skysom.jobs.cli_options import SomName, open_output


def label_command(
    output: Annotated[str, typer.Argument(help="Directory or URL of a mapped survey.")],
    neurons: Annotated[
        str, typer.Option("--neurons", help="Table with a row a neuron: neuron (or row, col) and labels; CSV, Parquet.")
    ],
    column: Annotated[
        list[str], typer.Option("--column", help="Column of it, or COLUMN=NAME to rename it; repeatable.")
    ],
    where: Annotated[
        str | None,
        typer.Option("--where", help="Only rows for which this holds, e.g. \"peak_to_ring < 3 and s_code != 'E'\"."),
    ] = None,
    som_name: SomName = None,
) -> None:
    """Give every source what its neuron is labelled with: a column of the catalogue for each column of the table.

    `skysom analyse OUTPUT` writes such a table (OUTPUT/neurons.csv) to begin with: copy it (the next analysis replaces
    it), add a column, fill it in.
    Example: skysom label survey --neurons neurons.csv --column sidelobe_percent --where "peak_to_ring < 3"
    """
    from skysom.jobs.label import label_survey
    from skysom.jobs.mapping_reader import mapping_name

    directory = open_output(output)
    with directory.lock():
        label_survey(directory, mapping_name(directory, som_name), neurons, column, where=where)
    typer.echo(f"catalogue: {directory.catalogue}")
