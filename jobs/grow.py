"""Grow: further maps of the sources of some neurons, and those sources mapped onto them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import Field

from skysom.cluster.shards import Runtime
from skysom.engine.lattice import Lattice
from skysom.engine.reading.dispersion import NeuronDistances, neuron_distances
from skysom.engine.reading.growth import child_lattice, neurons_to_grow
from skysom.jobs.config import Config, Strict, load_config
from skysom.jobs.derived import check_names
from skysom.jobs.errors import ConfigError
from skysom.jobs.map import map_survey, write_columns
from skysom.jobs.mapping_reader import MappingReader
from skysom.jobs.output import Output
from skysom.jobs.progress import say
from skysom.jobs.results import MAPPING_COLUMNS, check_whole
from skysom.jobs.train import train
from skysom.storage.selection import column_names
from skysom.storage.survey import Survey


class Growth(Strict):
    """What to grow: the ``neurons`` given, or those that ``dispersion`` and ``least_members`` find, of map ``parent``.

    name : of one map for all of them; None for a map each, PARENT.NEURON. preset, file and settings (dotted keys) are
    those of training and mapping; what they leave open is as for the parent, but on a lattice that fits the sources and
    beginning with some of them.
    redo : maps that were grown of the same neurons are discarded first.
    """

    parent: str = "main"
    neurons: tuple[int, ...] = ()
    dispersion: float | None = None
    least_members: int = 100
    name: str | None = None
    redo: bool = False
    preset: str | None = None
    file: str | None = None
    settings: dict[str, Any] = Field(default_factory=dict)


@dataclass(frozen=True)
class Child:
    """A map that was grown: of which neurons, from how many sources, and their mean distances before and on it.

    neurons : its size; column : where the catalogue has its best-matching units.
    """

    name: str
    of_neurons: tuple[int, ...]
    sources: int
    neurons: int
    before: float
    after: float
    column: str


def neuron_numbers(texts: Sequence[str]) -> tuple[int, ...]:
    """Numbers of ``12,13`` or ``12 13``; ConfigError for anything else."""
    words = [word for text in texts for word in re.split(r"[\s,]+", text) if word]
    if not all(word.isdecimal() for word in words):
        raise ConfigError(f"--neurons {' '.join(texts)!r}: give numbers of neurons, for example 12,13")
    return tuple(sorted({int(word) for word in words}))


def grow(growth: Growth, output: Output, runtime: Runtime) -> list[Child]:
    """Train and map every further map; finished ones are left as they are, so that the same call goes on after a kill.

    The sources of a neuron are those whose best-matching unit it is in mapping ``parent``. Each further map is trained
    and mapped by the jobs `train` and `map_survey`, with an expression on the parent's column, and its columns stand
    beside the parent's under its own name. Where the parent's have no suffix, bmu and so on become the parent's first,
    if another mapping came later. Call it while holding the output's lock.

    Raises ConfigError where no neuron is to grow, one is not of the map or has no sources, or a name is taken;
    MissingStageError where the parent is not mapped.
    """
    reader = MappingReader(output, growth.parent)
    survey, lattice = Survey(output.survey, "r+"), reader.lattice
    check_whole(output.catalogue, survey.column("source_id"))
    found = neuron_distances(reader.best_units(), survey.column(f"mappings/{growth.parent}/bmu_distance"), lattice.size)
    neurons = _neurons(growth, found, lattice)
    suffix = output.recorded()[f"map:{growth.parent}"].get("map.column_suffix")
    column = "bmu" if suffix is None else f"bmu_{suffix}"
    groups = {growth.name: neurons} if growth.name else {f"{growth.parent}.{neuron}": (neuron,) for neuron in neurons}
    recorded = output.recorded()
    begun = {name: recorded[f"train:{name}"] for name in groups if f"train:{name}" in recorded}
    anew = [name for name in begun if growth.redo and begun[name].get("train.where") == _rule(column, groups[name])]
    goes_on = begun.keys() - set(anew)
    configs = {
        name: _config(growth, output, lattice, name, own, column, found, begun=name in goes_on)
        for name, own in groups.items()
    }
    _check(output, {name: config for name, config in configs.items() if name not in anew}, growth.parent)
    for name in anew:  # nothing is discarded for a command that is refused
        output.discard("train", name)
    if suffix is None:
        # They may be of another mapping: the latest one without a suffix.
        write_columns(output, survey, growth.parent)
    return [_grown(output, runtime, configs[name], own, found, growth.parent) for name, own in groups.items()]


def _neurons(growth: Growth, found: NeuronDistances, lattice: Lattice) -> tuple[int, ...]:
    if bool(growth.neurons) == (growth.dispersion is not None):
        raise ConfigError("which neurons are to grow? give --neurons, or --dispersion to find them")
    if growth.dispersion is not None:
        wide = neurons_to_grow(found.hits, found.mean, growth.dispersion, growth.least_members)
        if not len(wide):
            ratio = np.nanmax(found.mean) / np.average(np.nan_to_num(found.mean), weights=found.hits)
            raise ConfigError(
                f"no neuron of {growth.parent!r} with {growth.least_members} members has a mean distance beyond "
                f"{growth.dispersion:g} times that of all sources (the widest of any size has {ratio:.3g} times): the "
                "map has grown enough, or lower --dispersion or --least-members"
            )
        return tuple(wide.tolist())
    beyond = [neuron for neuron in growth.neurons if neuron >= lattice.size]
    empty = [neuron for neuron in growth.neurons if neuron < lattice.size and not found.hits[neuron]]
    if beyond or empty:
        raise ConfigError(
            f"neurons {beyond or empty} of {growth.parent!r} {'are not there' if beyond else 'have no sources'}; it "
            f"has {lattice.size} neurons, {np.count_nonzero(found.hits)} of them with sources"
        )
    return growth.neurons


def _config(
    growth: Growth,
    output: Output,
    lattice: Lattice,
    name: str,
    neurons: tuple[int, ...],
    column: str,
    found: NeuronDistances,
    *,
    begun: bool,
) -> Config:
    """The configuration of a child: what it was ``begun`` with, or the parent's with a lattice of its own."""
    if begun:
        remembered = output.remembered(name)
    else:
        attrs = Survey(output.survey).load_som_attrs(growth.parent)
        remembered = output.remembered(growth.parent)
        remembered |= {f"som.{key}": attrs["geometry"][key] for key in ("neuron_side", "region", "region_side", "flip")}
        small = child_lattice(lattice, int(found.hits[list(neurons)].sum()))
        sides = {key: getattr(small, key) for key in ("width", "height", "depth", "periodic")}
        remembered |= {"som.lattice": small.kind} | {f"som.{key}": value for key, value in sides.items()}
        remembered["som.init"] = "samples"  # few images do not fill neurons of noise
        if remembered.get("train.batch_size") != 1:
            remembered["train.batch_size"] = None  # that of the parent fits more images
    rule = _rule(column, neurons)
    own = {"som.name": name, "train.where": rule, "map.where": rule, "map.som": None, "map.column_suffix": _word(name)}
    return load_config(growth.preset, growth.file, growth.settings | own, remembered)


def _rule(column: str, neurons: tuple[int, ...]) -> str:
    """The expression of the sources of ``neurons``."""
    return f"{column} == {neurons[0]}" if len(neurons) == 1 else f"{column} in {list(neurons)}"


def _word(name: str) -> str:
    """A name as it can stand in a column that expressions name."""
    return re.sub(r"\W", "_", name, flags=re.ASCII)


def _check(output: Output, configs: dict[str, Config], parent: str) -> None:
    """ConfigError, before any training, where names are taken, or a child is of what the parent was earlier."""
    survey = Survey(output.survey)
    recorded, there = output.recorded(), survey.som_names()
    present = survey.load_som(parent)[1]["sha256"]
    for name, config in configs.items():
        before = recorded.get(f"train:{name}")
        other = before is not None and before.get("train.where") != config.train.where
        if other or (before is None and name in there):
            rule = f", of {before.get('train.where') or 'all rows'!r}" if before is not None else ""
            raise ConfigError(f"there is a map {name!r} already{rule}; give this one another name with --name")
        if name in there and survey.load_som_attrs(name).get("parent_sha256", present) != present:
            raise ConfigError(
                f"the map {name!r} was grown from another {parent!r} than there is now; grow it anew with --redo, or "
                "give this one another name with --name"
            )
        column_names(str(config.train.where))  # of very many neurons it is longer than expressions may be
        columns = [f"{column}_{config.map.column_suffix}" for column in MAPPING_COLUMNS]
        check_names(output, columns, f"map --som-name {name}")


def _grown(
    output: Output, runtime: Runtime, config: Config, neurons: tuple[int, ...], parent: NeuronDistances, name: str
) -> Child:
    """One child of map ``name``: trained, marked with where it comes from, and its sources mapped."""
    child = config.som.name
    say(f"grow: {child!r} from neurons {list(neurons)} of {name!r}")
    train(config, output, runtime)
    survey = Survey(output.survey, "r+")
    origin = {"parent": name, "parent_neurons": list(neurons), "parent_sha256": survey.load_som(name)[1]["sha256"]}
    survey.group[f"soms/{child}"].attrs.update(origin)
    map_survey(config, output, runtime)
    distance = Survey(output.survey).column(f"mappings/{child}/bmu_distance")
    mapped = np.isfinite(distance)
    weights = parent.hits[list(neurons)]
    return Child(
        child,
        neurons,
        int(np.count_nonzero(mapped)),
        int(survey[f"soms/{child}/weights"].shape[0]),
        float(np.average(parent.mean[list(neurons)], weights=weights)),
        float(distance[mapped].mean(dtype=np.float64)),
        f"bmu_{config.map.column_suffix}",
    )
