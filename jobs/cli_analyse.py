"""`skysom analyse`: what a mapping says of its map."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from skysom.jobs.cli_options import SomName, open_output

if TYPE_CHECKING:
    from rich.table import Table

SHOWN = 12
"""Neurons or labels listed in a line or table of the terminal; the files have all."""

Where = Annotated[str | None, typer.Option("--where", help="Only rows for which this holds, e.g. 'snr > 5'.")]
Labels = Annotated[str | None, typer.Option("--labels", help="Column of the catalogue with labels; may have gaps.")]
Exclude = Annotated[list[int] | None, typer.Option("--exclude", help="Leave this neuron out; repeatable.")]
Worst = Annotated[int, typer.Option("--worst", min=1, help="How many of the worst matches to list.")]


def analyse_command(
    output: Annotated[str, typer.Argument(help="Directory or URL of the results.")],
    som_name: SomName = None,
    labels: Labels = None,
    where: Where = None,
    exclude: Exclude = None,
    worst: Worst = 20,
) -> None:
    """Analyse a mapping: members, errors, coherence, ambiguous neurons, labels, worst matches, advice on map size.

    Writes analysis.json, neurons.csv and neurons.parquet (a row a neuron) into OUTPUT.

    Example: skysom analyse survey --labels morphology --where "snr > 5" --exclude 12
    """
    from rich.console import Console

    from skysom.jobs.analysis import analyse
    from skysom.jobs.mapping_reader import mapping_name

    directory = open_output(output)
    with directory.lock():
        name = mapping_name(directory, som_name)
        analysis = analyse(directory, name, labels=labels, where=where, exclude=exclude or [], worst=worst)
    console = Console()
    for table in tables(analysis.summary):
        console.print(table)
    typer.echo(analysis.summary["size"]["sentence"])
    typer.echo(f"analysis: {directory.root / 'analysis.json'}\nneurons: {directory.root / 'neurons.csv'}")


def tables(summary: dict[str, Any]) -> list["Table"]:
    """The summary of an analysis for the terminal: its figures, and its labels where it has some."""
    from rich.table import Table

    figures = Table("", "", title=f"mapping {summary['map']}", show_header=False)
    size = summary["size"]
    decided = summary["mapped"] - summary["without_second_best"]
    lines = [
        ("rows", f"{summary['rows']:,}"),
        ("mapped", f"{summary['mapped']:,}"),
        ("quantisation error", f"{summary['quantisation_error']:.5g}"),
        ("topographic error", f"{summary['topographic_error']:.4f}"),
        ("coherent", f"{summary['coherent']:,} of {decided:,}"),
        ("empty neurons", f"{len(summary['empty_neurons'])} of {summary['neurons']}"),
        ("ambiguous neurons", _few(summary["ambiguous_neurons"])),
        ("members of an edge | a centre neuron", f"{size['edge_hits']:.1f} | {size['centre_hits']:.1f}"),
        ("dispersion at the edge | in the centre", f"{size['edge_spread']:.4g} | {size['centre_spread']:.4g}"),
    ]
    if summary["excluded_neurons"]:
        lines.insert(2, ("left out", f"neurons {_few(summary['excluded_neurons'])}"))
        lines.insert(3, ("without a neuron therefore", f"{summary['lost_to_excluded_neurons']:,}"))
    if not summary["second_best_exact"]:
        which = "second best" if summary["best_exact"] else "best and second best"
        needed = 2 + len(summary["excluded_neurons"])
        lines.append((which, f"approximate (certified search); map.exact_neurons={needed} makes it exact"))
    if summary["worst_matches"]:
        worst = summary["worst_matches"][0]
        lines.append(("worst match", f"{worst['source_id']} (row {worst['row']}), {worst['distance']:.5g}"))
    for line in lines:
        figures.add_row(*line)
    found = [figures]
    if "labels" in summary:
        own = summary["labels"]
        members = Table("label", "members", title=f"labels {own['column']}")
        shown = sorted(zip(own["members"], own["classes"], strict=True), key=lambda each: -each[0])
        for count, name in shown[:SHOWN]:
            members.add_row(name, f"{count:,}")
        if len(shown) > SHOWN:
            members.add_row(f"{len(shown) - SHOWN} more", f"{sum(count for count, _ in shown[SHOWN:]):,}")
        members.add_row("without a label", f"{own['mapped_without_label']:,}", end_section=True)
        members.add_row("mean purity", f"{own['mean_purity']:.3f}")
        found.append(members)
    return found


def _few(neurons: list[int]) -> str:
    if not neurons:
        return "none"
    shown = ", ".join(map(str, neurons[:SHOWN]))
    return shown + (f" and {len(neurons) - SHOWN} more" if len(neurons) > SHOWN else "")
