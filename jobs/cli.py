"""The command line: thin commands over the jobs. Start-up is fast because jobs are imported when used."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from skysom.jobs.cli_analyse import analyse_command
from skysom.jobs.cli_annotations import annotations_app
from skysom.jobs.cli_choose import choose_command, reweight_command
from skysom.jobs.cli_classify import classify_command
from skysom.jobs.cli_cluster import cluster_app
from skysom.jobs.cli_collate import collate_command
from skysom.jobs.cli_doctor import doctor_command
from skysom.jobs.cli_export_sources import export_sources_command
from skysom.jobs.cli_join import join_app
from skysom.jobs.cli_judge import grow_command, judge_command
from skysom.jobs.cli_label import label_command
from skysom.jobs.cli_options import (
    BatchSize,
    Catalogue,
    ConfigFile,
    Dask,
    ExecutorName,
    Gpus,
    IdColumn,
    Images,
    MapMethodName,
    OutputDir,
    Preset,
    PrintConfig,
    RayAddress,
    Redo,
    Settings,
    SomName,
    TrainSample,
    TrainWhere,
    Workers,
    configure,
    open_output,
    runtime_of,
)
from skysom.jobs.cli_pink import export_pink_command, import_pink_command, pink_command
from skysom.jobs.cli_plan import plan_command
from skysom.jobs.cli_why import why_command

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
    gpus_per_worker: Gpus = 0,
    dask: Dask = "threads",
    id_column: IdColumn = None,
    train_sample: TrainSample = None,
    train_where: TrainWhere = None,
    batch_size: BatchSize = None,
    som_name: SomName = None,
    som: Annotated[str | None, typer.Option("--som", help="Map onto this published map instead of training.")] = None,
    method: MapMethodName = None,
    redo: Redo = None,
    print_config: PrintConfig = False,
) -> None:
    """The main job: ingest, preprocess, train, map, report.

    Example: skysom run --images cutouts/ --catalogue sources.csv --output survey --preset quick
    """
    flags = {
        "images": images, "catalogue": catalogue, "ingest.id_column": id_column, "train.sample": train_sample,
        "train.where": train_where, "train.batch_size": batch_size, "som.name": som_name, "map.som": som,
        "map.method": method,
    }  # fmt: skip
    effective = configure(output, preset, config, setting, flags, print_config)
    from skysom.jobs import run as jobs

    directory = open_output(output)
    path = jobs.run(effective, directory, runtime_of(workers, executor, ray_address, gpus_per_worker, dask), redo=redo)
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
    gpus_per_worker: Gpus = 0,
    id_column: IdColumn = None,
    append: Annotated[bool, typer.Option("--append", help="Add the rows of another catalogue.")] = False,
    print_config: PrintConfig = False,
) -> None:
    """Read a catalogue and its cut-outs into a survey store, and preprocess them.

    With --append new rows are added to the store; `skysom run` or `skysom map` then maps only these.
    """
    flags = {"images": images, "catalogue": catalogue, "ingest.id_column": id_column}
    effective = configure(output, preset, config, setting, flags, print_config)
    from skysom.jobs import ingest as jobs
    from skysom.jobs.preprocess import preprocess_survey

    directory, runtime = open_output(output), runtime_of(workers, executor, ray_address, gpus_per_worker)
    with directory.lock(create=True):
        jobs.ingest(effective, directory, runtime, append=append)
        preprocess_survey(effective, directory, runtime)


@app.command()
def train(
    output: OutputDir,
    preset: Preset = None,
    config: ConfigFile = None,
    setting: Settings = None,
    workers: Workers = None,
    executor: ExecutorName = "auto",
    ray_address: RayAddress = None,
    gpus_per_worker: Gpus = 0,
    dask: Dask = "threads",
    train_sample: TrainSample = None,
    train_where: TrainWhere = None,
    batch_size: BatchSize = None,
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
    flags = {
        "train.sample": train_sample, "train.where": train_where, "train.batch_size": batch_size,
        "som.name": som_name, "som.init": init,
    }  # fmt: skip
    from skysom.jobs import train as jobs

    directory = open_output(output)
    if init is not None and init.startswith("som:") and preset is None and config is None:
        flags = jobs.further(directory, init) | flags
    effective = configure(output, preset, config, setting, flags, print_config)
    with directory.lock():
        jobs.train(effective, directory, runtime_of(workers, executor, ray_address, gpus_per_worker, dask))


@app.command("map")
def map_command(
    output: OutputDir,
    preset: Preset = None,
    config: ConfigFile = None,
    setting: Settings = None,
    workers: Workers = None,
    executor: ExecutorName = "auto",
    ray_address: RayAddress = None,
    gpus_per_worker: Gpus = 0,
    dask: Dask = "threads",
    som_name: SomName = None,
    som: Annotated[
        str | None,
        typer.Option("--som", help="A published map: a PINK file, another output, or OUTPUT:NAME."),
    ] = None,
    where: Annotated[
        str | None,
        typer.Option("--where", help="Only rows for which this holds, e.g. 'bmu == 12 and flux > 3'; '' for all."),
    ] = None,
    keep: Annotated[
        int | None,
        typer.Option("--keep", min=1, help="Distances kept of the best K neurons an image; default all."),
    ] = None,
    method: MapMethodName = None,
    print_config: PrintConfig = False,
) -> None:
    """Map every image (or a part of the survey) onto the trained map, or onto a published one with --som.

    Example: skysom map --output survey --where "bmu == 12" --som som:finer --som-name part
    """
    flags = {"som.name": som_name, "map.som": som, "map.where": where, "map.keep": keep, "map.method": method}
    effective = configure(output, preset, config, setting, flags, print_config)
    from skysom.jobs.map import map_survey

    directory = open_output(output)
    with directory.lock():
        map_survey(effective, directory, runtime_of(workers, executor, ray_address, gpus_per_worker, dask))


@app.command()
def report(
    output: OutputDir,
    preset: Preset = None,
    config: ConfigFile = None,
    setting: Settings = None,
    som_name: SomName = None,
) -> None:
    """Write report.html anew."""
    effective = configure(output, preset, config, setting, {"som.name": som_name})
    from skysom.jobs import run as jobs

    directory = open_output(output)
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
        str(folder / "output"),
        images=[str(survey.images)],
        catalogue=str(survey.catalogue),
        preset="quick",
        setting=["ingest.side_pixels=56", "report.title='A simulated radio survey'"],
        workers=workers,
    )


@app.command()
def version() -> None:
    """Print the version."""
    from importlib.metadata import version as installed

    typer.echo(installed("skysom"))


app.add_typer(cluster_app, name="cluster")
app.add_typer(annotations_app, name="annotations")
app.add_typer(join_app, name="join")
app.command(
    "pink", context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []}
)(pink_command)
app.command("analyse")(analyse_command)
app.command("label")(label_command)
app.command("classify")(classify_command)
app.command("choose")(choose_command)
app.command("grow")(grow_command)
app.command("judge")(judge_command)
app.command("reweight")(reweight_command)
app.command("collate")(collate_command)
app.command("why")(why_command)
app.command("export-sources")(export_sources_command)
app.command("plan")(plan_command)
app.command("doctor")(doctor_command)
app.command("import-pink")(import_pink_command)
app.command("export-pink")(export_pink_command)


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
