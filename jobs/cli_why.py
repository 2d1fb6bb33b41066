"""`skysom why`: why components are one source."""

from pathlib import Path
from typing import Annotated

import typer

Directory = Annotated[str, typer.Argument(metavar="DIR", help="Directory of a collation, or OUTPUT.")]
SourceGiven = Annotated[str | None, typer.Argument(metavar="[SOURCE]", help="Number of the source, or its name.")]
Row = Annotated[int | None, typer.Option("--row", help="Or a component: its row in the base catalogue.")]
Id = Annotated[str | None, typer.Option("--id", help="Or a component: its id.")]
Png = Annotated[Path | None, typer.Option("--output", "-o", help="Draw it to this file (PNG, PDF, SVG).")]
Survey = Annotated[str | None, typer.Option("--survey", help="The OUTPUT it was made from; default: it is found.")]
PinkSom = Annotated[Path | None, typer.Option("--som", help="pyink: the map, som.bin.")]
PinkMap = Annotated[Path | None, typer.Option("--map", help="pyink: the mapping, map.bin.")]
PinkTransform = Annotated[Path | None, typer.Option("--transform", help="pyink: its transforms, transform.bin.")]
Annotations = Annotated[Path | None, typer.Option("--annotations", help="pyink: its annotations, .results.pkl.")]
PinkImages = Annotated[Path | None, typer.Option("--images", help="pyink: images.bin, for the picture.")]

LARGEST = 2**63 - 1
"""Of numbers of sources and rows."""


def why_command(
    directory: Directory,
    source: SourceGiven = None,
    row: Row = None,
    name: Id = None,
    png: Png = None,
    survey: Survey = None,
    som: PinkSom = None,
    mapping: PinkMap = None,
    transform: PinkTransform = None,
    annotations: Annotations = None,
    images: PinkImages = None,
) -> None:
    """Tell why components are one source: whose mask lies over what, in which order, and what was left out.

    With --output it is drawn: the image, the members, the masks as they lie on the sky, and the host candidates.

    Examples: skysom why survey/collation 12 --output source12.png

              skysom why survey/collation J123049.4+122328

              skysom why survey/collation --id SIM-000237
    """
    from skysom.jobs.collation.why import check_picture, why
    from skysom.jobs.collation.why_inputs import PinkFiles, open_collation
    from skysom.jobs.errors import ConfigError

    if sum(given is not None for given in (source, row, name)) != 1:
        raise ConfigError("name one source: its number or its name, or a component with --row or --id")
    numbered = int(source) if source is not None and source.isdecimal() else None
    for what, number in (("SOURCE", numbered), ("--row", row)):
        if number is not None and not 0 <= number <= LARGEST:
            raise ConfigError(f"{what} is {number}; they count from 0, and none is above {LARGEST}")
    if png is not None:
        check_picture(png)
    files = {"--som": som, "--map": mapping, "--transform": transform, "--annotations": annotations}
    given = [path for path in files.values() if path is not None]
    alone = annotations is not None and len(given) == 1  # for the mapping of an output
    if 0 < len(given) < len(files) and not alone:
        missing = ", ".join(option for option, path in files.items() if path is None)
        raise ConfigError(f"{missing} missing; files of pyink need {', '.join(files)}")
    pink = PinkFiles(given[0], given[1], given[2], given[3], images) if len(given) == len(files) else None
    chosen = str(annotations) if alone else None
    collation = open_collation(directory, survey=survey, annotations=chosen, pink=pink)
    if source is not None:
        record = collation.source_named(source) if numbered is None else collation.source(numbered)
        row = int(record["members"][0])
    else:
        row, record = collation.source_of(row=row, name=name)
    found = why(collation.inputs, row, images=collation.images if png is not None else None, source=record)
    typer.echo(found.text)
    if png is not None:
        found.save(png)
        typer.echo(f"picture: {png}")
