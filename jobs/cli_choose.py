"""`skysom choose` and `skysom reweight`: what a map is to learn from, and how much each channel is to count."""

from typing import Annotated

import typer

from skysom.jobs.cli_options import Dask, SomName, open_output

OutputArgument = Annotated[str, typer.Argument(help="Directory or URL of the results.")]
Where = Annotated[str | None, typer.Option("--where", help="Rows where this holds, e.g. 'peak > 5 and flag == 0'.")]
Balance = Annotated[
    str | None, typer.Option("--balance", help="Column to balance over: a class, bmu (the neuron), or a number.")
]


def choose_command(
    output: OutputArgument,
    column: Annotated[str, typer.Option("--column", help="Name of the boolean column.")] = "chosen",
    where: Where = None,
    neighbours: Annotated[
        str | None, typer.Option("--neighbours", help="MIN..MAX other sources within the radius; 2.. for 2 or more.")
    ] = None,
    radius_arcsec: Annotated[float | None, typer.Option("--radius-arcsec", help="Radius of --neighbours.")] = None,
    balance: Balance = None,
    quantiles: Annotated[
        int | None, typer.Option("--quantiles", min=2, help="Balance over so many quantiles of the column.")
    ] = None,
    per_class: Annotated[int | None, typer.Option("--per-class", min=1, help="At most N rows of each class.")] = None,
    sample: Annotated[int | None, typer.Option("--sample", min=1, help="N rows in all.")] = None,
    proportional: Annotated[bool, typer.Option("--proportional", help="--sample by the sizes of the classes.")] = False,
    seed: Annotated[int, typer.Option("--seed", min=0, help="The same seed chooses the same rows.")] = 1234,
    dask: Dask = "threads",
) -> None:
    """Choose rows and mark them in a boolean column, to train on with `skysom train --train-where chosen`.

    Example: skysom choose survey --where "snr > 5" --balance bmu --per-class 50
    """
    from rich.console import Console
    from rich.table import Table

    from skysom.jobs.choose import Choice, choose

    choice = Choice(
        where=where, neighbours=None if neighbours is None else bounds(neighbours), radius_arcsec=radius_arcsec,
        balance=balance, quantiles=quantiles, per_class=per_class, sample=sample, proportional=proportional, seed=seed,
    )  # fmt: skip
    directory = open_output(output)
    with directory.lock():
        found = choose(choice, directory, column, dask)
    table = Table(title=f"column {column}")
    for name in (balance or "rows", "there", "chosen"):
        table.add_column(name, justify="left" if name == (balance or "rows") else "right")
    for name, there, taken in found.strata:
        table.add_row(name, f"{there:,}", f"{taken:,}")
    Console().print(table)
    typer.echo(
        f"{int(found.rows.sum()):,} of {found.candidates:,} rows chosen; train on them with "
        f"`skysom train --output {output} --train-where {column} --som-name NAME`"
    )


def bounds(text: str) -> tuple[int, int | None]:
    """Least and most of ``MIN..MAX``, ``MIN..`` or ``..MAX``; ConfigError for other texts."""
    from skysom.jobs.errors import ConfigError

    least, separator, most = (part.strip() for part in text.partition(".."))
    if separator and (least or most) and all(part.isdecimal() or not part for part in (least, most)):
        found = int(least or 0), int(most) if most else None
        if found[1] is None or found[0] <= found[1]:
            return found
    raise ConfigError(f"--neighbours {text!r}: write MIN..MAX with MIN up to MAX, for example 2..5, or 2.. or ..1")


def reweight_command(
    output: OutputArgument,
    weights: Annotated[
        str, typer.Option("--weights", help="A number a channel, as 0.95,0.05; or median_sum; or even (equal shares).")
    ],
    som_name: SomName = None,
    images: Annotated[int, typer.Option("--images", min=2, help="Images of the sample.")] = 500,
    where: Where = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the sample.")] = 1234,
) -> None:
    """Show what other channel weights would do: the share of the squared distances that each channel has.

    Nothing is written, and pixels never are: weights are applied when images are read, by the map they are given to.

    Example: skysom reweight survey --weights 0.95,0.05
    """
    from rich.console import Console
    from rich.table import Table

    from skysom.jobs.reweight import proposal, reweight

    effect = reweight(open_output(output), proposal(weights), som_name, images=images, where=where, seed=seed)
    table = Table(title=f"{effect.images:,} images against {effect.against}")
    for name in ("channel", "median sum", "weight now", "share of d\u00b2", "proposed", "share of d\u00b2"):
        table.add_column(name, justify="left" if name == "channel" else "right")
    for row in effect.rows:
        table.add_row(
            row.channel, f"{row.median_sum:.4g}", f"{row.weight:.4g}", f"{100 * row.share:.1f} %",
            f"{row.new_weight:.4g}", f"{100 * row.new_share:.1f} %",
        )  # fmt: skip
    Console().print(table)
    typer.echo(f"{100 * effect.moved:.1f} % of the images get another best-matching unit")
    setting = ",".join(f"{row.new_weight:.6g}" for row in effect.rows)
    typer.echo(
        f"train with them: skysom train --output {output} --som-name NAME --set 'train.channel_weights=[{setting}]'; "
        "mappings onto that map use them, too"
    )
