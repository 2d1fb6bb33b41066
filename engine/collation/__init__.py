"""From components to sources: masks of neurons laid on the sky, actions on what lies under them, groups.

    base and other catalogues --neighbour_pairs--> pairs --carried_bits--> Carried --group--> Groups

`sky_boxes` cuts the sky into boxes that are worked on one by one, `neighbours` finds who lies near whom, `projection`
looks neighbours up in the masks of a source's neuron (`orientation`: how the images lie on the sky), `carried` holds
what was found. `actions`, `orders`, `islands` and `grouping` make groups of it, `shapes` measures them.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from skysom.engine.collation.carried import Carried
    from skysom.engine.collation.mask_words import label_planes, mask_bits, mask_reach_arcsec
    from skysom.engine.collation.neighbours import neighbour_pairs, separations_arcsec, unit_vectors
    from skysom.engine.collation.offsets import (
        mask_pixel,
        neuron_offsets,
        pixel_offsets,
        pixel_offsets_of_wcs,
        sky_offsets_arcsec,
    )
    from skysom.engine.collation.orientation import (
        Orientation,
        mapping_frames,
        prepared_pixel_scale,
        wcs_orientation,
    )
    from skysom.engine.collation.projection import (
        Frames,
        Projected,
        bits_of_offsets,
        carried_bits,
        carried_of_channel,
        project,
    )
    from skysom.engine.collation.sky_boxes import SkyBoxes, partition_sky

_HOMES = {
    "Carried": "carried",
    "Frames": "projection",
    "Orientation": "orientation",
    "Projected": "projection",
    "SkyBoxes": "sky_boxes",
    "bits_of_offsets": "projection",
    "carried_bits": "projection",
    "carried_of_channel": "projection",
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
    "prepared_pixel_scale": "orientation",
    "project": "projection",
    "separations_arcsec": "neighbours",
    "sky_offsets_arcsec": "offsets",
    "unit_vectors": "neighbours",
    "wcs_orientation": "orientation",
}

__all__ = [
    "Carried",
    "Frames",
    "Orientation",
    "Projected",
    "SkyBoxes",
    "bits_of_offsets",
    "carried_bits",
    "carried_of_channel",
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
    "prepared_pixel_scale",
    "project",
    "separations_arcsec",
    "sky_offsets_arcsec",
    "unit_vectors",
    "wcs_orientation",
]


def __getattr__(name: str) -> Any:
    """A public name, from its module when it is first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
