"""`skysom annotations`: what is kept of a map's annotations, undone, and exchanged with the peer."""

from typing import Annotated

import typer

from skysom.jobs.cli_options import SomName, open_output

OutputDirectory = Annotated[str, typer.Argument(help="Directory or URL of the results.")]
Author = Annotated[str | None, typer.Option("--author", help="Who does this; default: who is logged in.")]

annotations_app = typer.Typer(
    help="Labels, notes and masks of neurons: list the versions, undo, exchange with pyink.", no_args_is_help=True
)


@annotations_app.command("list")
def list_command(output: OutputDirectory, som_name: SomName = None) -> None:
    """List the versions of a map's annotations: who saved each, when, and its last edit."""
    from rich.console import Console
    from rich.table import Table

    from skysom.jobs.annotate import annotations_folder, map_of
    from skysom.storage.annotations import versions

    directory, name = open_output(output), som_name or "main"
    map_of(directory, name)  # which says where it is not there
    folder = annotations_folder(directory, name)
    table = Table("version", "saved by", "at", "last edit", title=str(folder))
    for version in versions(folder):
        table.add_row(str(version.number), version.author, version.time, version.last_edit)
    Console().print(table)


@annotations_app.command()
def undo(output: OutputDirectory, som_name: SomName = None, author: Author = None) -> None:
    """Take the last edit back, as a new version; the versions before stay."""
    from skysom.jobs.annotate import annotations_of, save_annotations
    from skysom.storage.annotation_set import undo as undone

    directory, name = open_output(output), som_name or "main"
    before = annotations_of(directory, name)
    saved = save_annotations(directory, name, undone(before), author)
    typer.echo(f"undone: {before.history[-1].what}; version {saved.version}")


@annotations_app.command("import-pyink")
def import_command(
    output: OutputDirectory,
    file: Annotated[str, typer.Argument(help="A .results.pkl of pyink; nothing in it is executed.")],
    som_name: SomName = None,
    author: Author = None,
) -> None:
    """Take over annotations made with pyink for the same map.

    Example: skysom annotations import-pyink survey som.bin.results.pkl
    """
    from skysom.jobs.annotate import import_pyink

    found = import_pyink(open_output(output), som_name or "main", file, author)
    typer.echo(f"{len(found.records)} of {found.neurons} neurons annotated, labels: {', '.join(found.labels)}")


@annotations_app.command("export-pyink")
def export_command(
    output: OutputDirectory,
    file: Annotated[str, typer.Argument(help="Where to write; pyink looks for SOM.results.pkl.")],
    som_name: SomName = None,
) -> None:
    """Write the masks of a map's annotations as pyink reads them.

    Example: skysom annotations export-pyink survey som.bin.results.pkl
    """
    from skysom.jobs.annotate import export_pyink

    typer.echo(f"{export_pyink(open_output(output), som_name or 'main', file)} neurons written to {file}")
