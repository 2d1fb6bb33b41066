"""Commands for PINK's files and in place of its program."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from skysom.jobs.cli_options import OutputDir, open_output


def pink_command(context: typer.Context) -> None:
    """The command line of PINK, option for option, on its own binary files."""
    from skysom.jobs.pink import main as pink

    raise typer.Exit(pink(context.args))


PinkImages = Annotated[Path | None, typer.Option(help="PINK data file (images).")]
PinkSom = Annotated[Path | None, typer.Option(help="PINK SOM file.")]
PinkMap = Annotated[Path | None, typer.Option(help="PINK map file (distances).")]
PinkTransforms = Annotated[Path | None, typer.Option(help="PINK transform file (best rotations and flips).")]


def import_pink_command(
    output: OutputDir,
    images: PinkImages = None,
    som: PinkSom = None,
    mapping: PinkMap = None,
    transforms: PinkTransforms = None,
    som_name: Annotated[str, typer.Option(help="Name of the map and mapping in the store.")] = "main",
    layout: Annotated[Literal["auto", "cartesian", "hexagonal"], typer.Option()] = "auto",
    rotations: Annotated[int, typer.Option(help="--numrot the files were made with.")] = 360,
    flip: Annotated[bool, typer.Option(help="Whether flips were used.")] = True,
    region: Annotated[Literal["quadratic", "circular"], typer.Option(help="Shape of the region.")] = "quadratic",
    region_side: Annotated[int | None, typer.Option(help="Its side in pixels; default as PINK's.")] = None,
) -> None:
    """Bring PINK's image, SOM, map and transform files (those that are given) into a survey store.

    The other commands go on from there: skysom report; skysom map --som som:main --som-name again;
    skysom train --init som:main --som-name finer.
    """
    from skysom.jobs.adopt import adopt
    from skysom.jobs.pink_convert import import_pink

    directory = open_output(output)
    with directory.lock(create=True):
        import_pink(
            directory.survey,
            images=images,
            som=som,
            mapping=mapping,
            transforms=transforms,
            name=som_name,
            layout=layout,
            rotations=rotations,
            flip=flip,
            region=region,
            region_side=region_side,
        )
        adopt(directory, som_name, som=som is not None, mapping=mapping is not None)


def export_pink_command(
    output: OutputDir,
    images: PinkImages = None,
    som: PinkSom = None,
    mapping: PinkMap = None,
    transforms: PinkTransforms = None,
    som_name: Annotated[str, typer.Option(help="Name of the map and mapping in the store.")] = "main",
) -> None:
    """Write images, SOM, map and transforms of a survey store as PINK files: those whose path is given.

    Example: skysom export-pink --output survey --images images.bin --som som.bin
    """
    from skysom.jobs.errors import ConfigError
    from skysom.jobs.pink_convert import export_pink

    if not any((images, som, mapping, transforms)):
        raise ConfigError("nothing to write; give --images, --som, --mapping or --transforms with a path")
    survey = open_output(output).survey
    export_pink(survey, images=images, som=som, mapping=mapping, transforms=transforms, name=som_name)
