"""A saved classifier: classifier.skops, and classifier.json that says for which map and features it is."""

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

from skysom.engine.reading.classifier_bytes import from_bytes, to_bytes
from skysom.engine.reading.classifiers import Classifier
from skysom.engine.reading.features import FeatureSettings
from skysom.jobs.errors import ConfigError, MissingStageError
from skysom.jobs.mapping_reader import MappingReader
from skysom.storage import place as places
from skysom.storage.place import Place, place, write_atomically

FILE = "classifier.skops"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class Context:
    """What a classifier is for: whatever its features depend on, and the column its classes come from.

    distances : "exact" (also certified) or "polar", which are distances of different kinds.
    learned_ids : the sources it was learned from; what it says of them is no test of it.
    """

    labels: str
    features: FeatureSettings
    som_sha256: str | None
    geometry: dict[str, Any]
    chain: list[Any]
    channel_weights: list[float]
    distances: str
    learned_ids: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        values = asdict(self)
        values["features"]["excluded"] = list(self.features.excluded)
        return json.loads(json.dumps(values))


def context_of(
    reader: MappingReader, labels: str, features: FeatureSettings, channel_weights: tuple[float, ...]
) -> Context:
    """The context of a classifier on a mapping."""
    kind = "polar" if reader.attrs.get("method") == "polar" else "exact"
    chain = reader.survey.attrs.get("chain", [])
    sha256 = reader.attrs.get("som_sha256")
    return Context(labels, features, sha256, reader.attrs["geometry"], chain, list(channel_weights), kind)


def save(root: Place, classifier: Classifier, context: Context) -> None:
    """Write both files into ``root``, each whole or not at all; the second one carries the hash of the first."""
    data = to_bytes(classifier)
    write_atomically(root / FILE, data)
    content = {
        "format_version": FORMAT_VERSION,
        "sha256": hashlib.sha256(data).hexdigest(),
        "method": classifier.method,
        "classes": list(classifier.classes),
        **context.as_dict(),
    }
    write_atomically((root / FILE).with_suffix(".json"), (json.dumps(content, indent=1) + "\n").encode())


def load(path: str | Place) -> tuple[Classifier, Context]:
    """The classifier at ``path`` (classifier.skops, or the output that holds it) and what it is for.

    Raises
    ------
    MissingStageError : none there. ConfigError : the two files are not of one classifier, or damaged. ReadingError : a
    file that is no classifier of skysom, see `from_bytes`.
    """
    where = place(path)
    if places.is_dir(where):
        where = where / FILE
    try:
        data, text = places.read_bytes(where), places.read_bytes(where.with_suffix(".json"))
    except FileNotFoundError as error:
        raise MissingStageError(f"no classifier at {where} ({error}); make one with `skysom classify`") from None
    try:
        content = json.loads(text)
        found = {key: content[key] for key in ("som_sha256", "geometry", "chain", "channel_weights", "distances")}
        learned = tuple(str(source) for source in content["learned_ids"])
        context = Context(
            content["labels"], FeatureSettings.from_dict(content["features"]), **found, learned_ids=learned
        )
        wanted, version = content["sha256"], content["format_version"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        if isinstance(error, ValueError) and not isinstance(error, json.JSONDecodeError | UnicodeDecodeError):
            raise
        raise ConfigError(f"{where.with_suffix('.json')} is damaged ({error}); classify again") from None
    if version != FORMAT_VERSION:
        raise ConfigError(f"{where} has format {version!r}, this skysom reads {FORMAT_VERSION}; classify again")
    sha256 = hashlib.sha256(data).hexdigest()
    if sha256 != wanted:
        raise ConfigError(
            f"{where} is not the classifier its description is of:\n  sha256 of the file: {sha256}\n"
            f"  in the description: {wanted}\nclassify again"
        )
    return from_bytes(data), context


def check_fits(context: Context, reader: MappingReader, own: Context) -> None:
    """ConfigError unless a classifier of ``context`` may be used on the mapping whose context is ``own``."""
    if context.som_sha256 is None or context.som_sha256 != own.som_sha256:
        raise ConfigError(
            f"the classifier is for another map than that of the mapping {reader.name!r}:\n"
            f"  map of the classifier: {context.som_sha256 or 'unknown'}\n"
            f"  map of the mapping:    {own.som_sha256 or 'unknown'}\n"
            "map onto the classifier's map with `skysom map --som`, or make a classifier for this one"
        )
    theirs, mine = context.as_dict(), own.as_dict()
    for key in ("geometry", "chain", "channel_weights", "distances"):
        if theirs[key] != mine[key]:
            raise ConfigError(
                f"the classifier was made for another {key.replace('_', ' ')}: {theirs[key]}; the mapping "
                f"{reader.name!r} has {mine[key]}; map again as it was, or make a classifier for this mapping"
            )
