"""Search, update and preprocessing of self-organizing maps: pure functions on arrays."""

from skysom.engine.batch import train_batched
from skysom.engine.errors import EngineError
from skysom.engine.geometry import Geometry
from skysom.engine.lattice import Cartesian, Hexagonal
from skysom.engine.neighbourhood import Neighbourhood
from skysom.engine.search import Match, best_match
from skysom.engine.som import Som
from skysom.engine.update import TrainingResult, train_online

__all__ = [
    "Cartesian",
    "EngineError",
    "Geometry",
    "Hexagonal",
    "Match",
    "Neighbourhood",
    "Som",
    "TrainingResult",
    "best_match",
    "train_batched",
    "train_online",
]
