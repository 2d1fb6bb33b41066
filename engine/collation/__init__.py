"""From components to sources: masks of neurons laid on the sky, actions on what lies under them, groups.

    base and other catalogues --neighbour_pairs--> pairs --carried_bits--> Carried --group--> Groups

`sky_boxes` cuts the sky into boxes that are worked on one by one, `neighbours` finds who lies near whom, `projection`
looks neighbours up in the masks of a source's neuron (`orientation`: how the images lie on the sky), `carried` holds
what was found. `actions`, `orders`, `islands` and `grouping` make groups of it, `shapes` measures them.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from skysom.engine.collation.actions import Action, Effect, actions_for
    from skysom.engine.collation.carried import Carried
    from skysom.engine.collation.evidence import attached_rows, label_flags, used_masks
    from skysom.engine.collation.grouping import group
    from skysom.engine.collation.groups import Corrections, Groups
    from skysom.engine.collation.islands import Islands, touching
    from skysom.engine.collation.mask_words import label_planes, mask_bits, mask_reach_arcsec
    from skysom.engine.collation.neighbours import (
        angle_of_chord_arcsec,
        neighbour_pairs,
        positions_of_vectors,
        separations_arcsec,
        unit_vectors,
    )
    from skysom.engine.collation.offsets import (
        mask_pixel,
        neuron_offsets,
        pixel_offsets,
        pixel_offsets_of_wcs,
        sky_offsets_arcsec,
    )
    from skysom.engine.collation.orientation import Orientation, mapping_frames, prepared_pixel_scale, wcs_orientation
    from skysom.engine.collation.projection import (
        Frames,
        Projected,
        bits_of_offsets,
        carried_bits,
        carried_of_channel,
        project,
    )
    from skysom.engine.collation.shapes import Shapes, group_shapes, ranked_by_separation
    from skysom.engine.collation.sky_boxes import SkyBoxes, partition_sky

_HOMES = {
    "Action": "actions",
    "Carried": "carried",
    "Corrections": "groups",
    "Effect": "actions",
    "Frames": "projection",
    "Groups": "groups",
    "Islands": "islands",
    "Orientation": "orientation",
    "Projected": "projection",
    "Shapes": "shapes",
    "SkyBoxes": "sky_boxes",
    "actions_for": "actions",
    "angle_of_chord_arcsec": "neighbours",
    "attached_rows": "evidence",
    "bits_of_offsets": "projection",
    "carried_bits": "projection",
    "carried_of_channel": "projection",
    "group": "grouping",
    "group_shapes": "shapes",
    "label_flags": "evidence",
    "label_planes": "mask_words",
    "mapping_frames": "orientation",
    "mask_bits": "mask_words",
    "mask_pixel": "offsets",
    "mask_reach_arcsec": "mask_words",
    "neighbour_pairs": "neighbours",
    "neuron_offsets": "offsets",
    "partition_sky": "sky_boxes",
    "pixel_offsets": "offsets",
    "pixel_offsets_of_wcs": "offsets",
    "positions_of_vectors": "neighbours",
    "prepared_pixel_scale": "orientation",
    "project": "projection",
    "ranked_by_separation": "shapes",
    "separations_arcsec": "neighbours",
    "sky_offsets_arcsec": "offsets",
    "touching": "islands",
    "unit_vectors": "neighbours",
    "used_masks": "evidence",
    "wcs_orientation": "orientation",
}

__all__ = [
    "Action",
    "Carried",
    "Corrections",
    "Effect",
    "Frames",
    "Groups",
    "Islands",
    "Orientation",
    "Projected",
    "Shapes",
    "SkyBoxes",
    "actions_for",
    "angle_of_chord_arcsec",
    "attached_rows",
    "bits_of_offsets",
    "carried_bits",
    "carried_of_channel",
    "group",
    "group_shapes",
    "label_flags",
    "label_planes",
    "mapping_frames",
    "mask_bits",
    "mask_pixel",
    "mask_reach_arcsec",
    "neighbour_pairs",
    "neuron_offsets",
    "partition_sky",
    "pixel_offsets",
    "pixel_offsets_of_wcs",
    "positions_of_vectors",
    "prepared_pixel_scale",
    "project",
    "ranked_by_separation",
    "separations_arcsec",
    "sky_offsets_arcsec",
    "touching",
    "unit_vectors",
    "used_masks",
    "wcs_orientation",
]


def __getattr__(name: str) -> Any:
    """A public name, from its module when it is first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
