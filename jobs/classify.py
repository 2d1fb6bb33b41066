"""Classify: what labelled sources have in common is learned, tested on others, and told of every mapped source."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from skysom.engine.reading import classifiers
from skysom.engine.reading.classifiers import Classifier, CrossValidation, LearningPoint, Method
from skysom.engine.reading.features import FeatureSettings, feature_matrix, feature_names
from skysom.engine.reading.folds import LEAST_MEMBERS, Fold, merge_rare, split_folds
from skysom.jobs import classifier_file
from skysom.jobs.analysis import label_column, plain
from skysom.jobs.classifier_file import Context, context_of
from skysom.jobs.derived import Maker, add_derived, check_names, makers, write_makers
from skysom.jobs.errors import ConfigError
from skysom.jobs.mapping_reader import MappingReader, prepared_as_mapped
from skysom.jobs.output import Output
from skysom.jobs.preprocess import PreparedReader
from skysom.jobs.progress import Progress, say
from skysom.jobs.results import selected_rows, update_catalogue
from skysom.storage import place as places
from skysom.storage.place import Place, write_atomically

JOB = "classify"
FILE = "classification.json"
MOST_COLUMNS = 20
"""More classes than this get no column of probability each, only that of the likeliest."""


@dataclass(frozen=True)
class Options:
    """How to classify.

    method : None chooses by the number of labelled sources. sky_degrees : folds are apart on the sky by this angle;
    None: they are not. merge_rare : classes with too few members become one of this name; None: they are refused.
    curve : whether accuracy against the number of labels is measured.
    """

    method: Method | None = None
    features: FeatureSettings = field(default_factory=FeatureSettings)
    folds: int = 10
    repeats: int = 5
    sky_degrees: float | None = None
    merge_rare: str | None = None
    seed: int = 0
    curve: bool = True
    cores: int = 1


@dataclass(frozen=True)
class Sources:
    """The features of the rows of a mapping: read in shards, or for single rows."""

    reader: MappingReader
    prepared: PreparedReader | None
    settings: FeatureSettings

    def of(self, rows: np.ndarray) -> np.ndarray:
        """Features (n, m) float32 of mapped rows (n,)."""
        images = None if self.prepared is None else self.prepared.rows(rows)
        distance = None if self.settings.transform is None else self.reader.rows("distance", rows)
        return feature_matrix(self.settings, self.reader.geometry, distance, images)

    def blocks(self) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """First row, features (n, m) of the mapped rows of a block of rows, and which (n,) int64 those are."""
        arrays = ["bmu"] if self.settings.transform is None else ["bmu", "distance"]
        for block in self.reader.blocks(arrays, rows=None if self.prepared is None else 1):
            mapped = np.flatnonzero(block["bmu"] >= 0)
            if not len(mapped):
                continue
            images = None
            if self.prepared is not None:
                images = self.prepared.prepared(self.prepared.fetch(block.start, block.stop))[mapped]
            distance = block["distance"][mapped] if "distance" in block.arrays else None
            features = feature_matrix(self.settings, self.reader.geometry, distance, images)
            yield block.start, features, block.start + mapped


def open_sources(output: Output, reader: MappingReader, settings: FeatureSettings) -> Sources:
    """Sources of a mapping with the features ``settings`` wants.

    ConfigError where the mapping has not kept all distances; MissingStageError where there are no images.
    """
    if settings.transform is not None and reader.keep is not None:
        raise ConfigError(
            f"the mapping {reader.name!r} keeps the best {reader.keep} of {reader.neurons} neurons, and the distances "
            "to all are features; use amplitudes only (--no-distances), or keep all in another mapping: "
            f"`skysom map --output {output.root} --som som:{reader.name} --som-name all`, then --som-name all"
        )
    if not settings.orders:
        return Sources(reader, None, settings)
    return Sources(reader, prepared_as_mapped(reader), settings)


def classify(output: Output, name: str, labels: str, where: str | None, options: Options) -> dict[str, Any]:
    """Learn the classes of a column, test it, save the classifier and tell of every mapped row; returns the record.

    Call it while holding the output's lock. Writes classification.json, classifier.skops and classifier.json, and the
    columns LABELS_predicted, LABELS_probability, LABELS_learned and, for up to 20 classes, LABELS_probability_CLASS.
    What a row was learned from gets what the folds say that have not learned from it.

    Parameters
    ----------
    name : of the mapping. labels : column of the catalogue with classes; rows without one are not learned from.
    where : only rows for which this expression on catalogue columns holds are learned from.

    Raises
    ------
    MissingStageError : no mapping. ConfigError : an unknown column or one of a measurement or of predictions, no
    labelled row that is selected and mapped, a mapping without all distances. ReadingError : rare classes, folds that
    cannot be made apart on the sky.
    """
    reader = MappingReader(output, name)
    reader.check_map()
    maker = makers(output.private).get(labels)
    if maker is not None and maker.job == JOB:
        raise ConfigError(f"{labels!r} is what `skysom classify` predicted; learn from the column it was made from")
    if maker is not None and maker.mapping == name:
        raise ConfigError(
            f"{labels!r} was carried over from the neurons of this very mapping by `skysom {maker.job}`: a classifier "
            "would be tested on what it learned from; give a column of labels of sources"
        )
    rows, classes = learned_rows(output, reader, labels, where)
    if options.merge_rare is not None:
        classes = merge_rare(classes, max(options.folds, LEAST_MEMBERS), options.merge_rare)
    options = replace(options, method=options.method or classifiers.method_for(len(rows)))
    folds = _folds(reader, rows, classes, options)
    names = column_names(labels, sorted(set(classes.tolist())))
    check_names(output, names, JOB)
    sources = open_sources(output, reader, options.features)
    blocks = feature_names(options.features, reader.geometry, neurons=reader.neurons, channels=_channels(sources))[1]
    features = sources.of(rows)
    tested, curve, classifier = _learned(features, classes, folds, blocks, options)
    weights = () if sources.prepared is None else sources.prepared.weights
    ids = reader.survey.column("source_id")
    context = context_of(reader, labels, options.features, weights)
    context = replace(context, learned_ids=tuple(str(source) for source in ids[rows]))
    output.check()
    places.remove(output.root / FILE)  # of another classifier than there is from here on
    classifier_file.save(output.root, classifier, context)
    probabilities = _predicted(sources, classifier)
    probabilities[rows] = tested.probabilities
    add_columns(output, reader, labels, classifier.classes, probabilities, rows)
    record = _record(reader, labels, where, options, tested, curve, context, names)
    write_atomically(output.root / FILE, (json.dumps(plain(record), indent=1, allow_nan=False) + "\n").encode())
    output.log(JOB, stage=JOB, mapping=name, labels=labels, where=where, accuracy=tested.accuracy, learned=len(rows))
    return record


def apply_classifier(output: Output, name: str, path: str | Place) -> dict[str, Any]:
    """Tell of every mapped row of ``name`` what a saved classifier says; returns how many rows got which class.

    Call it while holding the output's lock; it adds the same columns as `classify`. Raises ConfigError for a classifier
    of another map, geometry or preprocessing, and as `classifier_file.load`.
    """
    classifier, context = classifier_file.load(path)
    reader = MappingReader(output, name)
    reader.check_map()
    sources = open_sources(output, reader, context.features)
    weights = () if sources.prepared is None else sources.prepared.weights
    classifier_file.check_fits(context, reader, context_of(reader, context.labels, context.features, weights))
    check_names(output, column_names(context.labels, classifier.classes), JOB)
    probabilities = _predicted(sources, classifier)
    known = set(context.learned_ids)
    learned = np.flatnonzero([str(source) in known for source in reader.survey.column("source_id").tolist()])
    add_columns(output, reader, context.labels, classifier.classes, probabilities, learned)
    if len(learned):
        say(f"classify: {len(learned):,} of these sources were learned from ({context.labels}_learned): no test of it")
    found = classifiers.likeliest(probabilities)
    counts = np.bincount(found[found >= 0], minlength=len(classifier.classes))
    output.log(JOB, stage=JOB, mapping=name, labels=context.labels, classifier=str(path))
    return {
        "labels": context.labels,
        "predicted": dict(zip(classifier.classes, counts.tolist(), strict=True)),
        "not_mapped": int(np.count_nonzero(found < 0)),
    }


def learned_rows(
    output: Output, reader: MappingReader, labels: str, where: str | None
) -> tuple[np.ndarray, np.ndarray]:
    """Rows (n,) int64 that have a label, are selected and mapped, and the class (n,) of text of each.

    ConfigError where there are none, with how many fail at what.
    """
    codes, found = label_column(output.catalogue, labels, len(reader))
    names = np.array([str(int(v)) if isinstance(v, float) and v.is_integer() else str(v) for v in found])
    labelled = codes >= 0
    chosen = np.ones(len(codes), bool) if where is None else selected_rows(output.catalogue, where)
    mapped = reader.survey.column(f"{reader.group}/bmu") >= 0
    rows = np.flatnonzero(labelled & chosen & mapped)
    if not len(rows):
        selected = "" if where is None else f", {int((labelled & chosen).sum()):,} of them selected by {where!r}"
        raise ConfigError(
            f"no row can be learned from: {int(labelled.sum()):,} of {len(codes):,} have a label in {labels!r}"
            f"{selected}, and none of these has a neuron of {reader.name!r}; label mapped sources, or change --where"
        )
    return rows, names[codes[rows]]


def _folds(reader: MappingReader, rows: np.ndarray, classes: np.ndarray, options: Options) -> list[Fold]:
    position = None
    if options.sky_degrees is not None:
        if "ra_deg" not in reader.survey:
            raise ConfigError("--sky-degrees needs positions, and this survey has none; leave it out")
        position = (reader.survey.column("ra_deg")[rows], reader.survey.column("dec_deg")[rows])
    return split_folds(
        classes,
        options.folds,
        options.repeats,
        seed=options.seed,
        position_deg=position,
        apart_deg=options.sky_degrees,
    )


def _channels(sources: Sources) -> int:
    return 1 if sources.prepared is None else len(sources.prepared.weights)


def _learned(
    features: np.ndarray, classes: np.ndarray, folds: list[Fold], blocks: np.ndarray, options: Options
) -> tuple[CrossValidation, list[LearningPoint], Classifier]:
    """What cross-validation finds, the learning curve of its first repeat, and the classifier of all sources."""
    method = options.method or classifiers.method_for(len(classes))
    seed, cores = options.seed, options.cores
    with Progress("cross-validation", "folds") as progress:
        tested = classifiers.cross_validate(
            features, classes, folds, method, blocks=blocks, seed=seed, cores=cores, tell=progress
        )
    curve = []
    if options.curve:
        first = [fold for fold in folds if fold.repeat == 0]
        with Progress("learning curve", "fits") as progress:
            curve = classifiers.learning_curve(
                features, classes, first, method, blocks=blocks, seed=seed, cores=cores, tell=progress
            )
    return tested, curve, classifiers.fit_classifier(features, classes, method, blocks=blocks, seed=seed, cores=cores)


def _predicted(sources: Sources, classifier: Classifier) -> np.ndarray:
    """Probabilities (rows, K) float32 of all rows of the survey, NaN where not mapped."""
    rows = len(sources.reader)
    found = np.full((rows, len(classifier.classes)), np.nan, np.float32)
    with Progress("predict") as progress:
        for start, features, mapped in sources.blocks():
            progress(start, rows)
            found[mapped] = classifier.probabilities(features)
        progress(rows, rows)
    return found


def column_names(labels: str, classes: Any) -> list[str]:
    """Names of the columns of predictions of the column ``labels``."""
    names = [f"{labels}_predicted", f"{labels}_probability", f"{labels}_learned"]
    return names + ([f"{labels}_probability_{name}" for name in classes] if len(classes) <= MOST_COLUMNS else [])


def add_columns(
    output: Output,
    reader: MappingReader,
    labels: str,
    classes: tuple[str, ...],
    probabilities: np.ndarray,
    learned: np.ndarray,
) -> None:
    """Predictions into the catalogue, missing where a row is not mapped; columns of classes no longer there go."""
    import pandas as pd

    best = classifiers.likeliest(probabilities)
    texts = pd.array(np.array(classes, object)[np.maximum(best, 0)], dtype="string")
    texts[best < 0] = pd.NA
    from_it = np.zeros(len(best), bool)
    from_it[learned] = True
    values = [texts, probabilities.max(axis=1), from_it]
    names = column_names(labels, classes)
    values += [probabilities[:, i] for i in range(len(names) - len(values))]
    add_derived(output, dict(zip(names, values, strict=True)), Maker(JOB, reader.name))
    known = makers(output.private)
    stale = tuple(
        name
        for name, maker in known.items()
        if maker.job == JOB and name.startswith(f"{labels}_probability_") and name not in names
    )
    if stale:
        update_catalogue(output.catalogue, {}, reader.survey.shard_images, drop=stale)
        write_makers(output.private, {name: maker for name, maker in known.items() if name not in stale})


def _record(
    reader: MappingReader,
    labels: str,
    where: str | None,
    options: Options,
    tested: CrossValidation,
    curve: list[LearningPoint],
    context: Context,
    columns: list[str],
) -> dict[str, Any]:
    """classification.json, in plain values."""
    majority = float(tested.counts.max() / tested.counts.sum())
    return {
        "map": reader.name,
        "som_sha256": reader.attrs.get("som_sha256"),
        "config_hash": reader.attrs.get("config_hash"),
        "labels": labels,
        "where": where,
        "method": options.method,
        "seed": options.seed,
        "folds": tested.folds,
        "repeats": tested.repeats,
        "sky_degrees": options.sky_degrees,
        "classes": list(tested.classes),
        "counts": tested.counts,
        "accuracy": tested.accuracy,
        "accuracy_spread": tested.accuracy_spread,
        "balanced_accuracy": tested.balanced_accuracy,
        "majority_share": majority,
        "confusion": tested.confusion,
        "confusion_is": "rows: labelled, columns: predicted; sources, mean over repeats",
        "brier_score": tested.brier,
        "calibration_error": tested.calibration_error,
        "fold_accuracies": tested.accuracies,
        "learning_curve": [asdict(point) for point in curve],
        "features": context.as_dict()["features"],
        "distances": context.distances,
        "columns": columns,
    }


def said(record: dict[str, Any]) -> None:
    """One line for the user."""
    say(
        f"classify: {sum(record['counts']):,} sources of {len(record['classes'])} classes learned from; "
        f"{record['accuracy']:.3f} +- {record['accuracy_spread']:.3f} right of those not learned from"
    )
