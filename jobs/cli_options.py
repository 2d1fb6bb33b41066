"""Options that several commands share, and what they make of them."""

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from skysom.cluster.shards import Runtime
    from skysom.jobs.config import Config
    from skysom.jobs.output import Output

Images = Annotated[
    list[str] | None,
    typer.Option("--images", "-i", help="Directory, glob or file of FITS images, or a URL; once a channel."),
]
Catalogue = Annotated[
    str | None, typer.Option("--catalogue", "-c", help="Catalogue: CSV, FITS table, VOTable or Parquet; path or URL.")
]
OutputDir = Annotated[
    str, typer.Option("--output", "-o", help="Directory, or URL such as s3://bucket/run, of the results; resumes.")
]
Preset = Annotated[str | None, typer.Option("--preset", help="quick (8x8, minutes) or vlass (10x10, published).")]
ConfigFile = Annotated[str | None, typer.Option("--config", help="TOML file; flags override it.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="Any key of the configuration, e.g. --set som.width=12; repeatable."),
]
PrintConfig = Annotated[bool, typer.Option("--print-config", help="Print the effective configuration and stop.")]
Workers = Annotated[
    int | None,
    typer.Option("--workers", min=1, help="Processes; default: one a core, or all a Ray cluster has room for."),
]
ExecutorName = Annotated[
    Literal["auto", "local", "ray"],
    typer.Option("--executor", help="auto: Ray where it pays, else in process."),
]
RayAddress = Annotated[
    str | None, typer.Option("--ray-address", help="A running Ray cluster ('auto' or host:port); default $RAY_ADDRESS.")
]
Gpus = Annotated[
    float, typer.Option("--gpus-per-worker", min=0, help="GPUs (or share of one) that Ray reserves for each worker.")
]
Dask = Annotated[
    str, typer.Option("--dask", help="What evaluates expressions on the catalogue: threads, ray or tcp://host:port.")
]
IdColumn = Annotated[str | None, typer.Option("--id-column", help="Column of source ids.")]
TrainSample = Annotated[int | None, typer.Option("--train-sample", min=1, help="Train on at most N images.")]
TrainWhere = Annotated[
    str | None,
    typer.Option("--train-where", help="Train on rows where this holds, e.g. 'peak > 5 and flag == 0'."),
]
BatchSize = Annotated[
    int | None, typer.Option("--batch-size", min=1, help="Images matched before the map moves; 1 is online training.")
]
MapMethodName = Annotated[
    Literal["certified", "exact", "polar"] | None,
    typer.Option(
        "--method",
        help="certified (default): best neurons as exact finds them, several times faster; other neurons' distances "
        "are approximate. exact: all distances. polar: angles without a preference, distances of its own.",
    ),
]
SomName = Annotated[str | None, typer.Option("--som-name", help="Name of the map and its mapping (main).")]
Redo = Annotated[str | None, typer.Option("--redo", help="Discard this stage and all after it, then run.")]


def configure(
    output: str,
    preset: str | None,
    file: str | None,
    settings: list[str] | None,
    flags: dict[str, Any],
    print_config: bool = False,
) -> "Config":
    """Effective configuration: what the output was made with, then the preset, the file and the flags.

    print_config: print it and end the program.
    """
    from skysom.jobs.config import load_config, parse_setting, to_toml
    from skysom.jobs.output import Output

    # An empty value takes back what an output remembers.
    given: dict[str, Any] = {
        key: value if value != "" else None for key, value in flags.items() if value is not None and value != []
    }
    if "images" in given:
        given["images"] = tuple(given["images"])
    given |= dict(parse_setting(text) for text in settings or [])
    remembered = Output(output).remembered(given.get("som.name")) if preset is None and file is None else {}
    effective = load_config(preset, file, given, remembered)
    if print_config:
        typer.echo(to_toml(effective), nl=False)
        raise typer.Exit
    return effective


def open_output(path: str) -> "Output":
    """The output at a path or URL; ConfigError for one in the memory of this process, which ends with it."""
    from skysom.jobs.errors import ConfigError
    from skysom.jobs.output import Output

    if path.startswith("memory://"):
        raise ConfigError(f"--output {path} would be gone when this command ends; give a path or another URL")
    return Output(path)


def runtime_of(
    workers: int | None, executor: str, ray_address: str | None, gpus_per_worker: float, dask: str = "threads"
) -> "Runtime":
    """How and where passes and trainings run."""
    from skysom.cluster.shards import Runtime
    from skysom.jobs.progress import say

    if gpus_per_worker:
        say("GPUs are reserved for the workers, but jobs search on the cores; engine.cuda is for Python so far")
    return Runtime(workers, executor, ray_address, gpus_per_worker=gpus_per_worker, dask=dask)  # type: ignore[arg-type]
