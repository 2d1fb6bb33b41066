"""The steps a chain can be built of, by name."""

from collections.abc import Callable
from functools import wraps

import numpy as np

from skysom.engine.errors import PreprocessError
from skysom.engine.preprocess.batch import Batch

Step = Callable[..., Batch]

STEPS: dict[str, Step] = {}
"""Every step by its name: ``step(batch, *, keyword parameters) -> Batch``."""

SIDES: dict[str, Callable[..., int]] = {}
"""For the steps that change the image side: ``side_after(side, **parameters of the step) -> int``."""


def step(function: Step) -> Step:
    """Register a batch function as a step under its own name.

    Invalid operations are expected on bad pixels and end as NaN, so floating-point warnings are off inside.
    """

    @wraps(function)
    def quiet(batch: Batch, **parameters: object) -> Batch:
        with np.errstate(all="ignore"):
            return function(batch, **parameters)

    STEPS[function.__name__] = quiet
    return quiet


def positive(step_name: str, **values: float | None) -> None:
    """PreprocessError for the first value given that is not a finite number above 0."""
    for name, value in values.items():
        if value is not None and not (np.isfinite(value) and value > 0):
            raise PreprocessError(f"step '{step_name}' has {name} = {value}; it must be a finite number above 0")


def one_of(step_name: str, name: str, value: str, choices: tuple[str, ...]) -> None:
    """PreprocessError when ``value`` is none of ``choices``."""
    if value not in choices:
        raise PreprocessError(f"step '{step_name}' has {name} = {value!r}; use one of {', '.join(choices)}")
