"""Growing hierarchical maps: which neurons hold sources too unlike for one, and how large their own map is.

After the growing hierarchical self-organizing map: Rauber, Merkl and Dittenbach, IEEE Transactions on Neural Networks
13 (2002) 1331, whose rule is applied to the mean distance of a neuron's members.
"""

import math

import numpy as np

from skysom.engine.errors import ReadingError
from skysom.engine.lattice import Cartesian, Hexagonal, Lattice


def neurons_to_grow(members: np.ndarray, mean: np.ndarray, tau: float, least_members: int) -> np.ndarray:
    """Neurons (G,) int64, ascending, whose members lie further than ``tau`` times the mean distance of all sources.

    members : (N,) int, sources of each neuron; mean : (N,) float64, their mean distance, NaN where there are none (see
    `dispersion.neuron_distances`). Neurons of fewer than ``least_members`` are left as they are. Raises ReadingError
    for arrays of different lengths, a mapping without a member, a tau that is no number above 0, or fewer than one
    member.
    """
    members, mean = np.asarray(members), np.asarray(mean, np.float64)
    if members.shape != mean.shape or members.ndim != 1 or members.sum() == 0:
        raise ReadingError(
            f"members have shape {members.shape}, {members.sum()} in all, and mean distances {mean.shape}; give both "
            "of every neuron, of sources that are mapped"
        )
    if not (tau > 0 and math.isfinite(tau)) or least_members < 1:
        raise ReadingError(f"tau is {tau} and the least members {least_members}; give numbers above 0")
    overall = np.average(np.where(members > 0, mean, 0), weights=members)
    with np.errstate(invalid="ignore"):
        return np.flatnonzero((mean > tau * overall) & (members >= least_members))


def child_lattice(parent: Lattice, members: int, members_a_neuron: int = 20) -> Lattice:
    """A lattice of the parent's kind for ``members`` sources, about ``members_a_neuron`` on each neuron.

    Square, or a hexagon of odd width; from 2 (3) neurons across to as many as the parent. In three dimensions flat.
    """
    neurons = max(members // members_a_neuron, 1)
    if isinstance(parent, Hexagonal):
        radius = int((math.sqrt(12 * neurons - 3) - 3) / 6)  # 3 r (r + 1) + 1 neurons
        return Hexagonal(min(max(2 * radius + 1, 3), parent.width), parent.periodic)
    side = min(max(math.isqrt(neurons), 2), max(parent.width, parent.height))
    return Cartesian(side, side, 1, parent.periodic)
