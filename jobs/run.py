"""Run: the main job, ingest to report, doing only what is missing."""

from pathlib import Path

from skysom.cluster.shards import Runtime
from skysom.jobs.config import Config, to_toml
from skysom.jobs.errors import ConfigError
from skysom.jobs.ingest import ingest
from skysom.jobs.map import map_survey
from skysom.jobs.output import STAGES, Output, Timer
from skysom.jobs.preprocess import preprocess_survey
from skysom.jobs.train import load_map, train
from skysom.storage.catalogue import read_catalogue, select
from skysom.storage.survey import Survey, remove_tree


def run(config: Config, output: Output, runtime: Runtime) -> Path:
    """All stages in order; returns the path of the report."""
    timer = Timer()
    check_before_start(config, output)
    with output.lock():
        ingest(config, output, runtime)
        preprocess_survey(config, output, runtime)
        if config.map.som is None:
            train(config, output)
        map_survey(config, output, runtime)
        path = report(config, output)
        output.log("run", seconds=timer.seconds, workers=runtime.workers)
    return path


def check_before_start(config: Config, output: Output) -> None:
    """Whatever would stop a later stage is refused before the first: the selection and the published map."""
    if config.map.som is not None and not config.map.som.startswith("som:"):
        load_map(config.map.som, output, config.map.som_layout)
    where = config.train.where
    if where is not None and config.map.som is None and not output.catalogue.exists() and config.catalogue:
        if not Path(config.catalogue).is_file():
            raise ConfigError(f"cannot read --catalogue {config.catalogue}: no such file")
        if not select(read_catalogue(config.catalogue), where).any():
            raise ConfigError(f"--train-where {where!r} selects no usable row")


def report(config: Config, output: Output) -> Path:
    """Write report.html anew from what the output holds."""
    from skysom.jobs.preprocess import open_prepared
    from skysom.jobs.report import write_report

    name = config.som.name
    output.need(f"map:{name}", "skysom map")
    timer = Timer()
    path = write_report(
        output.root,
        mapping=name,
        som=name,
        image_loader=open_prepared(output).rows,
        config_text=to_toml(config),
        title=config.report.title,
    )
    output.log("stage_end", stage="report", key="report", seconds=timer.seconds, images=len(Survey(output.survey)))
    return path


def redo(output: Output, stage: str) -> None:
    """Discard the results of ``stage`` and of all stages after it.

    Raises ConfigError for an unknown stage.
    """
    if stage not in STAGES:
        raise ConfigError(f"--redo {stage}: the stages are {', '.join(STAGES)}")
    discarded = STAGES[STAGES.index(stage) :]
    keys = [key for key in output.recorded() if key.partition(":")[0] in discarded]
    output.forget(*keys)
    output.checkpoint.unlink(missing_ok=True)
    if not output.survey.exists():
        return
    if stage == "ingest":
        remove_tree(output.survey)
        output.catalogue.unlink(missing_ok=True)
        return
    survey = Survey(output.survey, "r+")
    if "map" in discarded:
        remove_tree(output.survey / "mappings")
    if "train" in discarded:
        remove_tree(output.survey / "soms")
    if "preprocess" in discarded:
        for name in ("prepared", "channel_sum", "prepared_status", "ok", "redshift"):
            remove_tree(output.survey / name)
        for name in ("channel_weights", "chain", "prepared_side"):
            survey.group.attrs.pop(name, None)
