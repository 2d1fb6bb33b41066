"""Masks for truth recovery: drawn by a script that sees the neurons alone, and drawn from the truth as an upper limit.

Masks are (N, D, D) bool, row and column of the neuron. What is LINKed is drawn on the radio channel, hosts on the
infrared one.
"""

from dataclasses import dataclass

import numpy as np

LINK_NOISE, LINK_SHARE = 5.0, 0.12
"""Emission stands out above so many times the scatter of the background, and this share of the brightest pixel."""
GROWN_PIXELS = 2.5
"""Outlines go so far around what is seen: components lie not exactly where the average has them."""
HOST_RADIUS_PIXELS, HOST_SPREAD = 2.5, 0.18
"""Radius of a host's mask, and of where it is looked for between two parts, as a share of their distance."""
HOST_HEIGHT = 0.5
"""A host's mask is what lies above this share of the height of its infrared peak."""
SIGNIFICANCE = 4.0
"""Infrared light stands out above so many times the scatter of as many background pixels."""
OWN_SHARE = 0.4
"""Infrared light at the centre that is less than this share of that elsewhere is not of a host of the centre."""
LINK_ODDS = 4.0
"""A wrong link spoils two sources, and draws others in: of 1, 2, 4 and 8 (seed 1) 4 recovers most of several parts."""


@dataclass(frozen=True)
class Drawn:
    """link, host : (N, D, D) bool."""

    link: np.ndarray
    host: np.ndarray


def annotator_masks(weights: np.ndarray, shown_radius: float) -> Drawn:
    """What a sensible annotator draws on neurons (N, 2, D, D), of which a disc of ``shown_radius`` pixels is filled.

    Emission apart from the centre is linked where there is more infrared light halfway between the two, or there, than
    at the centre, or where it has a counterpart on the other side of the centre; else it is taken for a neighbour. The
    host is where that light is, or the infrared peak within the emission, or else the middle of the emission.
    """
    link, host = np.zeros((2, len(weights), *weights.shape[2:]), bool)
    for number, (radio, infrared) in enumerate(weights):
        islands = _emission(radio, shown_radius)
        light = _Light(infrared, shown_radius)
        kept, where = _linked(radio, islands, light)
        parts = np.isin(islands, kept)
        link[number] = _grown(parts, GROWN_PIXELS)
        host[number] = _host(radio, parts, light, where)
    return Drawn(link, host)


class _Light:
    """Infrared light above the background of a neuron's channel (D, D), summed over discs."""

    def __init__(self, infrared: np.ndarray, shown_radius: float) -> None:
        side = len(infrared)
        middle = ((side - 1) / 2, (side - 1) / 2)
        background = infrared[_disc(side, middle, shown_radius - 2)]
        median = np.median(background)
        self.excess = infrared - median
        self.scatter = 1.4826 * np.median(np.abs(background - median))

    def within(self, place: tuple[float, float], radius: float) -> tuple[float, bool]:
        """The light in a disc, and whether it stands out."""
        chosen = self.excess[_disc(len(self.excess), place, radius)]
        # the beam ties about five pixels together
        return float(chosen.sum()), bool(chosen.sum() > SIGNIFICANCE * self.scatter * np.sqrt(5 * len(chosen)))


def _emission(radio: np.ndarray, shown_radius: float) -> np.ndarray:
    """Islands (D, D) int of what stands out of one channel; the one at the centre is 1, 0 is the background."""
    from scipy.ndimage import gaussian_filter
    from skimage.measure import label

    side = radio.shape[0]
    smooth, centre = gaussian_filter(radio, 0.7), (side - 1) / 2
    seen = _disc(side, (centre, centre), shown_radius)
    background = smooth[seen]
    median = np.median(background)
    scatter = 1.4826 * np.median(np.abs(background - median))
    bright = seen & (smooth > max(median + LINK_NOISE * scatter, LINK_SHARE * smooth[seen].max()))
    bright |= _disc(side, (centre, centre), 1.5)
    islands = label(bright, connectivity=2)
    first = islands[round(centre), round(centre)]
    sizes = np.bincount(islands.ravel())
    islands[(sizes < 4)[islands] & (islands != first)] = 0
    return np.where(islands == first, 1, np.where(islands == 1, first, islands))


def _linked(
    radio: np.ndarray, islands: np.ndarray, light: _Light
) -> tuple[list[int], tuple[tuple[float, float], float] | None]:
    """The islands that belong to the central one, and the place and radius of their host where it is elsewhere."""
    centre = np.full(2, (len(radio) - 1) / 2)
    others = {part: np.array(_centroid(radio, islands == part)) - centre for part in np.unique(islands) if part > 1}
    own, _ = light.within(tuple(centre), HOST_RADIUS_PIXELS)
    kept, host, most = [1], None, 0.0
    for part, place in others.items():
        for share in (0.5, 1.0):
            spread = HOST_SPREAD * np.hypot(*place) if share < 1 else 0.0
            where, radius = tuple((centre + share * place).tolist()), max(HOST_RADIUS_PIXELS, spread)
            found, stands_out = light.within(where, radius)
            if stands_out and own < OWN_SHARE * found:
                kept.append(part)
                host, most = ((where, radius), found) if found > most else (host, most)
        if any(_opposite(place, other) for other in others.values()):
            kept.append(part)
    return kept, host


def _host(
    radio: np.ndarray, parts: np.ndarray, light: _Light, near: tuple[tuple[float, float], float] | None
) -> np.ndarray:
    """The infrared peak (D, D) within a disc, or within the hull of the emission: all above half of its height.

    A disc about the middle of the emission where none stands out.
    """
    from scipy.ndimage import gaussian_filter
    from skimage.morphology import convex_hull_image
    from skimage.segmentation import flood

    side = len(radio)
    allowed = _disc(side, *near) if near is not None else _grown(convex_hull_image(parts), 1.0)
    smooth = gaussian_filter(light.excess, 0.8)
    row, column = np.unravel_index(np.argmax(np.where(allowed, smooth, -np.inf)), smooth.shape)
    peak = (int(row), int(column))
    if not light.within(peak, HOST_RADIUS_PIXELS)[1]:
        return _disc(side, _centroid(radio, parts), HOST_RADIUS_PIXELS)
    region = flood(smooth > HOST_HEIGHT * smooth[peak], peak)
    return (region & _disc(side, peak, 2 * HOST_RADIUS_PIXELS)) | _disc(side, peak, 1.0)


def _opposite(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two islands lie on opposite sides of the centre, at most 2.2 times as far."""
    near, far = sorted((np.hypot(*one), np.hypot(*other)))
    return bool(one @ other < -0.6 * near * far and far < 2.2 * near)


def _grown(mask: np.ndarray, pixels: float) -> np.ndarray:
    from scipy.ndimage import distance_transform_edt

    return distance_transform_edt(~mask) <= pixels


def _centroid(image: np.ndarray, mask: np.ndarray) -> tuple[float, float]:
    rows, columns = np.nonzero(mask)
    weight = np.maximum(image[mask], 1e-9)
    return float((rows * weight).sum() / weight.sum()), float((columns * weight).sum() / weight.sum())


def _disc(side: int, centre: tuple[float, float], radius: float) -> np.ndarray:
    rows, columns = np.indices((side, side))
    return np.hypot(rows - centre[0], columns - centre[1]) <= radius


# --- from the truth -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Projected:
    """Neighbours in the frame of their source's neuron: neuron (P,), pixels x, y (P,) from its centre, true (P,)."""

    neuron: np.ndarray
    x: np.ndarray
    y: np.ndarray
    true: np.ndarray


def truth_masks(components: Projected, hosts: Projected, neurons: int, side: int) -> Drawn:
    """Masks of those pixels where what lies there mostly belongs to the source, told by the truth.

    components : neighbours in the radio catalogue, true where of one source with the central one. hosts : in the
    infrared catalogue, true for the host. They are drawn from the sky on which they are used, and so a limit.
    """
    return Drawn(_likelier(components, neurons, side, LINK_ODDS), _likelier(hosts, neurons, side, 1.0))


def _likelier(found: Projected, neurons: int, side: int, odds: float) -> np.ndarray:
    """Pixels (N, D, D) where true neighbours are denser than ``odds`` times the others, which vary less, smoothed."""
    from scipy.ndimage import gaussian_filter

    shape = (neurons, side, side)
    place = [found.neuron, np.floor(found.y + side / 2).astype(int), np.floor(found.x + side / 2).astype(int)]
    inside = np.all([(axis >= 0) & (axis < size) for axis, size in zip(place, shape, strict=True)], axis=0)
    flat = np.ravel_multi_index([axis[inside] for axis in place], shape)
    counts = [
        np.bincount(flat[found.true[inside] == kind], minlength=int(np.prod(shape))).reshape(shape).astype(float)
        for kind in (True, False)
    ]
    others = gaussian_filter(counts[1], (0, 2.5, 2.5))
    return gaussian_filter(counts[0], (0, 1.2, 1.2)) > odds * np.maximum(others, 1e-3)
