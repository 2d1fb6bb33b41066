"""How fast this machine searches by the method of a mapping."""

from skysom.cluster.costs import Workload
from skysom.jobs.plan_rates import MEASURED, least_s, random_images, random_map, search_s


def mapping_search(work: Workload, check_share: float) -> tuple[float, str]:
    """Seconds of the search of one image by one core, and where that comes from, in words.

    Of a certified mapping with the share of the images that is checked by exact search. It is calibrated on the random
    images it is measured with; on a survey its time depends on the margin that is found there.
    """
    sizes = (work.geometry, work.neurons, work.channels)
    if work.method == "exact":
        return search_s(*sizes), MEASURED
    source = f"{MEASURED}, {work.method} search of random images"
    seconds = _other_search_s(work)
    if work.method == "polar":
        return seconds, source
    exact = search_s(*sizes)
    seconds += check_share * exact
    if seconds > exact:
        return exact, f"{MEASURED}, exact search: on random images certified would take longer"
    return seconds, f"{source}, {seconds / exact:.2f} of the time of exact; with a survey's own margin it may differ"


def _other_search_s(work: Workload, repeats: int = 3) -> float:
    """Seconds of the polar or certified search of one image (in a block of 32)."""
    from skysom.engine.blocks import BLOCK_IMAGES
    from skysom.engine.calibration import calibrate
    from skysom.engine.lattice import Cartesian
    from skysom.engine.search import searcher
    from skysom.engine.som import Som

    g, calibration = work.geometry, None
    images = random_images(BLOCK_IMAGES, work.channels, g.image_side)
    weights = random_map(g, work.neurons, work.channels)
    if work.method == "certified":
        som = Som(weights, Cartesian(work.neurons))
        calibration = calibrate(som, images, g.rotations, g.flip, g.region, g.region_side, inner_side=g.inner_side)
    search = searcher(weights, g, work.method, calibration, work.keep or 1)  # type: ignore[arg-type]
    return least_s(lambda: search(images), repeats) / BLOCK_IMAGES
