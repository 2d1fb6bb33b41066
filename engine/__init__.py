"""Search, update and preprocessing of self-organizing maps: pure functions on arrays."""

from skysom.engine.batch import train_batched
from skysom.engine.calibration import calibrate
from skysom.engine.certified import Calibration
from skysom.engine.errors import EngineError
from skysom.engine.feature_training import train_features
from skysom.engine.features import FeatureSom, match_features
from skysom.engine.geometry import Geometry
from skysom.engine.lattice import Cartesian, Hexagonal
from skysom.engine.neighbourhood import Neighbourhood
from skysom.engine.search import Match, best_match
from skysom.engine.som import Som
from skysom.engine.update import TrainingResult, train_online

__all__ = [
    "Calibration",
    "Cartesian",
    "EngineError",
    "FeatureSom",
    "Geometry",
    "Hexagonal",
    "Match",
    "Neighbourhood",
    "Som",
    "TrainingResult",
    "best_match",
    "calibrate",
    "match_features",
    "train_batched",
    "train_features",
    "train_online",
]
