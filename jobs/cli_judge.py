"""`skysom judge` and `skysom grow`: how good maps are, and further maps where one is not good enough."""

from typing import Annotated

import typer

from skysom.jobs.cli_options import (
    ConfigFile,
    ExecutorName,
    Gpus,
    Preset,
    RayAddress,
    Settings,
    SomName,
    Workers,
    open_output,
    runtime_of,
)

OutputArgument = Annotated[str, typer.Argument(help="Directory or URL of the results.")]


def judge_command(
    output: OutputArgument,
    som_name: Annotated[
        list[str] | None, typer.Option("--som-name", help="A map, with those of its stages; repeatable; default all.")
    ] = None,
    images: Annotated[int, typer.Option("--images", min=1, help="Images of the sample.")] = 1000,
    where: Annotated[str | None, typer.Option("--where", help="Only rows for which this holds.")] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the sample.")] = 1234,
) -> None:
    """Judge every stored map by the distances of one sample of images to it; writes OUTPUT/judge.json.

    Example: skysom judge survey --som-name main --som-name finer
    """
    from rich.console import Console
    from rich.table import Table

    from skysom.jobs.judge import FILE, judge

    directory = open_output(output)
    with directory.lock():
        judged = judge(directory, som_name or None, images=images, where=where, seed=seed)
    table = Table(title=f"{judged['images']:,} images, {judged['rotations']} rotations")
    for name in ("map", "neurons", "total distance", "mean", "median", "99 %", "change"):
        table.add_column(name, justify="left" if name == "map" else "right")
    for found in judged["maps"]:
        change = "" if found["change"] is None else f"{100 * found['change']:+.2f} %"
        numbers = [f"{found[key]:.5g}" for key in ("total", "mean", "median", "percentile_99")]
        table.add_row(found["name"], f"{found['neurons']:,}", *numbers, change)
    Console().print(table)
    kinds = {found["comparable"] for found in judged["maps"]}
    if len(kinds) > 1:
        typer.echo(f"not all of these distances can be compared: there are maps of {'; of '.join(sorted(kinds))}")
    typer.echo(f"judgement: {directory.root / FILE}")


def grow_command(
    output: OutputArgument,
    neurons: Annotated[
        list[str] | None, typer.Option("--neurons", help="Neurons to grow, as 12,13; repeatable.")
    ] = None,
    dispersion: Annotated[
        float | None,
        typer.Option("--dispersion", help="Grow neurons whose members lie beyond so many times the mean distance."),
    ] = None,
    least_members: Annotated[
        int, typer.Option("--least-members", min=1, help="With --dispersion: of neurons with so many members.")
    ] = 100,
    name: Annotated[
        str | None, typer.Option("--name", help="One map for all neurons, so named; default one each, PARENT.NEURON.")
    ] = None,
    redo: Annotated[bool, typer.Option("--redo", help="Discard such maps of these neurons first.")] = False,
    som_name: SomName = None,
    preset: Preset = None,
    config: ConfigFile = None,
    setting: Settings = None,
    workers: Workers = None,
    executor: ExecutorName = "auto",
    ray_address: RayAddress = None,
    gpus_per_worker: Gpus = 0,
) -> None:
    """Train further maps on the sources of some neurons, and map those sources onto them.

    The catalogue keeps the columns of the map they come from; those of the further map are bmu_NAME, ... beside them.

    Example: skysom grow survey --neurons 12,13 --name tails --set som.width=4
    """
    from rich.console import Console
    from rich.table import Table

    from skysom.jobs.config import parse_setting
    from skysom.jobs.grow import Growth, grow, neuron_numbers

    growth = Growth(
        parent=som_name or "main", neurons=neuron_numbers(neurons or []), dispersion=dispersion,
        least_members=least_members, name=name, redo=redo, preset=preset, file=config,
        settings=dict(parse_setting(text) for text in setting or []),
    )  # fmt: skip
    directory = open_output(output)
    with directory.lock():
        children = grow(growth, directory, runtime_of(workers, executor, ray_address, gpus_per_worker))
    table = Table(title=f"grown from {growth.parent}")
    for head in ("map", "of neurons", "sources", "neurons", "mean distance before", "and on it", "column"):
        name_of = head in ("map", "column")
        table.add_column(head, justify="left" if name_of else "right", no_wrap=name_of)
    for child in children:
        table.add_row(
            child.name, ", ".join(map(str, child.of_neurons)), f"{child.sources:,}", str(child.neurons),
            f"{child.before:.5g}", f"{child.after:.5g}", child.column,
        )  # fmt: skip
    Console().print(table)
