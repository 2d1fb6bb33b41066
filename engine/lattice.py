"""How neurons are arranged: Cartesian lattices of one to three dimensions and hexagonal maps."""

import math
from dataclasses import dataclass

import numpy as np

from skysom.engine.errors import LatticeError


@dataclass(frozen=True)
class Cartesian:
    """A Cartesian lattice; neuron i lies at (i // height, i % height), depth slowest.

    width is the first lattice index, as in the peer's command line. ``periodic`` joins opposite edges.
    """

    width: int
    height: int = 1
    depth: int = 1
    periodic: bool = False

    kind = "cartesian"

    def __post_init__(self) -> None:
        if min(self.width, self.height, self.depth) < 1:
            raise LatticeError(f"lattice sides must be at least 1; got {(self.width, self.height, self.depth)}")

    @property
    def size(self) -> int:
        """N, the number of neurons."""
        return self.width * self.height * self.depth

    @property
    def shape(self) -> tuple[int, ...]:
        """Sides in use: (width,), (width, height) or (width, height, depth)."""
        if self.depth > 1:
            return (self.width, self.height, self.depth)
        return (self.width, self.height) if self.height > 1 else (self.width,)

    @property
    def rank(self) -> int:
        return len(self.shape)

    def positions(self) -> np.ndarray:
        """(N, 3) int64: first (row), second (column) and third (depth) lattice index."""
        i = np.arange(self.size)
        plane = self.width * self.height
        return np.stack([i % plane // self.height, i % self.height, i // plane], axis=1)

    def distances(self) -> np.ndarray:
        """(N, N) float32 Euclidean distances in lattice steps (the nearest copy where periodic)."""
        positions = self.positions()
        steps = np.abs(positions[:, None, :] - positions[None, :, :])
        if self.periodic:
            steps = np.minimum(steps, np.array([self.width, self.height, self.depth]) - steps)
        return np.sqrt((steps**2).sum(axis=2)).astype(np.float32)


@dataclass(frozen=True)
class Hexagonal:
    """A hexagon of hexagonal cells, ``width`` (odd) cells across; rows from top, axial columns.

    Row r = 0..width-1 holds width - |radius - r| cells with axial columns from max(radius - r, 0).
    ``periodic`` joins opposite edges: the hexagon tiles the plane.
    """

    width: int
    periodic: bool = False

    kind = "hexagonal"

    def __post_init__(self) -> None:
        if self.width < 1 or self.width % 2 == 0:
            raise LatticeError(f"a hexagonal map needs an odd width, got {self.width}; use {self.width + 1}")

    @property
    def radius(self) -> int:
        return (self.width - 1) // 2

    @property
    def height(self) -> int:
        return self.width

    @property
    def depth(self) -> int:
        return 1

    @property
    def size(self) -> int:
        """N = width**2 - radius (radius + 1)."""
        return self.width**2 - self.radius * (self.radius + 1)

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.width, self.width)

    @property
    def rank(self) -> int:
        return 2

    def positions(self) -> np.ndarray:
        """(N, 3) int64: row, axial column, 0."""
        r = self.radius
        cells = [(row, max(r - row, 0) + i, 0) for row in range(self.width) for i in range(self.width - abs(r - row))]
        return np.array(cells)

    def distances(self) -> np.ndarray:
        """(N, N) float32 numbers of steps from cell to cell (of the nearest copy where periodic)."""
        positions = self.positions()[:, :2]
        step = positions[:, None, :] - positions[None, :, :]
        distance = _hexagonal_steps(step)
        if self.periodic:
            r = self.radius
            for turn in range(6):
                shift = _turned((-r, 2 * r + 1), turn)
                distance = np.minimum(distance, _hexagonal_steps(step + np.array(shift)))
        return distance.astype(np.float32)


Lattice = Cartesian | Hexagonal


def lattice_from_dict(values: dict) -> Lattice:
    """The lattice that `lattice_to_dict` described."""
    if values.get("kind") == "hexagonal":
        return Hexagonal(values["width"], periodic=values.get("periodic", False))
    if values.get("kind") == "cartesian":
        return Cartesian(
            values["width"], values.get("height", 1), values.get("depth", 1), values.get("periodic", False)
        )
    raise LatticeError(f"unknown lattice {values!r}; use kind 'cartesian' or 'hexagonal'")


def lattice_to_dict(lattice: Lattice) -> dict:
    """Plain values (for files) of a lattice."""
    return {
        "kind": lattice.kind,
        "width": lattice.width,
        "height": lattice.height,
        "depth": lattice.depth,
        "periodic": lattice.periodic,
    }


def hexagonal_width(neurons: int) -> int | None:
    """Width of the hexagonal map with that many neurons, or None where there is none."""
    radius = round((math.sqrt(12 * neurons - 3) - 3) / 6) if neurons > 0 else -1
    return 2 * radius + 1 if radius >= 0 and 3 * radius * (radius + 1) + 1 == neurons else None


def _hexagonal_steps(step: np.ndarray) -> np.ndarray:
    rows, columns = step[..., 0], step[..., 1]
    return np.maximum(np.maximum(np.abs(rows), np.abs(columns)), np.abs(rows + columns))


def _turned(cell: tuple[int, int], turns: int) -> tuple[int, int]:
    """Axial (row, column) turned by ``turns`` sixths of a circle."""
    row, column = cell
    for _ in range(turns):
        row, column = row + column, -row
    return row, column
