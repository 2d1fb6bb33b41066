"""What is planned: a survey that is there, with what its files and its history tell, or one that is described."""

import json
import math
from dataclasses import dataclass, field, replace
from typing import Any

from skysom.cluster.costs import Workload
from skysom.engine.geometry import Geometry
from skysom.jobs import plan_rates
from skysom.jobs.config import Config
from skysom.jobs.errors import ConfigError
from skysom.jobs.map_method import affordable
from skysom.jobs.output import Output
from skysom.jobs.plan_rates import Rate
from skysom.jobs.train import geometry_of
from skysom.storage.jsonlines import JsonLines
from skysom.storage.place import exists
from skysom.storage.survey import Survey


@dataclass(frozen=True)
class Machines:
    """What the run gets: worker processes in all, machines, GPUs in all (0: search on cores).

    memory_gb of one machine; store_gb_s, GB a second of the store they share (None: not known).
    """

    workers: int
    nodes: int = 1
    gpus: int = 0
    memory_gb: float = 8.0
    store_gb_s: float | None = None

    @property
    def searchers(self) -> int:
        """Workers that search: one a GPU, or all."""
        return self.gpus or self.workers

    def per_node(self, workers: int) -> int:
        """Most of ``workers`` on one machine."""
        return math.ceil(workers / self.nodes)


@dataclass(frozen=True)
class StagePlan:
    """One stage: bytes uncompressed, operations of matrix products, memory of a worker in bytes, times in seconds.

    images counts presentations in training; stored is what stays, compressed as far as that is known; limit says
    what sets the time, rate_source where the rate comes from.
    """

    stage: str
    images: int
    workers: int
    read_bytes: int
    written_bytes: int
    operations: int
    worker_memory_bytes: int
    seconds: float
    images_s: float
    limit: str
    rate_source: str


@dataclass(frozen=True)
class Subject:
    """What is planned: workload, preprocessing chain, training stages and rows, rates that are known already."""

    work: Workload
    chain: list[tuple[str, dict[str, Any]]]
    config: Config
    rates: dict[str, Rate] = field(default_factory=dict)
    stored_share: float | None = None
    stored_source: str = "before compression, which saves little on noise and much on masked images"
    online_s: float | None = None
    """Seconds an image of online training, from the history."""
    place: str = ""

    @property
    def rows(self) -> int:
        """Images of the training selection, at most."""
        return min(self.work.images, self.config.train.sample or self.work.images)


def subject_of_config(config: Config, images: int, side: int, channels: int, neurons: int | None = None) -> Subject:
    """A survey that is not there yet: ``images`` cut-outs of ``side`` pixels; ConfigError where sides do not fit."""
    from skysom.engine.preprocess import output_side

    chain = config.preprocess.chain()
    geometry = map_geometry(config, output_side(chain, side))
    work = Workload(
        images, channels, side, neurons or lattice_size(config), geometry,
        config.ingest.shard_images, config.ingest.store, config.map.keep,
        affordable(config.map, geometry, images).name,
    )  # fmt: skip
    return Subject(work, chain, config)


def subject_of_output(config: Config, output: Output, images: int | None = None) -> Subject:
    """The survey of ``output`` (or one like it with ``images`` rows), with the rates of its history.

    Raises ConfigError where it has no survey store yet.
    """
    if not exists(output.survey):
        raise ConfigError(f"{output.root} has no survey yet; give --images N and --side PIXELS instead of --output")
    survey = Survey(output.survey)
    attrs, count = survey.attrs, len(survey)
    config = config.model_copy(
        update={"ingest": config.ingest.model_copy(update={"shard_images": survey.shard_images})}
    )
    subject = subject_of_config(config, images or count, attrs["image_side"], len(attrs["channels"]))
    if "prepared_side" in attrs and attrs["prepared_side"] != subject.work.geometry.image_side:
        chain = [(str(name), dict(parameters)) for name, parameters in attrs["chain"]]
        geometry = map_geometry(config, attrs["prepared_side"])
        subject = replace(subject, chain=chain, work=replace(subject.work, geometry=geometry))
    name = config.som.name
    same = False
    if f"mappings/{name}" in survey:
        found: dict[str, Any] = survey.group[f"mappings/{name}"].attrs.asdict()
        same = "geometry" not in found or Geometry(**found["geometry"]) == subject.work.geometry
        same &= found.get("method", "exact") == subject.work.method
    events = read_events(output)
    rates = plan_rates.history_rates(events, str(output.root))
    if not same:
        rates.pop("map", None)
    share = plan_rates.stored_share(survey)
    return replace(
        subject,
        rates=rates,
        stored_share=share,
        stored_source=f"compressed as {output.root} is, to {share:.0%}" if share else subject.stored_source,
        online_s=plan_rates.online_history_s(events, name) if _same_training(config, output) else None,
        place=str(output.root),
    )


def read_events(output: Output) -> list[dict[str, Any]]:
    """Events of an output's history, torn lines left out."""
    events = []
    for line in JsonLines(output.history).read():
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict):
            events.append(event)
    return events


def lattice_size(config: Config) -> int:
    """N of the map that a configuration asks for."""
    from skysom.engine.lattice import Cartesian, Hexagonal

    som = config.som
    if som.lattice == "hexagonal":
        return Hexagonal(som.width).size
    return Cartesian(som.width, som.height or som.width, som.depth).size


def map_geometry(config: Config, side: int) -> Geometry:
    """Geometry of the mapping of prepared images of ``side`` pixels."""
    rotations = config.map.rotations or config.train.stages[-1].rotations
    return geometry_of(config, side, rotations)


def _same_training(config: Config, output: Output) -> bool:
    """Whether the recipe and the lattice are those the output was trained with."""
    recorded = output.recorded().get(f"train:{config.som.name}", {})
    flat = config.model_dump(mode="json")
    som_keys = ("lattice", "width", "height", "depth", "neuron_side", "region", "region_side", "flip")
    same = all(recorded.get(f"som.{key}") == flat["som"][key] for key in som_keys)
    return same and recorded.get("train.stages") == flat["train"]["stages"]
