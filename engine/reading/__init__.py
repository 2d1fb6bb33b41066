"""Reading a map: what a trained map and a mapping say, on arrays.

Neurons are numbered by `skysom.engine.lattice`; -1 is no neuron. Distances are NaN where an image was not mapped.
"""

from skysom.engine.reading.agreement import Agreement, AgreementSums, adjacent, neighbours
from skysom.engine.reading.classifiers import (
    Classifier,
    CrossValidation,
    LearningPoint,
    cross_validate,
    fit_classifier,
    learning_curve,
)
from skysom.engine.reading.dispersion import NeuronDistances, SizeAdvice, edge_neurons, neuron_distances, size_advice
from skysom.engine.reading.features import FeatureSettings, amplitude_features, distance_features, feature_matrix
from skysom.engine.reading.folds import Fold, merge_rare, split_folds
from skysom.engine.reading.labels import (
    LabelCounts,
    LabelSums,
    NeuronLabels,
    encode_labels,
    label_counts,
    majority_labels,
    neuron_values,
    transfer,
)
from skysom.engine.reading.similar import SimilarImages, SimilarProfiles, nearest_images, one_image_map
from skysom.engine.reading.units import (
    Extremes,
    Members,
    best_units,
    excluded_mask,
    hit_counts,
    keep_best,
    members,
    nth_best,
    spread_kept,
    worst_rows,
)

__all__ = [
    "Agreement",
    "AgreementSums",
    "Classifier",
    "CrossValidation",
    "Extremes",
    "FeatureSettings",
    "Fold",
    "LabelCounts",
    "LabelSums",
    "LearningPoint",
    "Members",
    "NeuronDistances",
    "NeuronLabels",
    "SimilarImages",
    "SimilarProfiles",
    "SizeAdvice",
    "adjacent",
    "amplitude_features",
    "best_units",
    "cross_validate",
    "distance_features",
    "edge_neurons",
    "encode_labels",
    "excluded_mask",
    "feature_matrix",
    "fit_classifier",
    "hit_counts",
    "keep_best",
    "label_counts",
    "learning_curve",
    "majority_labels",
    "members",
    "merge_rare",
    "nearest_images",
    "neighbours",
    "neuron_distances",
    "neuron_values",
    "nth_best",
    "one_image_map",
    "size_advice",
    "split_folds",
    "spread_kept",
    "transfer",
    "worst_rows",
]
