"""A self-organizing map: neuron images on a lattice."""

from dataclasses import dataclass
from typing import Any

from skysom.engine.errors import LatticeError, ShapeError
from skysom.engine.lattice import Lattice


@dataclass(frozen=True)
class Som:
    """Neurons ``weights`` (N, C, D, D) float32 in the order of ``lattice``.

    Raises ShapeError where the weights are not square planes, LatticeError where N is not the lattice's.
    """

    weights: Any
    lattice: Lattice

    def __post_init__(self) -> None:
        shape = tuple(self.weights.shape)
        if len(shape) != 4 or shape[2] != shape[3]:
            raise ShapeError(f"weights have shape {shape}; a map needs (neurons, channels, side, side)")
        if shape[0] != self.lattice.size:
            raise LatticeError(f"weights hold {shape[0]} neurons, {self.lattice} has {self.lattice.size}")

    @property
    def neuron_side(self) -> int:
        """D in pixels."""
        return int(self.weights.shape[3])

    @property
    def channels(self) -> int:
        """C, the number of channels."""
        return int(self.weights.shape[1])
