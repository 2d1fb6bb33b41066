"""Pictures of maps, neurons and images: axes in, axes out.

Every ``draw_`` function takes matplotlib axes (None makes a figure, reached by ``axes.figure``) and returns them;
nothing is shown, saved or kept in pyplot's global state. Orientation and colours: `skysom.jobs.pictures.style`.

>>> from skysom.jobs.pictures import draw_map
>>> draw_map(None, weights, lattice).figure.savefig("map.png", dpi=150)
"""

from skysom.jobs.pictures.curves import draw_confusion, draw_distances, draw_learning_curve, draw_training
from skysom.jobs.pictures.grouping import draw_components, draw_grouping
from skysom.jobs.pictures.images import draw_frames, draw_image, draw_members, draw_neuron, draw_worst, scale_bar
from skysom.jobs.pictures.lattices import (
    draw_coherence,
    draw_hits,
    draw_label_counts,
    draw_labels,
    draw_map,
    draw_u_matrix,
    draw_values,
)
from skysom.jobs.pictures.masks import draw_masks
from skysom.jobs.pictures.positions import mark_sources, sky_axes
from skysom.jobs.pictures.preparation import draw_preparation, preparation_stages
from skysom.jobs.pictures.style import new_sheet

__all__ = [
    "draw_coherence",
    "draw_components",
    "draw_confusion",
    "draw_distances",
    "draw_frames",
    "draw_grouping",
    "draw_hits",
    "draw_image",
    "draw_label_counts",
    "draw_labels",
    "draw_learning_curve",
    "draw_map",
    "draw_masks",
    "draw_members",
    "draw_neuron",
    "draw_preparation",
    "draw_training",
    "draw_u_matrix",
    "draw_values",
    "draw_worst",
    "mark_sources",
    "new_sheet",
    "preparation_stages",
    "scale_bar",
    "sky_axes",
]
