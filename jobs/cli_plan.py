"""`skysom plan`: what a run will take on a given cluster, as a table, as plain text or as JSON."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from skysom.jobs.cli_options import Settings, SomName

if TYPE_CHECKING:
    from skysom.jobs.plan import Machines, Plan
    from skysom.jobs.plan_subject import Subject

GivenRate = Annotated[float | None, typer.Option(help="Images a second of one worker, instead of measuring it.")]
StoreRate = Annotated[float | None, typer.Option(help="GB a second of the store, for all workers together.")]
MeasureIn = Annotated[Path | None, typer.Option(help="Measure reading and writing in this folder.")]


def plan_command(
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", help="A survey that is there: its sizes, and the rates of its history."),
    ] = None,
    images: Annotated[int | None, typer.Option("--images", min=1, help="Images of the survey.")] = None,
    side: Annotated[int | None, typer.Option("--side", min=2, max=10_000, help="Side of a cut-out in pixels.")] = None,
    channels: Annotated[int | None, typer.Option("--channels", min=1, help="Channels of a cut-out (1).")] = None,
    neurons: Annotated[
        int | None, typer.Option("--neurons", min=1, help="Neurons, instead of width and height.")
    ] = None,
    width: Annotated[int | None, typer.Option("--width", min=1, help="som.width.")] = None,
    height: Annotated[int | None, typer.Option("--height", min=1, help="som.height.")] = None,
    rotations: Annotated[int | None, typer.Option("--rotations", help="Rotations of the mapping.")] = None,
    keep: Annotated[int | None, typer.Option("--keep", min=1, help="Neurons kept an image; default all.")] = None,
    som_name: SomName = None,
    preset: Annotated[str | None, typer.Option("--preset", help="quick or vlass: preprocessing and training.")] = None,
    config: Annotated[Path | None, typer.Option("--config", help="TOML file; flags override it.")] = None,
    setting: Settings = None,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="Worker processes in all; default one a GPU, or a core.")
    ] = None,
    nodes: Annotated[int, typer.Option("--nodes", min=1, help="Machines.")] = 1,
    gpus: Annotated[int, typer.Option("--gpus", min=0, help="GPUs in all; they search, cores do the rest.")] = 0,
    memory_gb: Annotated[
        float | None, typer.Option("--memory-gb", help="Memory of one machine; default that of this one.")
    ] = None,
    store_gb_s: StoreRate = None,
    measure_in: MeasureIn = None,
    rate_ingest: GivenRate = None,
    rate_preprocess: GivenRate = None,
    rate_train: GivenRate = None,
    rate_map: GivenRate = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what a run will take: shards, memory, bytes, operations and time, and where each figure comes from.

    Rates that no history tells are measured here, in some seconds.
    Example: skysom plan --images 40000000 --side 150 --preset vlass --gpus 8 --nodes 2
    """
    from skysom.jobs.errors import ConfigError
    from skysom.jobs.plan import make_plan

    rates = {"ingest": rate_ingest, "preprocess": rate_preprocess, "train": rate_train, "map": rate_map}
    given = {stage: rate for stage, rate in rates.items() if rate is not None}
    if bad := [stage for stage, rate in given.items() if not _usable(rate)]:
        raise ConfigError(f"--rate-{bad[0]} is {given[bad[0]]:g} images a second; give a number from 1e-6 to 1e15")
    if measure_in is not None and not measure_in.is_dir():
        raise ConfigError(f"--measure-in {measure_in} is no folder; give one on the file system of the survey")
    sizes = {"som.width": width, "som.height": height, "map.rotations": rotations, "map.keep": keep}
    flags = sizes | {"som.name": som_name}
    subject = _subject(output, images, side, channels, neurons, (preset, config, setting), flags)
    plan = make_plan(subject, _machines(workers, nodes, gpus, memory_gb, store_gb_s), given, measure_in)
    if as_json:
        typer.echo(plan.to_json())
    else:
        _show(plan)
    if plan.problems:
        raise ConfigError("this does not fit:\n" + "\n".join(f"- {problem}" for problem in plan.problems))


def _subject(
    output: str | None,
    images: int | None,
    side: int | None,
    channels: int | None,
    neurons: int | None,
    sources: tuple[str | None, Path | None, list[str] | None],
    flags: dict[str, Any],
) -> "Subject":
    from skysom.jobs.config import load_config, parse_setting
    from skysom.jobs.errors import ConfigError
    from skysom.jobs.output import Output
    from skysom.jobs.plan_subject import subject_of_config, subject_of_output

    preset, file, settings = sources
    values = {key: value for key, value in flags.items() if value is not None}
    values |= dict(parse_setting(text) for text in settings or [])
    if output is not None:
        if (wrong := {"--side": side, "--channels": channels, "--neurons": neurons}) and any(wrong.values()):
            named = ", ".join(name for name, value in wrong.items() if value is not None)
            raise ConfigError(f"{named} cannot go with --output, which has its own; leave it out, or --output")
        directory = Output(output)
        remembered = directory.remembered(values.get("som.name")) if preset is None and file is None else {}
        return subject_of_output(load_config(preset, file, values, remembered), directory, images)
    if images is None or side is None:
        raise ConfigError("nothing to plan: give --output DIR, or --images N and --side PIXELS")
    effective = load_config(preset, file, values)
    return subject_of_config(effective, images, side, channels or max(len(effective.images), 1), neurons)


def _machines(
    workers: int | None, nodes: int, gpus: int, memory_gb: float | None, store_gb_s: float | None
) -> "Machines":
    import os

    import psutil

    from skysom.jobs.errors import ConfigError
    from skysom.jobs.plan import Machines

    for name, value in (("--memory-gb", memory_gb), ("--store-gb-s", store_gb_s)):
        if value is not None and not _usable(value):
            raise ConfigError(f"{name} is {value:g}; give a number from 1e-6 to 1e15")
    count = workers or gpus or nodes * len(os.sched_getaffinity(0))
    if count < nodes:
        raise ConfigError(f"{count} workers on {nodes} machines leave some idle; give --workers of at least {nodes}")
    memory = memory_gb if memory_gb is not None else round(psutil.virtual_memory().total / 1e9, 1)
    return Machines(count, nodes, gpus, memory, store_gb_s)


def _usable(rate: float) -> bool:
    """Whether a rate or size is a number to divide by; nan and inf are numbers on a command line, too."""
    return 1e-6 <= rate <= 1e15


def _show(plan: "Plan") -> None:
    from skysom.jobs.plan_words import heading, rows, sentences

    head, body = rows(plan)
    typer.echo(heading(plan))
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table

        table = Table()
        for number, name in enumerate(head):
            table.add_column(name, justify="right" if 0 < number < len(head) - 1 else "left")
        for row in body:
            table.add_row(*row)
        Console().print(table)
    else:
        widths = [max(len(row[i]) for row in (head, *body)) for i in range(len(head))]
        for row in (head, *body):
            cells = [c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))]
            typer.echo("  ".join(cells).rstrip())
    for sentence in sentences(plan):
        typer.echo(sentence)
