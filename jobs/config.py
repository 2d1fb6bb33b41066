"""The typed configuration of a run: presets, a TOML file and flags, in that order of precedence.

Every table is a pydantic model that refuses unknown keys. Preprocessing steps are typed by the
signatures of `skysom.engine.preprocess.STEPS`, so that a new step needs no second declaration.
"""

import inspect
import json
import tomllib
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    create_model,
    field_validator,
    model_validator,
)

from skysom.jobs.errors import ConfigError
from skysom.storage.place import Place, open_binary, place

Positive = Annotated[int, Field(gt=0)]
MapMethod = Literal["certified", "exact", "polar"]


MOST_ROTATIONS = 65536
"""Rotations are stored as 16-bit numbers."""


def check_rotations(value: int) -> int:
    """ValueError unless ``value`` is 1 or a multiple of 4 that can be stored."""
    if value != 1 and (value < 1 or value % 4):
        raise ValueError(f"rotations is {value}; use 1 or a multiple of 4")
    if value > MOST_ROTATIONS:
        raise ValueError(f"rotations is {value}; at most {MOST_ROTATIONS} can be stored")
    return value


def check_batch_size(value: int) -> int:
    """ValueError unless ``value`` is 1 (online) or whole blocks of 32."""
    if value != 1 and value % 32:
        raise ValueError(f"batch_size is {value}; use 1 (online training) or a multiple of 32, the block of a search")
    return value


class Strict(BaseModel):
    """A table whose unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Ingest(Strict):
    """Where cut-outs come from and how they are kept."""

    id_column: str | None = Field(None, description="column of source ids; else source_id, name, or the row number")
    ra_column: str = Field("ra", description="right ascension in degrees (ICRS)")
    dec_column: str = Field("dec", description="declination in degrees (ICRS)")
    filename_column: str = Field("filename", description="column of cut-out files; it wins over positions")
    redshift_column: str | None = Field(None, description="column for preprocessing to a physical scale")
    side_pixels: int | None = Field(None, ge=2, le=4096, description="cut-out side; default: that of the files, or 128")
    pixel_scale_arcsec: float | None = Field(None, gt=0, description="resample every cut-out to this scale")
    channels: tuple[str, ...] = Field((), description="names of the channels, in the order of --images")
    image_unit: str = Field("Jy/beam", description="unit of the pixel values")
    store: Literal["float32", "float16", "none"] = Field("float32", description="'none' cuts on the fly")
    shard_images: Positive = Field(256, multiple_of=64, description="rows written together, by one writer")


class Preprocess(Strict):
    """What is done to a cut-out before the map sees it."""

    steps: tuple[Any, ...] = Field((), description="list of {step = NAME, parameter = value, ...}, in order")
    channel_weights: Literal["none", "median_sum"] | tuple[float, ...] = Field(
        "none", description="a number a channel, or 'median_sum': equal median sums"
    )

    @field_validator("steps", mode="before")
    @classmethod
    def _typed_steps(cls, steps: Any) -> Any:
        if not isinstance(steps, list | tuple):
            raise ValueError(f"{steps!r} is not a list of steps; write [{{ step = 'NAME', ... }}, ...]")
        return tuple(_validate_step(step) for step in steps)

    def chain(self) -> list[tuple[str, dict[str, Any]]]:
        """Steps as `skysom.engine.preprocess.preprocess` takes them."""
        return [(step["step"], {k: v for k, v in step.items() if k != "step"}) for step in self.steps]


class Som(Strict):
    """The lattice and its neurons."""

    name: str = Field("main", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", description="name of map and mapping")
    lattice: Literal["cartesian", "hexagonal"] = "cartesian"
    width: Positive = 10
    height: Positive | None = Field(None, description="default: the width")
    depth: Positive = 1
    periodic: bool = False
    neuron_side: Positive | None = Field(None, description="pixels; default holds a turned image")
    region: Literal["quadratic", "circular"] = "quadratic"
    region_side: Positive | None = Field(None, description="pixels; default as the peer's")
    flip: bool = Field(True, description="mirror images count as equal")
    init: str = Field(
        "random",
        description="zero, random, random_with_preferred_direction, samples, som:NAME (a map of this survey) or a file",
    )
    seed: int = Field(1234, ge=0, lt=2**31)


class TrainingStage(Strict):
    """One stage of the training recipe."""

    neighbourhood: Literal["gaussian", "unity_gaussian", "mexican_hat"] = "unity_gaussian"
    sigma: float = Field(1.1, gt=0, description="width of the neighbourhood in lattice steps")
    rate: float = Field(0.2, gt=0, description="peak (unity_gaussian) or scale of the update factor")
    rotations: int = 360
    iterations: Positive = 1
    batch_size: Positive | None = Field(None, description="images matched against one map; default train.batch_size")
    max_update_distance: float | None = Field(None, gt=0)

    _rotations = field_validator("rotations")(lambda value: check_rotations(value))
    _batch_size = field_validator("batch_size")(lambda value: value if value is None else check_batch_size(value))


class Train(Strict):
    """What the map learns from."""

    sample: Positive | None = Field(None, description="at most this many images, chosen by the seed")
    where: str | None = Field(None, description="only rows for which this expression on catalogue columns holds")
    shuffle: bool = True
    channel_weights: tuple[float, ...] | None = Field(
        None, description="a number a channel, for this map and what is mapped onto it; default: those of preprocess"
    )
    stages: tuple[TrainingStage, ...] = Field((TrainingStage(),), min_length=1)
    batch_size: Positive | None = Field(
        None,
        description="images matched against one map before it moves: 1 (online) or a multiple of 32; "
        "default a twentieth of the images, 32 to 1024, which makes as good a map",
    )
    batch_mode: Literal["affine", "kohonen"] = Field(
        "affine", description="affine: the updates of a batch one after another; kohonen: towards the weighted mean"
    )
    shuffle_images: Positive = Field(65536, multiple_of=64, description="images shuffled, and held in memory, together")
    checkpoint_batches: Positive = Field(16, description="batches between checkpoints")
    stop_change: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="a stage ends when an iteration changes the mean distance of a fixed sample by a smaller share",
    )
    keep_stages: bool = Field(True, description="keep the map after each stage as NAME-stage1, ...")
    memory_gb: float = Field(8.0, gt=0, description="refuse to start above this much memory for training")

    _batch_size = field_validator("batch_size")(lambda value: value if value is None else check_batch_size(value))


class Map(Strict):
    """How every source is mapped."""

    som: str | None = Field(None, description="a published map: a PINK file or OUTPUT:NAME; default: the trained map")
    som_layout: Literal["auto", "cartesian", "hexagonal"] = Field("auto", description="of a PINK file")
    rotations: int | None = Field(None, description="default: those of the last training stage")
    where: str | None = Field(None, description="only rows for which this expression on catalogue columns holds")
    keep: Positive | None = Field(None, description="neurons kept an image, the best first; default: all")
    column_suffix: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9_]+$",
        description="columns of the catalogue are bmu_SUFFIX ..., beside those of others; default: bmu ..., replaced",
    )
    method: MapMethod = Field(
        "certified",
        description="certified: best-matching units and their distances as exact has them, several times faster, the "
        "other neurons' distances approximate; exact: all distances; polar: unbiased in angle, distances of its own",
    )
    exact_neurons: Positive | None = Field(
        None, description="certified: so many of an image's best neurons get exact distances; default map.keep, or 1"
    )
    check_share: float = Field(0.01, ge=0, le=0.5, description="certified: share of the images checked by exact search")
    calibration_images: Positive = Field(512, description="certified: images searched exactly first, to set the margin")

    _rotations = field_validator("rotations")(lambda value: value if value is None else check_rotations(value))


class Report(Strict):
    """The page to look at."""

    title: str = "skysom report"


class Config(Strict):
    """Everything a run depends on."""

    images: tuple[str, ...] = Field((), description="a directory or glob a channel")
    catalogue: str = Field("", description="CSV, FITS table, VOTable or Parquet")
    ingest: Ingest = Ingest()
    preprocess: Preprocess = Preprocess()
    som: Som = Som()
    train: Train = Train()
    map: Map = Map()
    report: Report = Report()

    @model_validator(mode="after")
    def _consistent(self) -> "Config":
        if self.som.lattice == "hexagonal" and (
            self.som.width % 2 == 0 or self.som.depth > 1 or self.som.height not in (None, self.som.width)
        ):
            raise ValueError("a hexagonal map needs an odd som.width, som.height equal to it, and som.depth 1")
        for table in ("preprocess", "train"):
            weights = getattr(self, table).channel_weights
            if isinstance(weights, tuple) and not all(0 < weight < float("inf") for weight in weights):
                raise ValueError(f"{table}.channel_weights is {weights}; weights must be positive and finite")
            if isinstance(weights, tuple) and self.images and len(weights) != len(self.images):
                raise ValueError(f"{table}.channel_weights has {len(weights)} numbers for {len(self.images)} channels")
        return self


@lru_cache(maxsize=1)
def step_models() -> dict[str, type[BaseModel]]:
    """One model a preprocessing step, made of its keyword parameters."""
    from skysom.engine.preprocess import STEPS

    return {name: _step_model(name, function) for name, function in STEPS.items()}


def _step_model(name: str, function: Callable) -> type[BaseModel]:
    fields: dict[str, Any] = {"step": (Literal[name], ...)}
    for key, parameter in inspect.signature(function, eval_str=True).parameters.items():
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            required = parameter.default is inspect.Parameter.empty
            fields[key] = (parameter.annotation, ... if required else parameter.default)
    return create_model(f"step {name}", __base__=Strict, __doc__=function.__doc__, **fields)


def _validate_step(step: Any) -> dict[str, Any]:
    if not isinstance(step, Mapping) or not isinstance(step.get("step"), str):
        raise ValueError(f"{step!r} is not a step; write {{ step = 'NAME', ... }}")
    models = step_models()
    if step["step"] not in models:
        raise ValueError(f"there is no step {step['step']!r}; the steps are {', '.join(sorted(models))}")
    return models[step["step"]].model_validate(dict(step)).model_dump()


# Rotations of the first quick stage: 90 is not a multiple of 4, which quarter turns need; 92 is the next.
QUICK: dict[str, Any] = {
    "preprocess": {
        "steps": [
            {"step": "block_mean", "max_side": 96},
            # What would leave the frame on rotation must set neither the noise nor the scale.
            {"step": "circular_mask"},
            {"step": "noise"},
            {"step": "signal_to_noise_mask", "threshold": 3.0},
            # After the block mean a beam is about a pixel wide.
            {"step": "islands", "minimum_pixels": 3},
            {"step": "central_islands", "radius_fraction": 0.25},
            {"step": "transfer", "function": "sqrt"},
            {"step": "min_max"},
        ]
    },
    "som": {"width": 8, "height": 8, "region": "circular"},
    "train": {
        "sample": 2000,
        "stages": [
            {"sigma": 2.5, "rate": 0.1, "rotations": 92, "iterations": 1},
            {"sigma": 1.5, "rate": 0.05, "rotations": 180, "iterations": 1},
            {"sigma": 0.7, "rate": 0.05, "rotations": 360, "iterations": 1},
        ],
    },
}
# The published training recipe of the VLASS sidelobe study (arXiv:2404.10109, table 3).
VLASS: dict[str, Any] = {
    "preprocess": {
        "steps": [
            {"step": "noise", "method": "histogram", "clip_rounds": 2, "ignore_zeros": True},
            {"step": "signal_to_noise_mask", "threshold": 2.0},
            {"step": "transfer", "function": "log"},
            {"step": "min_max"},
        ]
    },
    "som": {"width": 10, "height": 10, "region": "circular"},
    "train": {
        "batch_size": 1,  # as published
        "stages": [
            {"sigma": 2.5, "rate": 0.1, "rotations": 180, "iterations": 5},
            {"sigma": 1.5, "rate": 0.05, "rotations": 180, "iterations": 5},
            {"sigma": 0.7, "rate": 0.05, "rotations": 360, "iterations": 10},
        ],
    },
}
PRESETS = {"quick": QUICK, "vlass": VLASS}


def load_config(
    preset: str | None = None,
    file: str | Place | None = None,
    flags: Mapping[str, Any] | None = None,
    remembered: Mapping[str, Any] | None = None,
) -> Config:
    """The effective configuration: defaults, what an output remembers, the preset, the TOML ``file``, ``flags``.

    flags and remembered map dotted keys ("train.sample") to values. Raises ConfigError naming every bad key.
    """
    values = _nested(remembered or {})
    if preset is not None:
        if preset not in PRESETS:
            raise ConfigError(f"there is no preset {preset!r}; the presets are {', '.join(PRESETS)}")
        values = _merged(values, PRESETS[preset])
    if file is not None:
        values = _merged(values, _read_toml(file))
    values = _merged(values, _nested(flags or {}))
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_explain(error)) from None


def parse_setting(text: str) -> tuple[str, Any]:
    """KEY and value of ``KEY=VALUE``; VALUE is TOML, or plain text where it is not."""
    key, separator, value = text.partition("=")
    if not separator or not key.strip():
        raise ConfigError(f"--set {text!r}: write KEY=VALUE, for example --set som.width=12")
    try:
        return key.strip(), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key.strip(), value


def flatten(values: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted keys of nested tables; lists stay whole."""
    if not isinstance(values, Mapping):
        return {prefix: values}
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat.update(flatten(value, f"{prefix}.{key}" if prefix else str(key)))
    return flat


def to_toml(config: BaseModel) -> str:
    """The configuration as TOML, every key shown (unset ones as comments)."""
    tables: dict[str, list[str]] = {"": []}
    for key, value in flatten(config.model_dump(mode="json")).items():
        table, _, name = key.rpartition(".")
        line = f"# {name} is not set" if value is None else f"{name} = {_toml_value(value)}"
        tables.setdefault(table, []).append(line)
    return "\n\n".join("\n".join(([f"[{table}]"] if table else []) + lines) for table, lines in tables.items()) + "\n"


def _toml_value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{k} = {_toml_value(v)}" for k, v in value.items() if v is not None) + " }"
    if isinstance(value, list) and value and isinstance(value[0], Mapping):
        return "[\n" + "".join(f"    {_toml_value(v)},\n" for v in value) + "]"
    if isinstance(value, list):
        return "[" + ", ".join(_toml_value(v) for v in value) + "]"
    return json.dumps(value, ensure_ascii=False)


def _nested(dotted: Mapping[str, Any]) -> dict[str, Any]:
    """Nested tables of dotted keys."""
    values: dict[str, Any] = {}
    for key, value in dotted.items():
        nested: Any = value
        for part in reversed(key.split(".")):
            nested = {part: nested}
        values = _merged(values, nested)
    return values


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = _merged(result[key], value) if both else value
    return result


def _read_toml(path: str | Place) -> dict[str, Any]:
    try:
        with open_binary(place(path)) as file:
            return tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"cannot read --config {path}: {error.strerror or error}") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"--config {path} is not TOML: {error}") from None


def _explain(error: ValidationError) -> str:
    lines = []
    for problem in error.errors():
        key = ".".join(str(part) for part in problem["loc"]) or "configuration"
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            message = "there is no such key; `--print-config` shows all"
        lines.append(f"{key}: {message}" + (f" (found {problem['input']!r})" if problem["loc"] else ""))
    return "invalid configuration\n  " + "\n  ".join(lines)
