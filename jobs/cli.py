"""The command line: thin commands over the jobs. Start-up is fast because jobs are imported when used."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from skysom.cluster.shards import Runtime
    from skysom.jobs.config import Config
    from skysom.jobs.output import Output

app = typer.Typer(
    help="Rotation- and flip-invariant self-organizing maps of astronomical surveys.\n\n"
    "The main job is [bold]skysom run[/bold]: cut-outs (or mosaics) and a catalogue in, a trained map, every "
    "source mapped, the catalogue extended and a report out. Its stages (ingest, train, map, report) are commands "
    "of their own. Everything resumes: run the same command again after an interruption.",
    rich_markup_mode="rich",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Images = Annotated[
    list[str] | None,
    typer.Option("--images", "-i", help="Directory, glob or file of FITS images; repeat it for more channels."),
]
Catalogue = Annotated[
    Path | None, typer.Option("--catalogue", "-c", help="Catalogue: CSV, FITS table, VOTable or Parquet.")
]
OutputDir = Annotated[Path, typer.Option("--output", "-o", help="Directory of the results; resumes what is there.")]
Preset = Annotated[str | None, typer.Option("--preset", help="quick (8x8, minutes) or vlass (10x10, published).")]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="TOML file; flags override it.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="Any key of the configuration, e.g. --set som.width=12; repeatable."),
]
PrintConfig = Annotated[bool, typer.Option("--print-config", help="Print the effective configuration and stop.")]
Workers = Annotated[int | None, typer.Option("--workers", min=1, help="Processes; default: one a core.")]
ExecutorName = Annotated[
    Literal["auto", "local", "ray"],
    typer.Option("--executor", help="auto: Ray where it pays, else in process."),
]
RayAddress = Annotated[str | None, typer.Option("--ray-address", help="A running Ray cluster ('auto' or host:port).")]
IdColumn = Annotated[str | None, typer.Option("--id-column", help="Column of source ids.")]
TrainSample = Annotated[int | None, typer.Option("--train-sample", min=1, help="Train on at most N images.")]
TrainWhere = Annotated[
    str | None,
    typer.Option("--train-where", help="Train on rows where this holds, e.g. 'peak > 5 and flag == 0'."),
]
SomName = Annotated[str | None, typer.Option("--som-name", help="Name of the map and its mapping (main).")]
Redo = Annotated[str | None, typer.Option("--redo", help="Discard this stage and all after it, then run.")]


@app.command()
def run(
    output: OutputDir,
    images: Images = None,
    catalogue: Catalogue = None,
    preset: Preset = None,
    config: ConfigFile = None,
    setting: Settings = None,
    workers: Workers = None,
    executor: ExecutorName = "auto",
    ray_address: RayAddress = None,
    id_column: IdColumn = None,
    train_sample: TrainSample = None,
    train_where: TrainWhere = None,
    som_name: SomName = None,
    som: Annotated[str | None, typer.Option("--som", help="Map onto this published map instead of training.")] = None,
    redo: Redo = None,
    print_config: PrintConfig = False,
) -> None:
    """The main job: ingest, preprocess, train, map, report.

    Example: skysom run --images cutouts/ --catalogue sources.csv --output survey --preset quick
    """
    flags = {
        "images": images, "catalogue": catalogue, "ingest.id_column": id_column, "train.sample": train_sample,
        "train.where": train_where, "som.name": som_name, "map.som": som,
    }  # fmt: skip
    effective = _configure(output, preset, config, setting, flags, print_config)
    from skysom.jobs import run as jobs

    directory = _output(output)
    path = jobs.run(effective, directory, _runtime(workers, executor, ray_address), redo=redo)
    typer.echo(f"report: {path}\ncatalogue: {directory.catalogue}\nstore: {directory.survey}")


@app.command()
def ingest(
    output: OutputDir,
    images: Images = None,
    catalogue: Catalogue = None,
    preset: Preset = None,
    config: ConfigFile = None,
    setting: Settings = None,
    workers: Workers = None,
    executor: ExecutorName = "auto",
    ray_address: RayAddress = None,
    id_column: IdColumn = None,
    append: Annotated[bool, typer.Option("--append", help="Add the rows of another catalogue.")] = False,
    print_config: PrintConfig = False,
) -> None:
    """Read a catalogue and its cut-outs into a survey store, and preprocess them.

    With --append new rows are added to the store; `skysom run` or `skysom map` then maps only these.
    """
    flags = {"images": images, "catalogue": catalogue, "ingest.id_column": id_column}
    effective = _configure(output, preset, config, setting, flags, print_config)
    from skysom.jobs import ingest as jobs
    from skysom.jobs.preprocess import preprocess_survey

    directory, runtime = _output(output), _runtime(workers, executor, ray_address)
    with directory.lock(create=True):
        jobs.ingest(effective, directory, runtime, append=append)
        preprocess_survey(effective, directory, runtime)


@app.command()
def train(
    output: OutputDir,
    preset: Preset = None,
    config: ConfigFile = None,
    setting: Settings = None,
    train_sample: TrainSample = None,
    train_where: TrainWhere = None,
    som_name: SomName = None,
    init: Annotated[
        str | None,
        typer.Option("--init", help="Start from som:NAME (train a map further), a file, samples, ..."),
    ] = None,
    print_config: PrintConfig = False,
) -> None:
    """Train a map on the ingested images (or a selection of them).

    Train a finished map further with --init som:main --som-name finer: it keeps the lattice, and
    repeats the last training stage unless --preset, --config or --set train.stages=... say otherwise.
    """
    flags = {"train.sample": train_sample, "train.where": train_where, "som.name": som_name, "som.init": init}
    from skysom.jobs import train as jobs

    directory = _output(output)
    if init is not None and init.startswith("som:") and preset is None and config is None:
        flags = jobs.further(directory, init) | flags
    effective = _configure(output, preset, config, setting, flags, print_config)
    with directory.lock():
        jobs.train(effective, directory)


@app.command("map")
def map_command(
    output: OutputDir,
    preset: Preset = None,
    config: ConfigFile = None,
    setting: Settings = None,
    workers: Workers = None,
    executor: ExecutorName = "auto",
    ray_address: RayAddress = None,
    som_name: SomName = None,
    som: Annotated[
        str | None,
        typer.Option("--som", help="A published map: a PINK file, another output, or OUTPUT:NAME."),
    ] = None,
    print_config: PrintConfig = False,
) -> None:
    """Map every image onto the trained map, or onto a published one with --som."""
    flags = {"som.name": som_name, "map.som": som}
    effective = _configure(output, preset, config, setting, flags, print_config)
    from skysom.jobs.map import map_survey

    directory = _output(output)
    with directory.lock():
        map_survey(effective, directory, _runtime(workers, executor, ray_address))


@app.command()
def report(
    output: OutputDir,
    preset: Preset = None,
    config: ConfigFile = None,
    setting: Settings = None,
    som_name: SomName = None,
) -> None:
    """Write report.html anew."""
    effective = _configure(output, preset, config, setting, {"som.name": som_name})
    from skysom.jobs import run as jobs

    directory = _output(output)
    with directory.lock():
        typer.echo(f"report: {jobs.report(effective, directory)}")


@app.command()
def demo(
    folder: Annotated[Path, typer.Argument(help="Where the simulated survey and its results go.")] = Path("demo"),
    components: Annotated[int, typer.Option(min=50, help="Rows of the simulated catalogue.")] = 1500,
    seed: Annotated[int, typer.Option(help="The same seed gives the same survey.")] = 7,
    workers: Workers = None,
) -> None:
    """Simulate a small radio survey and run the main job on it."""
    from skysom.jobs.demo import simulate_survey

    survey = simulate_survey(folder / "survey", components=components, seed=seed)
    typer.echo(f"simulated survey: {survey.catalogue}")
    run(
        folder / "output",
        images=[str(survey.images)],
        catalogue=survey.catalogue,
        preset="quick",
        setting=["ingest.side_pixels=56", "report.title='A simulated radio survey'"],
        workers=workers,
    )


@app.command(
    "pink",
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []},
)
def pink_command(context: typer.Context) -> None:
    """The command line of PINK, option for option, on its own binary files."""
    from skysom.jobs.pink import main as pink

    raise typer.Exit(pink(context.args))


PinkImages = Annotated[Path | None, typer.Option(help="PINK data file (images).")]
PinkSom = Annotated[Path | None, typer.Option(help="PINK SOM file.")]
PinkMap = Annotated[Path | None, typer.Option(help="PINK map file (distances).")]
PinkTransforms = Annotated[Path | None, typer.Option(help="PINK transform file (best rotations and flips).")]


@app.command("import-pink")
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

    directory = _output(output)
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


@app.command("export-pink")
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
    survey = _output(output).survey
    export_pink(survey, images=images, som=som, mapping=mapping, transforms=transforms, name=som_name)


@app.command()
def version() -> None:
    """Print the version."""
    from importlib.metadata import version as installed

    typer.echo(installed("skysom"))


def _configure(
    output: Path,
    preset: str | None,
    file: Path | None,
    settings: list[str] | None,
    flags: dict[str, Any],
    print_config: bool = False,
) -> "Config":
    """Effective configuration: what the output was made with, then the preset, the file and the flags.

    print_config: print it and end the program.
    """
    from skysom.jobs.config import load_config, parse_setting, to_toml
    from skysom.jobs.output import Output

    given = {key: value for key, value in flags.items() if value is not None and value != []}
    if "images" in given:
        given["images"] = tuple(given["images"])
    if "catalogue" in given:
        given["catalogue"] = str(given["catalogue"])
    given |= dict(parse_setting(text) for text in settings or [])
    remembered = Output(output).remembered(given.get("som.name")) if preset is None and file is None else {}
    effective = load_config(preset, file, given, remembered)
    if print_config:
        typer.echo(to_toml(effective), nl=False)
        raise typer.Exit
    return effective


def _output(path: Path) -> "Output":
    from skysom.jobs.output import Output

    return Output(path)


def _runtime(workers: int | None, executor: str, ray_address: str | None) -> "Runtime":
    import os

    from skysom.cluster.shards import Runtime

    return Runtime(workers or len(os.sched_getaffinity(0)), executor, ray_address)  # type: ignore[arg-type]


def main(arguments: list[str] | None = None) -> int:
    """Run a command; errors a user can mend are one sentence and exit status 1."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["pink"]:  # before anything heavy: it replaces a program that starts at once
        from skysom.jobs.pink import main as pink

        return pink(arguments[1:])
    return _guarded(lambda: app(arguments))


def _guarded(call: Callable[[], Any]) -> int:
    try:
        call()
    except SystemExit as stop:
        if stop.code == 130:  # typer has caught the interrupt
            sys.stderr.write("stopped; run the same command again to resume\n")
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except KeyboardInterrupt:
        sys.stderr.write("stopped; run the same command again to resume\n")
        return 130
    except Exception as error:
        from skysom.jobs.errors import SkysomErrors

        if isinstance(error, SkysomErrors):
            sys.stderr.write(f"skysom: {error}\n")
            return 1
        if isinstance(error, OSError):
            sys.stderr.write(f"skysom: {error}; run the same command again to resume once it is mended\n")
            return 1
        raise
    return 0


if __name__ == "__main__":
    sys.exit(main())
