"""Run: the main job, ingest to report, doing only what is missing."""

from skysom.cluster.shards import Runtime
from skysom.jobs.config import Config, to_toml
from skysom.jobs.errors import ConfigError
from skysom.jobs.ingest import check_input, ingest
from skysom.jobs.map import map_survey, require_mapped
from skysom.jobs.output import STAGES, Output, Timer
from skysom.jobs.preprocess import preprocess_survey
from skysom.jobs.train import lattice_of, load_map, train, with_batches
from skysom.storage.catalogue import read_catalogue
from skysom.storage.place import Place
from skysom.storage.selection import column_names, select
from skysom.storage.survey import Survey


def run(config: Config, output: Output, runtime: Runtime, *, redo: str | None = None) -> Place:
    """All stages in order, doing what is missing; returns the path of the report.

    redo: a stage whose results, and all after it, are discarded first.
    """
    timer = Timer()
    check_before_start(config, output, redo)
    with output.lock(create=True):
        if redo is not None:
            output.discard(redo, config.som.name)
        ingest(config, output, runtime)
        preprocess_survey(config, output, runtime)
        if config.map.som is None:
            train(config, output, runtime)
        map_survey(config, output, runtime)
        path = report(config, output)
        output.log("run", seconds=timer.seconds, workers=runtime.workers)
    return path


def check_before_start(config: Config, output: Output, redo: str | None = None) -> None:
    """Whatever would stop a later stage is refused before the first, and before anything is discarded."""
    check_input(config, output)
    if redo is not None and redo not in STAGES:
        raise ConfigError(f"--redo {redo}: the stages are {', '.join(STAGES)}")
    if config.map.som is not None and not config.map.som.startswith("som:"):
        load_map(config.map.som, output, config.map.som_layout)
    if config.map.som is None:
        with_batches(config, lattice_of(config), 0)  # refuses what cannot be made in batches
    if config.map.where is not None:
        column_names(config.map.where)  # its syntax; the columns may be results of this run
    where = config.train.where
    if where is not None and config.map.som is None and not select(read_catalogue(config.catalogue), where).any():
        raise ConfigError(f"--train-where {where!r} selects no usable row")


def report(config: Config, output: Output) -> Place:
    """Write report.html anew from what the output holds."""
    from skysom.jobs.preprocess import open_prepared
    from skysom.jobs.report import write_report

    name = config.som.name
    require_mapped(output, name)
    timer = Timer()
    path = write_report(
        output.root,
        mapping=name,
        som=name,
        image_loader=open_prepared(output).rows,
        config_text=to_toml(config),
        title=config.report.title,
    )
    images = len(Survey(output.survey))
    output.log("stage_end", stage="report", key="report", seconds=timer.seconds, images=images)
    return path
