"""Preprocessing: from cut-outs in image units to what a map sees.

A chain is a list of steps by name with keyword parameters; each step is a pure function from one ``Batch`` to
the next, registered in ``STEPS``:

>>> from skysom.engine.preprocess import preprocess
>>> result = preprocess(images, [("noise", {}), ("signal_to_noise_mask", {"threshold": 3.0}),
...                              ("islands", {}), ("transfer", {"function": "sqrt"}), ("min_max", {})])
>>> result.images, result.status

A new step is a function with the decorator ``step``, keyword parameters with plain type hints and
defaults, and a first line of docstring that teaches it; configuration is built from the signature.
"""

from skysom.engine.preprocess.batch import Batch
from skysom.engine.preprocess.chain import output_side, preprocess
from skysom.engine.preprocess.estimates import clipped_noise, noise, rms_estimate
from skysom.engine.preprocess.hulls import convex_hull, hull_of
from skysom.engine.preprocess.masking import (
    circular_mask,
    gaussian_weight,
    signal_to_noise_mask,
    square_mask,
)
from skysom.engine.preprocess.registry import SIDES, STEPS, step
from skysom.engine.preprocess.resampling import block_mean, physical_scale
from skysom.engine.preprocess.scaling import balanced_weights, channel_weights, fill_nan, min_max, transfer
from skysom.engine.preprocess.segmentation import central_islands, islands, label_islands

__all__ = [
    "SIDES",
    "STEPS",
    "Batch",
    "balanced_weights",
    "block_mean",
    "central_islands",
    "channel_weights",
    "circular_mask",
    "clipped_noise",
    "convex_hull",
    "fill_nan",
    "gaussian_weight",
    "hull_of",
    "islands",
    "label_islands",
    "min_max",
    "noise",
    "output_side",
    "physical_scale",
    "preprocess",
    "rms_estimate",
    "signal_to_noise_mask",
    "square_mask",
    "step",
    "transfer",
]
