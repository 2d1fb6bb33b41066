"""How a mapping searches: its method, what that was calibrated to, and which rows are checked again."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from skysom.engine.certified import Calibration, Effort
from skysom.engine.geometry import Geometry
from skysom.jobs import config
from skysom.jobs.config import MapMethod

LEAST_RATIO = 4
"""Fewer rows than so many calibration samples are searched exactly: calibrating costs as much as it saves."""
SEARCH = "search"
"""Attribute of a certified mapping: what its search took and found, when it is complete."""
TIE = 5e-6
"""Relative difference of distances that are equal but for rounding."""


@dataclass(frozen=True)
class Method:
    """The search of a mapping; it never changes while the mapping is made.

    calibration, exact_neurons, check_share, seed : of the certified search; check_share is the share of the rows that
    are searched exactly as well, chosen by their number and ``seed``. reason : why it is not the method asked for.
    """

    name: MapMethod = "exact"
    calibration: Calibration | None = None
    exact_neurons: int = 1
    check_share: float = 0.0
    seed: int = 0
    reason: str = ""

    @property
    def certified(self) -> bool:
        return self.name == "certified"

    def checked(self, start: int, stop: int) -> np.ndarray:
        """Which of the rows [start, stop) are checked, (n,) bool: of each row for itself."""
        return _hashes(np.arange(start, stop, dtype=np.uint64), self.seed) < self.check_share

    def attrs(self) -> dict[str, Any]:
        """What the mapping says about it; `method_of` reads it."""
        found: dict[str, Any] = {"method": self.name}
        if self.reason:
            found["method_reason"] = self.reason
        if self.calibration is not None:
            found |= {
                "calibration": asdict(self.calibration),
                "exact_neurons": self.exact_neurons,
                "check_share": self.check_share,
                "seed": self.seed,
            }
        return found


EXACT = Method()


def method_of(attrs: dict[str, Any], digest: str) -> Method | None:
    """The method of a mapping that was begun with the configuration ``digest``; None where it was not begun.

    A mapping is finished as it was begun, whatever rows have come since: two margins in one would be two mappings.
    """
    if attrs.get("config_hash") != digest:
        return None
    if "calibration" not in attrs:
        return Method(attrs.get("method", "exact"), reason=attrs.get("method_reason", ""))
    calibration = Calibration(**attrs["calibration"])
    return Method(attrs["method"], calibration, attrs["exact_neurons"], attrs["check_share"], attrs["seed"])


def affordable(wanted: config.Map, geometry: Geometry, rows: int) -> Method:
    """The method for ``rows`` rows, not calibrated yet: exact, with the reason, where certified would save nothing."""
    if wanted.method != "certified":
        return Method(wanted.method)
    if geometry.base_rotations == 1:
        return Method(reason=f"{geometry.rotations} rotations need no interpolation, which is what certified saves")
    least = LEAST_RATIO * wanted.calibration_images
    if rows < least:
        return Method(
            reason=f"{rows:,} rows are fewer than {LEAST_RATIO} times map.calibration_images ({least:,}), "
            "so calibrating would cost as much as it saves"
        )
    exact_neurons = wanted.exact_neurons or wanted.keep or 1
    return Method("certified", exact_neurons=exact_neurons, check_share=wanted.check_share)


@dataclass
class Tally:
    """What the search of a shard, or of all shards, took and found.

    mapped rows; of the certified search also: checked rows, those missed among them, images it left to the exact
    search, shards searched exactly because one was missed, candidates of all mapped rows, and the deepest share of
    the margin at which a best match lay.
    """

    mapped: int = 0
    checked: int = 0
    missed: int = 0
    fallback_images: int = 0
    fallback_shards: int = 0
    candidates: int = 0
    depth: float = 0.0

    def worked(self, effort: Effort, rows: np.ndarray) -> None:
        """Count the effort of a block of which the images ``rows`` (B,) bool are mapped."""
        self.candidates += int(effort.candidates[rows].sum())
        self.fallback_images += int(np.count_nonzero(effort.fallback[rows]))
        self.depth = max(self.depth, float(effort.depth[rows].max(initial=0.0)))

    def add(self, counts: dict[str, Any]) -> None:
        """Add what a shard counted; what it did not count was none."""
        for name in ("mapped", "checked", "missed", "fallback_images", "fallback_shards", "candidates"):
            setattr(self, name, getattr(self, name) + int(counts.get(name, 0)))
        self.depth = max(self.depth, float(counts.get("depth", 0.0)))

    def counts(self, method: Method) -> dict[str, Any]:
        """What goes into the ledger: of a search that certifies nothing, the mapped rows."""
        return asdict(self) if method.certified else {"mapped": self.mapped}

    @property
    def miss_limit(self) -> float:
        """Share of the images that the certified search misses at most, with 95 % confidence, by what was checked.

        The upper limit of Clopper and Pearson (1934, Biometrika 26, 404); 1 where nothing was checked.
        """
        from scipy.special import betaincinv

        if self.missed >= self.checked:
            return 1.0
        return float(betaincinv(self.missed + 1, self.checked - self.missed, 0.95))

    def summary(self) -> dict[str, Any]:
        """The counts of a whole certified mapping, for its attributes and the history."""
        return asdict(self) | {"miss_limit": self.miss_limit}

    def words(self) -> str:
        """The end of the closing line of a certified mapping."""
        missed = f"{self.missed:,} missed" if self.missed else "none missed"
        shards = f", {self.fallback_shards:,} {'shard' if self.fallback_shards == 1 else 'shards'} searched exactly"
        return f"; certified: {self.checked:,} re-checked, {missed}{shards if self.fallback_shards else ''}"


def _hashes(values: np.ndarray, seed: int) -> np.ndarray:
    """Numbers (n,) float64 in [0, 1) of uint64 ``values``: the finaliser of SplitMix64 (Steele et al. 2014, OOPSLA)."""
    x = values + np.uint64(seed)
    x = (x + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((x ^ (x >> np.uint64(31))) >> np.uint64(11)) * 2.0**-53
