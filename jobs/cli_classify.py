"""`skysom classify`: classes of a labelled column for every mapped source."""

import os
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from skysom.jobs.cli_options import SomName, open_output

if TYPE_CHECKING:
    from rich.table import Table

Labels = Annotated[str | None, typer.Option("--labels", help="Column of the catalogue with classes; may have gaps.")]
Saved = Annotated[
    str | None,
    typer.Option("--classifier", help="Use a saved one instead: classifier.skops, or the output that holds it."),
]
Where = Annotated[
    str | None,
    typer.Option("--where", help="Learn only from rows for which this holds, e.g. 'certain == 1'."),
]
MethodName = Annotated[
    Literal["knn", "forest", "mlp", "svm"] | None,
    typer.Option("--method", help="Default: svm (support vectors), and forest above 20,000 labelled sources."),
]
Distances = Annotated[bool, typer.Option(help="Distances to all neurons as features.")]
Amplitudes = Annotated[bool, typer.Option(help="Amplitudes over the angle as features, which no rotation changes.")]
SkyDegrees = Annotated[
    float | None,
    typer.Option("--sky-degrees", help="Never test on a source within this angle of one that was learned from."),
]
MergeRare = Annotated[
    str | None, typer.Option("--merge-rare", help="Make one class of this name of those with too few sources.")
]
Exclude = Annotated[list[int] | None, typer.Option("--exclude", help="Leave this neuron out; repeatable.")]


def classify_command(
    output: Annotated[str, typer.Argument(help="Directory or URL of a mapped survey.")],
    labels: Labels = None,
    where: Where = None,
    method: MethodName = None,
    som_name: SomName = None,
    distances: Distances = True,
    amplitudes: Amplitudes = True,
    exclude: Exclude = None,
    folds: Annotated[int, typer.Option(min=2, help="Folds of the cross-validation.")] = 10,
    repeats: Annotated[int, typer.Option(min=1, help="Repeats of the cross-validation.")] = 5,
    sky_degrees: SkyDegrees = None,
    merge_rare: MergeRare = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same result.")] = 0,
    classifier: Saved = None,
) -> None:
    """Learn the classes of labelled sources, test by cross-validation, and classify every mapped source.

    Writes classification.json, classifier.skops and classifier.json into OUTPUT, and columns of predictions into the
    catalogue: those of sources learned from are by folds that did not learn from them.

    Example: skysom classify survey --labels fr_class --where "certain == 1" --sky-degrees 1
    """
    from rich.console import Console

    from skysom.engine.reading.features import FeatureSettings
    from skysom.jobs.classify import Options, apply_classifier, classify, said
    from skysom.jobs.errors import ConfigError
    from skysom.jobs.mapping_reader import mapping_name

    if (labels is None) == (classifier is None):
        raise ConfigError("give --labels with a column to learn from, or --classifier with a saved one")
    directory = open_output(output)
    with directory.lock():
        name = mapping_name(directory, som_name)
        if classifier is not None:
            found = apply_classifier(directory, name, classifier)
            shown = [predicted_table(found)]
        else:
            settings = FeatureSettings(
                "log" if distances else None, 8 if amplitudes else 0, excluded=tuple(exclude or ())
            )
            cores = len(os.sched_getaffinity(0))
            options = Options(method, settings, folds, repeats, sky_degrees, merge_rare, seed, cores=cores)
            record = classify(directory, name, str(labels), where, options)
            said(record)
            shown = [*tables(record)]
    console = Console()
    for table in shown:
        console.print(table)
    if classifier is None:
        typer.echo(f"classification: {directory.root / 'classification.json'}")
    typer.echo(f"catalogue: {directory.catalogue}")


def tables(record: dict[str, Any]) -> list["Table"]:
    """A classification for the terminal: figures, confusion matrix, learning curve."""
    from rich.table import Table

    title = f"{record['labels']} by {record['method']}, {record['repeats']} x {record['folds']} folds"
    figures = Table("", "", title=title, show_header=False)
    for line in (
        ("accuracy", f"{record['accuracy']:.4f} +- {record['accuracy_spread']:.4f} over folds"),
        ("balanced accuracy", f"{record['balanced_accuracy']:.4f}"),
        ("always the largest class", f"{record['majority_share']:.4f}"),
        ("Brier score", f"{record['brier_score']:.4f}"),
        ("calibration error", f"{record['calibration_error']:.4f}"),
    ):
        figures.add_row(*line)
    confusion = Table("labelled", *record["classes"], "sources", title="predicted, mean over repeats")
    for name, row, count in zip(record["classes"], record["confusion"], record["counts"], strict=True):
        confusion.add_row(name, *(f"{value:.1f}" for value in row), f"{count:,}")
    if not record["learning_curve"]:
        return [figures, confusion]
    curve = Table("labels", "accuracy", "spread", title="learning curve, one repeat")
    for point in record["learning_curve"]:
        curve.add_row(f"{point['labels']:,}", f"{point['accuracy']:.4f}", f"{point['spread']:.4f}")
    return [figures, confusion, curve]


def predicted_table(found: dict[str, Any]) -> "Table":
    """How many sources a saved classifier has put into which class."""
    from rich.table import Table

    table = Table("class", "sources", title=f"{found['labels']} predicted")
    for name, count in found["predicted"].items():
        table.add_row(name, f"{count:,}")
    table.add_row("not mapped", f"{found['not_mapped']:,}")
    return table
