"""Reweight: the effect of other channel weights on the distances, before a map is trained with them."""

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from skysom.cluster.executors import one_thread
from skysom.cluster.tables import rows_where
from skysom.engine.geometry import Geometry
from skysom.engine.preprocess import balanced_weights
from skysom.engine.reading.weighing import Weighing, even_weights, weigh
from skysom.jobs.errors import ConfigError
from skysom.jobs.map import check_fits
from skysom.jobs.output import Output
from skysom.jobs.preprocess import open_prepared
from skysom.jobs.results import check_rows
from skysom.jobs.train import check_usable
from skysom.jobs.training_judge import sampled_rows
from skysom.storage.survey import Survey

Proposal = tuple[float, ...] | Literal["median_sum", "even"]
EVEN_ROUNDS = 4
"""Even weights are found anew so many times: units and transforms change with them."""
NEURONS_WITHOUT_A_MAP = 25
"""Images that stand for neurons where there is no map yet."""
ROTATIONS_WITHOUT_A_MAP = 36


@dataclass(frozen=True)
class Channel:
    """One channel: its weight now and as proposed, and its share of the squared distances with each."""

    channel: str
    median_sum: float
    weight: float
    share: float
    new_weight: float
    new_share: float


@dataclass(frozen=True)
class Effect:
    """What a proposal does: a row a channel, and the share of the images that get another best-matching unit."""

    images: int
    against: str
    rows: list[Channel]
    moved: float


def proposal(text: str) -> Proposal:
    """Weights of ``0.95,0.05``, or the name of a rule; ConfigError for anything else."""
    rules: dict[str, Proposal] = {"median_sum": "median_sum", "even": "even"}
    if text in rules:
        return rules[text]
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"--weights {text!r}: give numbers as 0.95,0.05, or median_sum, or even") from None


def reweight(
    output: Output,
    wanted: Proposal,
    som_name: str | None = None,
    *,
    images: int = 500,
    where: str | None = None,
    seed: int = 1234,
) -> Effect:
    """The effect of the weights ``wanted`` on the distances of a sample of usable images to a map.

    To the map ``som_name``, "main" where there is one, or else to 25 further images as if they were neurons.
    "median_sum" proposes what preprocessing does by that name, "even" weights that give all channels the same share.
    Reads only.

    Raises ConfigError for a survey of one channel, a map that does not fit the images, or a sample of fewer than two;
    ReadingError for weights that are not a positive number a channel.
    """
    reader, survey = open_prepared(output), Survey(output.survey)
    check_usable(output)
    channels = [str(name) for name in survey.attrs["channels"]]
    if len(channels) < 2:
        raise ConfigError(f"{output.root} has {len(channels)} channel; weights are for two or more")
    usable = survey.column("ok")
    if where is not None:
        check_rows(output.catalogue, len(survey))
        usable &= rows_where(output.catalogue, where)
    unweighted = replace(reader, weights=(1.0,) * len(channels))
    name = som_name or ("main" if "main" in survey.som_names() else None)
    spare = NEURONS_WITHOUT_A_MAP if name is None else 0
    rows = sampled_rows(np.flatnonzero(usable), images + spare, seed)
    if len(rows) < 2:
        raise ConfigError(f"{len(rows)} usable rows to weigh channels by; two or more are needed")
    sample = unweighted.rows(rows)
    if name is None:
        neurons, geometry, sample = _as_neurons(sample)
        before, against = reader.weights, f"{len(neurons)} other images, as there is no map yet"
    else:
        weights, attrs = survey.load_som(name)
        geometry, before = Geometry(**attrs["geometry"]), tuple(attrs.get("channel_weights", reader.weights))
        check_fits(attrs, geometry, weights, survey.attrs)
        neurons, against = weights / np.asarray(before, np.float32)[:, None, None], f"the map {name!r}"

    def shares(factors: Any) -> Weighing:
        return one_thread(weigh, sample, neurons, geometry, factors)

    now = shares(before)
    new = _proposed(wanted, survey, usable, now, shares)
    sums = np.median(survey.column("channel_sum")[usable], axis=0)
    told = zip(channels, sums, now.weights, now.share, new.weights, new.share, strict=True)
    moved = float(np.mean(now.bmu != new.bmu))
    return Effect(len(sample), against, [Channel(c, *map(float, values)) for c, *values in told], moved)


def _proposed(wanted: Proposal, survey: Survey, usable: np.ndarray, now: Weighing, shares: Any) -> Weighing:
    if wanted == "median_sum":
        return shares(balanced_weights(survey.column("channel_sum")[usable]))
    if wanted != "even":
        return shares(wanted)
    for _ in range(EVEN_ROUNDS):
        now = shares(even_weights(now))
    return now


def _as_neurons(sample: np.ndarray) -> tuple[np.ndarray, Geometry, np.ndarray]:
    """Some images of a sample as neurons, the geometry of a search against them, and the images that are left."""
    from skysom.engine.transforms import transform

    count = min(NEURONS_WITHOUT_A_MAP, len(sample) // 2)
    # The sample is in catalogue order: neurons from all over it.
    chosen = np.linspace(0, len(sample) - 1, count).round().astype(int)
    geometry = Geometry.derive(sample.shape[2], ROTATIONS_WITHOUT_A_MAP, region="circular")
    neurons = np.stack([transform(image, 0, geometry) for image in sample[chosen]]).astype(np.float32)
    return neurons, geometry, np.delete(sample, chosen, axis=0)
