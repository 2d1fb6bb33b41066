"""The certified search: ranked on rings, decided by direct sums (search.md, Certified).

For every neuron and transform the rings give a score that stands for d^2:

    S = |T x|^2 + |w|^2 - 2 <T x, w>

with |T x|^2 as the exact search has it (`energies`) and <T x, w> from `polar`; transforms that only copy pixels
(k = 0) are exact. What is left of the difference between S and d^2 is small and measured: with e = |T x| |w|, the
root mean square over rotations and the median over neurons, every (neuron, transform) with S <= min S + margin * e is a
candidate (and what rounding could hide), and the smallest direct sum of squares among the candidates is the best
match. It is that of the exact search unless the best match lies beyond the margin, so "certified" is a statement
about frequencies: `Calibration` says how often at most.
"""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from skysom.engine import dihedral
from skysom.engine.blocks import image_innermost, padded
from skysom.engine.coarse import CoarseScores
from skysom.engine.direct import at_places, sums_at_places
from skysom.engine.energies import energies
from skysom.engine.errors import EngineError
from skysom.engine.exact import Search, sample
from skysom.engine.geometry import Geometry
from skysom.engine.match import Match, as_match, check_shapes
from skysom.engine.polar import Scores
from skysom.engine.steering import steering

Array = Any

DEFAULT_MARGIN = 0.05
"""Margin without a calibration: more than any image of the real surveys of `search.md` needed."""
MOST_CANDIDATES = 2000
"""Candidates of an image above which the exact search decides; it then costs less."""
PAIRS_AT_ONCE = 512
"""Pairs of a neuron and an image whose scores at every transform are held together."""
FAINTEST = 1e-32
"""Mean |T x|^2 below which squares lose digits in float32, or nothing is in the region: the exact search decides."""
ROUNDING = 2e-6
"""Rounding of a correlation as a share of |T x| |w|: it matters where neurons are much brighter than the image."""
ENERGY_ERROR = 1e-4
"""Error of |T x|^2 as a share of the largest: it matters where the image is much brighter than the neurons.

`energies` says why. Measured up to 2e-5 with images of single pixels, 150 pixels wide; it grows with the side.
"""
DARK = 1e-6
"""Neurons of less than this share of the brightest one's |w|^2 say nothing about the others' sharpness."""
CONFIDENCE = 0.95
"""Confidence of the limit on misses."""


@dataclass(frozen=True)
class Calibration:
    """How far the best match may lie above the best score on a map, from a sample searched exactly.

    margin : share of |T x| |w| (module docstring) within which candidates are kept. needed : the largest share the
    sample needed. images : sample size. miss_limit : at most this share of images needs more than ``needed`` (95 %
    confidence, order statistics: 1 - 0.05^(1/n)); ``margin`` is at least ``needed``. agreement : share of the
    sample whose best-scored neuron was the best-matching unit.
    """

    margin: float
    needed: float
    images: int
    miss_limit: float
    agreement: float


@dataclass(frozen=True)
class Effort:
    """What the certified search did for each of B images.

    candidates, neurons (B,) int64: direct sums made, and neurons they belong to; depth (B,) float64: share of the
    margin at which the best match lay (near 1: the margin is too small); fallback (B,) bool: left to the exact
    search, for more than MOST_CANDIDATES candidates or none, or less than FAINTEST in the region.
    """

    candidates: np.ndarray
    neurons: np.ndarray
    depth: np.ndarray
    fallback: np.ndarray


@dataclass(frozen=True)
class Scored:
    """Scores of a block of B images.

    squared (N, B) float64, transform (N, B): the best of each neuron, a coarse one (`coarse`) where it cannot hold
    one of the ``exact_neurons`` best; unturned (8, N, B): scores of k = 0 for each symmetry; energies (8, R/4, B)
    float32; level (B,): their mean; neuron, image (n,) and coefficients (n, F, 2 M) of the pairs that may hold
    candidates.
    """

    squared: np.ndarray
    transform: np.ndarray
    unturned: np.ndarray
    energies: np.ndarray
    level: np.ndarray
    neuron: np.ndarray
    image: np.ndarray
    coefficients: np.ndarray

    @property
    def most(self) -> np.ndarray:
        """(B,) the largest energy of each image."""
        return self.energies.max(axis=(0, 1)).astype(np.float64)

    @property
    def lowest(self) -> np.ndarray:
        """(B,) the best score of each image."""
        return self.squared.min(axis=0)

    def pairs(self, some: slice | np.ndarray) -> "Scored":
        """With ``some`` of the pairs only."""
        return replace(self, neuron=self.neuron[some], image=self.image[some], coefficients=self.coefficients[some])


class Candidates(NamedTuple):
    """Triples that may be the best match, row (of the image), neuron, transform (n,) int64, and score (n,) float64."""

    row: np.ndarray
    neuron: np.ndarray
    transform: np.ndarray
    score: np.ndarray


class CertifiedSearch:
    """The certified search against one map, on NumPy arrays.

    weights (N, C, D, D) float32; margin as in `Calibration`; exact_neurons: distances and transforms of so many
    best-scored neurons are exact, not only the best-matching unit's. Calling it on images (B, C, H, H), B <= 32,
    returns their Match; `examine` also says at what effort.
    """

    def __init__(
        self,
        weights: np.ndarray,
        geometry: Geometry,
        margin: float = DEFAULT_MARGIN,
        exact_neurons: int = 1,
        band: int | None = None,
    ) -> None:
        if not isinstance(weights, np.ndarray):
            raise EngineError(f"the certified search runs on NumPy arrays, not {type(weights).__name__}; use 'exact'")
        if not (0 < margin < np.inf) or exact_neurons < 1:
            raise EngineError(f"margin is {margin} and exact_neurons {exact_neurons}; use positive numbers")
        self.geometry, self.margin = geometry, margin
        if geometry.base_rotations > 1:
            self.energies = energies(geometry)  # first: their making takes several times what they keep
        self.exact = Search(weights, geometry)
        self.exact_neurons = min(exact_neurons, len(weights))
        if geometry.base_rotations == 1:
            return  # nothing is interpolated: the exact search has as little to do
        self.scores = Scores(self.exact.weights, geometry, band)
        self.coarse = CoarseScores(self.scores)
        self.steering = tuple(np.ascontiguousarray(part.T) for part in steering(self.scores.table))
        self.places = at_places(self.exact.weights, self.exact.table)
        self.brightness = _brightness(self.scores.norms)

    def __call__(self, images: np.ndarray) -> Match:
        return self.examine(images)[0]

    def examine(self, images: np.ndarray) -> tuple[Match, Effort]:
        """Match of ``images`` (B, C, H, H), B <= 32, and what it took."""
        check_shapes(images.shape, self.exact.weights.shape, self.geometry)
        if self.geometry.base_rotations == 1:
            none = np.zeros(len(images), np.int64)
            return self.exact(images), Effort(none, none, none.astype(float), none.astype(bool))
        images, finite, count = padded(images)
        wanted = finite & (np.arange(len(images)) < count)
        scored = self.score(images, wanted)
        limits = self._limits(scored, wanted)
        every = self._candidates(scored, limits)
        found = np.bincount(every.row, minlength=len(images))
        # Without a candidate a score is not finite: a neuron with NaN, squares beyond float32.
        lost = (found == 0) | (scored.level < FAINTEST)
        fallback = (found > MOST_CANDIDATES) | wanted & lost
        candidates = Candidates(*(part[~fallback[every.row]] for part in every))
        sums = sums_at_places(images, self.places, self.exact.table, *candidates[:3])
        match, effort = self._decide(scored, limits, candidates, sums, finite)
        match = self._fall_back(images, match, np.flatnonzero(fallback))
        return _first(match, count), _first(replace(effort, fallback=fallback), count)

    def score(self, images: np.ndarray, wanted: np.ndarray, asked: np.ndarray | None = None) -> Scored:
        """Scores of a block of ``images`` (B, C, H, H), of which those ``wanted`` (B,) bool count.

        Its pairs are those within the margin of wanted images, and those ``asked`` for (N, B) bool.
        """
        inner = image_innermost(images)
        unturned = self._unturned(inner)
        energies = self._turned_energies(inner)
        level = energies[:, 1:].mean(axis=(0, 1), dtype=np.float64)
        spectra = self.scores.spectra(inner)
        apart = np.ascontiguousarray(spectra.transpose(3, 0, 1, 2))
        coarse = self.coarse(spectra, energies)
        squared, element = unturned.min(axis=0), unturned.argmin(axis=0)
        transform = (element // 4) * self.geometry.rotations + (element % 4) * self.geometry.base_rotations
        none = np.zeros(0, np.int64)
        found = Scored(squared, transform, unturned, energies, level, none, none, np.zeros((0, 1, 0), np.float32))
        turned = coarse.squared < squared
        transform[turned], squared[turned] = coarse.transform[turned], coarse.squared[turned]
        # The most promising neurons first: their scores bound the best one from above.
        first = np.argpartition(squared, self.exact_neurons - 1, axis=0)[: self.exact_neurons]
        self._refine(found, apart, first.reshape(-1), np.tile(np.arange(len(apart)), self.exact_neurons))
        reach = self._reach(found)
        threshold = np.take_along_axis(squared, first, axis=0).max(axis=0)
        # Not "at most": scores that are not numbers are looked at.
        survive = ~(coarse.squared - coarse.bound > threshold + reach) & wanted & np.isfinite(threshold)
        rest = survive.copy()
        np.put_along_axis(rest, first, False, axis=0)
        self._refine(found, apart, *np.nonzero(rest))
        keep = survive & (squared <= self._threshold(squared) + reach)
        neuron, image = np.nonzero(keep if asked is None else keep | asked)
        return replace(found, neuron=neuron, image=image, coefficients=self._correlate(apart, neuron, image))

    def _refine(self, scored: Scored, apart: np.ndarray, neuron: np.ndarray, image: np.ndarray) -> None:
        """Put the best scores of all orders of some pairs into ``scored``."""
        for first in range(0, len(neuron), PAIRS_AT_ONCE):
            some = neuron[first : first + PAIRS_AT_ONCE], image[first : first + PAIRS_AT_ONCE]
            part = replace(scored, neuron=some[0], image=some[1], coefficients=self._correlate(apart, *some))
            values = self.values(part)
            best = values.argmin(axis=1)
            scored.transform[some], scored.squared[some] = best, values[np.arange(len(best)), best]

    def _correlate(self, apart: np.ndarray, neuron: np.ndarray, image: np.ndarray) -> np.ndarray:
        """Coefficients (n, F, 2 M) of the pairs, from the images' (B, M, 2, K)."""
        from skysom.engine import polar_kernels

        flips = 2 if self.geometry.flip else 1
        out = np.empty((len(neuron), flips, 2 * self.scores.table.band), np.float32)
        polar_kernels.correlate_pairs(self.scores.coefficients, apart, neuron, image, out)
        return out

    def values(self, scored: Scored) -> np.ndarray:
        """Scores (n, T) float64 of the pairs of ``scored`` at every transform; k = 0 from the exact products."""
        from skysom.engine import polar_kernels

        geometry = self.geometry
        values = np.empty((len(scored.neuron), geometry.transforms), np.float32)
        polar_kernels.scores_of_pairs(
            scored.coefficients, *self.steering, scored.energies.transpose(2, 0, 1).copy(), scored.image, values
        )
        found = values + self.scores.norms[scored.neuron][:, None]
        elements = np.array(geometry.elements)[:, None]
        found[:, :: geometry.base_rotations] = scored.unturned[elements, scored.neuron, scored.image].T
        return found

    def _unturned(self, inner: np.ndarray) -> np.ndarray:
        """Squared distances (8, N, B) float64 at the grid symmetries of the image as it is; unused ones are inf."""
        exact = self.exact
        spectra, norms = sample(inner, exact.table, slice(0, 1), exact.common)
        values = dihedral.inverse(*dihedral.products(exact.spectra, spectra)).astype(np.float64)
        values += norms[:, 0, None, :] + exact.norms[:, None]
        unused = np.setdiff1d(np.arange(8), self.geometry.elements)
        values[unused] = np.inf
        return values

    def _turned_energies(self, inner: np.ndarray) -> np.ndarray:
        """|T x|^2 over the region, (8, R/4, B) float32; base rotation 0 is left zero."""
        from skysom.engine import polar_kernels

        table, lags, batch = self.exact.table, self.energies, inner.shape[2]
        sums, differences = np.empty((2, len(lags.first), batch), np.float32)
        polar_kernels.lag_sums(inner, lags.first, lags.second, sums, differences)
        norms = np.zeros((8, self.geometry.base_rotations, batch))
        norms[:, 1:] = lags.norms(sums, differences)
        patterns, pattern = table.partial
        polar_kernels.partial_norms(
            inner, *(part[1:] for part in table.taps), table.weight, table.complete, pattern, patterns,
            dihedral.PRODUCT, self.geometry.image_side, norms[:, 1:],
        )  # fmt: skip
        return norms.astype(np.float32)

    def _threshold(self, squared: np.ndarray) -> np.ndarray:
        """(B,) the best score, or that of the last neuron whose distance shall be exact."""
        last = min(self.exact_neurons, len(squared)) - 1
        return np.partition(squared, last, axis=0)[last] if last else squared.min(axis=0)

    def _reach(self, scored: Scored) -> np.ndarray:
        """(N, B) how far above the best score a candidate may lie."""
        size = np.sqrt(np.maximum(scored.level, 0) * self.scores.norms[:, None])
        return self.margin * self.scale(scored.level) + ROUNDING * size + ENERGY_ERROR * scored.most

    def scale(self, level: np.ndarray) -> np.ndarray:
        """(B,) |T x| |w|, of which margins are shares, from the mean |T x|^2.

        The score errs where the sharp parts of image and neuron meet, in proportion to both: on real surveys the
        largest need of a sample in these units told most of the need of other images.
        """
        return np.sqrt(np.maximum(level, 0) * self.brightness)

    def _limits(self, scored: Scored, wanted: np.ndarray) -> np.ndarray:
        """(N, B) score up to which the transforms of each neuron are candidates."""
        reach = self._reach(scored)
        limits = scored.lowest + reach
        if self.exact_neurons > 1:
            chosen = scored.squared <= self._threshold(scored.squared)
            limits = np.where(chosen, scored.squared + reach, limits)
        # Where a neuron has no score (NaN) the exact search decides what that means.
        return np.where(wanted & np.isfinite(scored.lowest), limits, -np.inf)

    def _candidates(self, scored: Scored, limits: np.ndarray) -> Candidates:
        """All (image, neuron, transform) with scores up to the limit of the neuron."""
        geometry, pairs, transforms, scores = self.geometry, [], [], [np.zeros(0)]
        for first in range(0, len(scored.neuron), PAIRS_AT_ONCE):
            some = scored.pairs(slice(first, first + PAIRS_AT_ONCE))
            values = self.values(some)
            values[:, :: geometry.base_rotations] = np.inf  # of every neuron, below
            pair, transform = np.nonzero(values <= limits[some.neuron, some.image][:, None])
            pairs.append(pair + first)
            transforms.append(transform)
            scores.append(values[pair, transform])
        pair = np.concatenate([np.zeros(0, np.int64), *pairs])
        element, neuron, row = np.nonzero(scored.unturned <= limits)
        unturned = (element // 4) * geometry.rotations + (element % 4) * geometry.base_rotations
        return Candidates(
            np.concatenate([scored.image[pair], row]),
            np.concatenate([scored.neuron[pair], neuron]),
            np.concatenate([*transforms, unturned]),
            np.concatenate([*scores, scored.unturned[element, neuron, row]]),
        )

    def _decide(
        self, scored: Scored, limits: np.ndarray, candidates: Candidates, sums: np.ndarray, finite: np.ndarray
    ) -> tuple[Match, Effort]:
        """Match from the direct sums of the candidates, and the effort of each image."""
        row, neuron, transform, score = candidates
        order = np.lexsort((transform, sums, neuron, row))
        first = np.ones(len(order), bool)
        first[1:] = (np.diff(row[order]) != 0) | (np.diff(neuron[order]) != 0)
        best = order[first]
        squared, chosen = np.maximum(scored.squared, 0).T.copy(), scored.transform.T.copy()
        squared[row[best], neuron[best]], chosen[row[best], neuron[best]] = sums[best], transform[best]
        exact, batch = np.zeros(squared.shape, bool), len(squared)
        reach = np.maximum(self._reach(scored), np.finfo(np.float64).tiny)
        certain = limits >= scored.squared + reach  # every transform of the neuron within the margin was summed
        exact[row[best], neuron[best]] = certain[neuron[best], row[best]]
        # The lowest neuron of equal float32 distances, as the exact search has it.
        winner = best[np.lexsort((neuron[best], np.sqrt(sums[best]).astype(np.float32), row[best]))]
        winner = winner[np.unique(row[winner], return_index=True)[1]]
        exact[row[winner], neuron[winner]] = True
        depth = np.zeros(batch)
        above = score[winner] - scored.lowest[row[winner]]
        depth[row[winner]] = np.maximum(above, 0) / reach[neuron[winner], row[winner]]
        match = as_match(squared, chosen, finite, exact, xp=np)
        bmu, bmu_distance = match.bmu.copy(), match.bmu_distance.copy()
        bmu[row[winner]], bmu_distance[row[winner]] = neuron[winner], np.sqrt(sums[winner]).astype(np.float32)
        distance = _raised(match.distance, exact, bmu, bmu_distance)
        neurons = np.bincount(row[best], minlength=batch)
        effort = Effort(np.bincount(row, minlength=batch), neurons, depth, np.zeros(batch, bool))
        return Match(distance, match.transform, bmu, bmu_distance, exact), effort

    def _fall_back(self, images: np.ndarray, match: Match, rows: np.ndarray) -> Match:
        """``match`` with ``rows`` searched exactly, one by one: no result depends on the images beside it."""
        for row in rows:
            found = self.exact(images[row : row + 1], alone=True)
            for name in Match.__dataclass_fields__:
                getattr(match, name)[row] = getattr(found, name)[0]
        return match


def _first(result: Any, count: int) -> Any:
    """The first ``count`` images of a Match or an Effort."""
    return type(result)(*(getattr(result, name)[:count] for name in result.__dataclass_fields__))


def _raised(distance: np.ndarray, exact: np.ndarray, bmu: np.ndarray, bmu_distance: np.ndarray) -> np.ndarray:
    """Approximate distances (B, N) raised above the best-matching unit's, so that it is the argmin of its row."""
    above = np.nextafter(bmu_distance, np.float32(np.inf))[:, None]
    rival = ~exact & (distance <= bmu_distance[:, None]) & (np.arange(distance.shape[1]) != bmu[:, None])
    return np.where(rival, above, distance)


def _brightness(norms: np.ndarray) -> float:
    """What stands for |w|^2 of a map: the median of ``norms`` (N,), without neurons that are dark or not finite.

    A median, since one bright neuron must not widen the margin of all; neurons that nothing has reached yet (zeros of a
    new map) have no sharp parts to err by, and would make it too narrow.
    """
    finite = norms[np.isfinite(norms)]
    bright = finite[finite > DARK * finite.max(initial=0)]
    return float(np.median(bright)) if len(bright) else 0.0
