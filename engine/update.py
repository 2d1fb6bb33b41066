"""Online training (batch size 1): after every image each neuron moves towards its own best transform.

    w_n <- w_n - (w_n - T_n x) F[bmu, n]

on the whole neuron, with T_n the best transform of the image for neuron n and F the neighbourhood.
Sampling an image does not depend on the map, so images are sampled ahead in blocks; the search and the
update then go one by one. The result does not depend on how the images were cut into blocks.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from skysom.engine import dihedral, transforms
from skysom.engine.blocks import image_innermost
from skysom.engine.direct import base_and_element, direct_distances, frame_taps
from skysom.engine.errors import EngineError, ShapeError
from skysom.engine.exact import NEAR_TIE
from skysom.engine.geometry import Geometry
from skysom.engine.match import check_shapes
from skysom.engine.neighbourhood import Neighbourhood
from skysom.engine.search import Method, as_batch, geometry_of
from skysom.engine.som import Som

AHEAD_IMAGES = 16
"""Images sampled together, one vector of float32."""
SMALLEST_FACTOR = 1e-8
"""Smaller factors cannot change a float32 weight of the images' size and are skipped."""
MOST_CANDIDATES = 64
"""Near ties decided by direct sums, per neuron; more (a blank image) means that none is better."""

Callback = Callable[[int, np.ndarray], None]


@dataclass(frozen=True)
class TrainingResult:
    """A trained map, and what each image met when its turn came.

    som : the map; bmu (B,) int64; bmu_distance (B,) float32, before the update, in training order.
    """

    som: Som
    bmu: np.ndarray
    bmu_distance: np.ndarray


def train_online(
    images: Any,
    som: Som,
    neighbourhood: Neighbourhood,
    *,
    rotations: int = 360,
    flip: bool = True,
    region: str = "quadratic",
    region_side: int | None = None,
    order: Sequence[int] | None = None,
    method: Method = "exact",
    callback: Callback | None = None,
) -> TrainingResult:
    """Train ``som`` on ``images`` one after another, as the peer does (its specification, section 6).

    Parameters
    ----------
    images : (B, C, H, W) or (B, H, W) float32, finite, NumPy.
    order : indices of images in training order (repeats allowed), default 0..B-1.
    method : "exact", or "reference" (every transform made; for tests and tiny inputs).
    callback : called as callback(step, weights) after each image; weights (N, C, D, D) must not be kept.

    Raises
    ------
    ShapeError, GeometryError : arrays or sides that do not fit together.
    """
    if not isinstance(images, np.ndarray):
        raise ShapeError(f"online training runs on NumPy arrays; got {type(images).__name__}")
    images = as_batch(images)
    geometry = geometry_of(images, som, rotations, flip, region, region_side)
    sequence = np.arange(len(images)) if order is None else np.asarray(order)
    trainer = OnlineTrainer(som, neighbourhood, geometry, method=method)
    found = []
    for first in range(0, len(sequence), AHEAD_IMAGES):
        found.append(trainer.train(images[sequence[first : first + AHEAD_IMAGES]], callback, first))
    bmu = np.concatenate([f[0] for f in found]) if found else np.zeros(0, np.int64)
    distance = np.concatenate([f[1] for f in found]) if found else np.zeros(0, np.float32)
    return TrainingResult(trainer.som, bmu, distance)


class OnlineTrainer:
    """A map in training. It owns a copy of the weights; `som` is the present map."""

    def __init__(self, som: Som, neighbourhood: Neighbourhood, geometry: Geometry, *, method: Method = "exact") -> None:
        if method not in ("exact", "reference"):
            raise EngineError(f"method is {method!r}; online training knows 'exact' and 'reference'")
        self.geometry, self.lattice, self.method = geometry, som.lattice, method
        self.weights = np.array(som.weights, np.float32)
        self.flat = self.weights.reshape(*self.weights.shape[:2], -1)
        self.factors = neighbourhood.factors(som.lattice)
        if method == "exact":
            self._prepare()

    @property
    def som(self) -> Som:
        """A copy of the present map."""
        return Som(self.weights.copy(), self.lattice)

    def train(self, images: np.ndarray, callback: Callback | None = None, first_step: int = 0) -> tuple:
        """Train on ``images`` (B, C, H, H) in order; returns bmu (B,) int64 and bmu_distance (B,) float32."""
        check_shapes(images.shape, self.weights.shape, self.geometry)
        bmu, distance = np.empty(len(images), np.int64), np.empty(len(images), np.float32)
        for first in range(0, len(images), AHEAD_IMAGES):
            block = np.asarray(images[first : first + AHEAD_IMAGES], np.float32)
            steps = self._exact_steps(block) if self.method == "exact" else self._reference_steps(block)
            # A map that diverges overflows: its distances are then not finite, for the caller to see.
            with np.errstate(over="ignore", invalid="ignore"):
                for i, (unit, squared) in enumerate(steps, start=first):
                    bmu[i], distance[i] = unit, np.sqrt(squared)
                    if callback is not None:
                        callback(first_step + i, self.weights)
        return bmu, distance

    # --- exact --------------------------------------------------------------------------------

    def _prepare(self) -> None:
        self.table = dihedral.orbits(self.geometry)
        self.scale = self.table.inside * self.table.weight[:, None] * np.float32(-0.25)
        neurons, channels = self.weights.shape[:2]
        rows = channels * len(self.table)
        self.scalars = np.empty((4, neurons, rows), np.float32)
        self.matrices = np.empty((neurons, 2, rows, 2), np.float32)
        self.norms = np.empty(neurons)
        self.places = np.flatnonzero(self.geometry.region_mask).astype(np.int32)
        self._refresh(np.arange(neurons))

    def _refresh(self, neurons: np.ndarray) -> None:
        """Spectra and norms of ``neurons`` after they moved."""
        from skysom.engine import kernels

        for n in neurons:
            kernels.neuron_spectrum(self.flat[n], self.table.pixels, self.scale, self.scalars, self.matrices, n)
            self.norms[n] = kernels.square_norm(self.flat[n], self.places)

    def _exact_steps(self, images: np.ndarray):  # type: ignore[no-untyped-def]
        scalars, matrices, norms = self._sample(images)
        for i in range(len(images)):
            values, scale = self._values(scalars[i], matrices[i], norms[..., i])
            transform, squared, unit = self._best(images[i], values, scale)
            self._move(images[i], transform, unit)
            yield unit, squared[unit]

    def _sample(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Spectra of every image apart, and |r|^2 (8, R/4, B) float64."""
        from skysom.engine import kernels

        # A full block always, so that its rounding does not depend on how many images were left.
        full = np.zeros((AHEAD_IMAGES, *images.shape[1:]), np.float32)
        full[: len(images)] = images
        inner = image_innermost(full)
        rows, bases = self.scalars.shape[2], self.geometry.base_rotations
        scalars = np.empty((AHEAD_IMAGES, 4, rows, bases), np.float32)
        matrices = np.empty((AHEAD_IMAGES, rows, 2, 2, bases), np.float32)
        norms = np.zeros((9, bases, AHEAD_IMAGES))
        kernels.sample_each(
            inner, *self.table.taps, self.table.weight, self.table.inside, self.table.complete,
            dihedral.PRODUCT, self.geometry.image_side, scalars, matrices, norms,
        )  # fmt: skip
        return scalars, matrices, norms[:8] + norms[8]

    def _values(self, scalars: np.ndarray, matrices: np.ndarray, norms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """d^2 (N, T) float64 of one image, and |r|^2 + |w|^2 of the same shape."""
        from skysom.engine import kernels

        neurons, rows, bases = len(self.weights), self.scalars.shape[2], self.geometry.base_rotations
        images = dihedral.Spectra(scalars, matrices.reshape(2 * rows, 2 * bases))
        own = dihedral.Spectra(self.scalars, self.matrices.reshape(2 * neurons, 2 * rows))
        one, two = dihedral.products(own, images)
        values = kernels.all_products(one, two.reshape(neurons, 2, 2, bases), bases, 1)[..., 0]
        elements = list(self.geometry.elements)
        # With four quarter turns in use, (element, k) in order is t in order.
        scale = norms[elements].reshape(1, -1) + self.norms[:, None]
        return values[:, elements].reshape(neurons, -1) + scale, scale

    def _best(self, image: np.ndarray, values: np.ndarray, scale: np.ndarray) -> tuple:
        """Best transform (N,) of each neuron, squared distances (N,) and the BMU; near ties by direct sums."""
        transform = values.argmin(axis=1)
        squared = values[np.arange(len(values)), transform]
        near = values <= squared[:, None] + NEAR_TIE * scale
        count = near.sum(axis=1)
        for n in np.flatnonzero((count > 1) & (count <= MOST_CANDIDATES)):
            candidates = np.flatnonzero(near[n])
            sums = self._direct(image, np.full(len(candidates), n), candidates)
            # float32 sums tie where the peer's do; then the lowest transform wins.
            best = int(sums.astype(np.float32).argmin())
            transform[n], squared[n] = candidates[best], sums[best]
        rivals = np.flatnonzero(squared <= squared.min() + NEAR_TIE * scale.max(axis=1))
        if 0 < len(rivals) <= MOST_CANDIDATES:
            squared[rivals] = self._direct(image, rivals, transform[rivals])
            return transform, squared, int(rivals[squared[rivals].astype(np.float32).argmin()])
        return transform, squared, int(squared.argmin())

    def _direct(self, image: np.ndarray, neurons: np.ndarray, t: np.ndarray) -> np.ndarray:
        rows = np.zeros(len(neurons), np.int64)
        return direct_distances(image[None], self.weights, self.geometry, rows, neurons, t)

    def _move(self, image: np.ndarray, transform: np.ndarray, unit: int) -> None:
        from skysom.engine import kernels

        side, factors = self.geometry.neuron_side, self.factors[unit]
        moved = np.flatnonzero(np.abs(factors) >= SMALLEST_FACTOR)
        k, element = base_and_element(transform[moved], self.geometry)
        flat = image.reshape(len(image), -1)
        frame = np.empty((len(image), side * side), np.float32)
        for base in np.unique(k):
            kernels.rotate_frame(flat, *frame_taps(self.geometry, int(base)), self.geometry.image_side, frame)
            for i in np.flatnonzero(k == base):
                kernels.move_neuron(self.flat[moved[i]], frame, element[i], factors[moved[i]], side)
        self._refresh(moved)

    # --- reference ----------------------------------------------------------------------------

    def _reference_steps(self, images: np.ndarray):  # type: ignore[no-untyped-def]
        for image in images:
            squared = transforms.squared_distances(image, self.weights, self.geometry)
            transform = squared.argmin(axis=1)
            best = squared.min(axis=1)
            unit = int(best.argmin())
            for n in np.flatnonzero(self.factors[unit]):
                turned = transforms.transform(image, int(transform[n]), self.geometry)
                self.weights[n] -= (self.weights[n] - turned) * self.factors[unit, n]
            yield unit, best[unit]
