"""The peer's command line: its options, their ranges, and what they mean for skysom."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from skysom.jobs.errors import ConfigError

KINDS = {"gaussian": "gaussian", "unitygaussian": "unity_gaussian", "mexicanhat": "mexican_hat"}
INITIAL = ("zero", "random", "random_with_preferred_direction")
LARGEST = 2**31 - 1


@dataclass(frozen=True)
class PinkOptions:
    """A checked command line; ``None`` leaves a value to be derived from the images.

    width, height, depth : lattice sides.
    initial : one of INITIAL, or None where ``initial_file`` is given.
    store : off, overwrite or keep.
    """

    data: Path
    result: Path
    som: Path | None
    transforms: Path | None
    width: int
    height: int
    depth: int
    layout: str
    periodic: bool
    rotations: int
    flip: bool
    region: str
    region_side: int | None
    neuron_side: int | None
    kind: str
    sigma: float
    rate: float
    max_update_distance: float | None
    initial: str | None
    initial_file: Path | None
    iterations: int
    shuffle: bool
    seed: int
    store: str
    progress: int
    threads: int
    verbose: bool


class _Parser(argparse.ArgumentParser):
    """Raises instead of ending the process with a status that the peer does not use."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; `skysom pink --help` lists the options")


def parser() -> argparse.ArgumentParser:
    """The options by their own names; abbreviations are accepted where they are unambiguous."""
    p = _Parser(prog="skysom pink", description="Train and map with PINK's command line and files.")
    p.add_argument("-v", "--version", action="store_true", help="print the version")
    p.add_argument("--train", nargs=2, metavar=("DATA", "RESULT"), help="train a map on the images DATA")
    p.add_argument("--map", nargs=3, metavar=("DATA", "RESULT", "SOM"), help="map the images DATA onto SOM")
    _add_map_options(p)
    _add_matching_options(p)
    _add_training_options(p)
    _add_running_options(p)
    p.add_argument("ignored", nargs="*", help=argparse.SUPPRESS)
    return p


def _add_map_options(p: argparse.ArgumentParser) -> None:
    p.add_argument("--som-width", type=_integer, default=10, metavar="N", help="first side of the map (10)")
    p.add_argument("--som-height", type=_integer, default=10, metavar="N", help="second side (10)")
    p.add_argument("--som-depth", type=_integer, default=1, metavar="N", help="third side (1)")
    p.add_argument("-l", "--layout", default="cartesian", metavar="NAME", help="cartesian or hexagonal")
    p.add_argument("--pbc", action="store_true", help="join opposite edges of the map")
    help = "side of a neuron in pixels (the whole turned image)"
    p.add_argument("-d", "--neuron-dimension", type=_integer, metavar="N", help=help)


def _add_matching_options(p: argparse.ArgumentParser) -> None:
    p.add_argument("-n", "--numrot", type=_integer, default=360, metavar="N", help="rotations: 1 or 4, 8 ...")
    p.add_argument("--flip-off", action="store_true", help="do not mirror the images")
    p.add_argument("--interpolation", default="bilinear", metavar="NAME", help="bilinear")
    name = "--euclidean-distance-"
    p.add_argument(f"{name}dimension", type=_integer, metavar="N", help="side of the compared region in pixels")
    p.add_argument(f"{name}shape", default="quadratic", metavar="NAME", help="quadratic or circular")
    p.add_argument(f"{name}type", default="float", metavar="NAME", help="accepted, always float32 here")
    p.add_argument("--store-rot-flip", type=Path, metavar="FILE", help="with --map: write best transforms")


def _add_training_options(p: argparse.ArgumentParser) -> None:
    help = "gaussian, unitygaussian or mexicanHat, sigma and damping (gaussian 1.1 0.2)"
    metavar = ("NAME", "SIGMA", "DAMPING")
    p.add_argument("-f", "--dist-func", nargs=3, default=("gaussian", "1.1", "0.2"), metavar=metavar, help=help)
    p.add_argument("-x", "--init", default="zero", metavar="NAME", help=f"{', '.join(INITIAL)} or a SOM file")
    p.add_argument("--max-update-distance", type=_positive, metavar="X", help="neurons nearer than this move")
    p.add_argument("--num-iter", type=_integer, default=1, metavar="N", help="passes over the images (1)")
    p.add_argument("--input-shuffle-off", action="store_true", help="take the images in file order")
    p.add_argument("-s", "--seed", type=_integer, default=1234, metavar="N", help="of start and order (1234)")
    p.add_argument("--inter-store", default="off", metavar="NAME", help="maps on the way: off, overwrite, keep")


def _add_running_options(p: argparse.ArgumentParser) -> None:
    p.add_argument("-p", "--progress", type=_integer, default=10, metavar="N", help="steps reported (10)")
    p.add_argument("-t", "--numthreads", type=_integer, default=0, metavar="N", help="threads (all cores)")
    p.add_argument("--verbose", action="store_true", help="print the derived sizes")
    p.add_argument("--cuda-off", action="store_true", help="accepted, not needed")
    p.add_argument("--b1", type=_integer, metavar="N", help="accepted, not needed")


def parse(argv: list[str]) -> PinkOptions | None:
    """Check a command line; None where only the version is asked for.

    Raises ConfigError with the sentence for the user, SystemExit(0) after printing the help.
    """
    values = parser().parse_intermixed_args(argv)
    if values.version:
        return None
    if (values.train is None) == (values.map is None):
        found = "neither was" if values.train is None else "both were"
        raise ConfigError(f"give one of --train and --map: {found} given; `skysom pink --help` shows them")
    files = [Path(name) for name in values.train or values.map]
    layout = _choice("--layout", values.layout, ("cartesian", "hexagonal"))
    _check_ranges(values)
    if layout == "hexagonal":
        _check_hexagonal(values)
    _check_interpolation(values)
    _choice("--euclidean-distance-type", values.euclidean_distance_type, ("float", "uint16", "uint8"))
    kind, sigma, rate = _neighbourhood(*values.dist_func)
    initial = values.init.lower() if values.init.lower() in INITIAL else None
    return PinkOptions(
        data=files[0],
        result=files[1],
        som=files[2] if values.map else None,
        transforms=values.store_rot_flip if values.map else None,
        width=values.som_width,
        height=values.som_height,
        depth=values.som_depth,
        layout=layout,
        periodic=values.pbc,
        rotations=values.numrot,
        flip=not values.flip_off,
        region=_choice("--euclidean-distance-shape", values.euclidean_distance_shape, ("quadratic", "circular")),
        region_side=values.euclidean_distance_dimension,
        neuron_side=values.neuron_dimension,
        kind=kind,
        sigma=sigma,
        rate=rate,
        max_update_distance=values.max_update_distance,
        initial=initial,
        initial_file=None if initial or values.map else Path(values.init),
        iterations=values.num_iter,
        shuffle=not values.input_shuffle_off,
        seed=values.seed,
        store=_store(values, files[1]),
        progress=values.progress,
        threads=values.numthreads,
        verbose=values.verbose,
    )


def _check_ranges(values: Any) -> None:
    if values.numrot != 1 and (values.numrot == 0 or values.numrot % 4):
        raise ConfigError(f"--numrot is {values.numrot}; use 1 or a multiple of 4")
    least = {"som_width": 2, "som_height": 1, "som_depth": 1, "num_iter": 1, "progress": 1}
    least |= {"neuron_dimension": 1, "euclidean_distance_dimension": 1}
    for name, smallest in least.items():
        value = getattr(values, name)
        if value is not None and value < smallest:
            raise ConfigError(f"--{name.replace('_', '-')} is {value}; use at least {smallest}")


def _check_hexagonal(values: Any) -> None:
    width, height, depth = values.som_width, values.som_height, values.som_depth
    if width != height or width % 2 == 0 or depth != 1:
        raise ConfigError(
            f"a hexagonal map of --som-width {width}, --som-height {height}, --som-depth {depth} cannot be "
            "built; use an odd width, the same height and depth 1"
        )


def _check_interpolation(values: Any) -> None:
    name = _choice("--interpolation", values.interpolation, ("bilinear", "nearest_neighbor"))
    if name == "nearest_neighbor" and values.numrot > 4:
        raise ConfigError(
            f"--interpolation nearest_neighbor works with --numrot 1 or 4, which need no interpolation; "
            f"--numrot is {values.numrot}, use --interpolation bilinear"
        )


def _neighbourhood(name: str, sigma: str, damping: str) -> tuple[str, float, float]:
    if sigma.startswith("-") or damping.startswith("-"):
        raise ConfigError(f"--dist-func needs a name, sigma and damping >= 0; got {name} {sigma} {damping}")
    kind = KINDS.get(name.lower())
    if kind is None:
        raise ConfigError(f"--dist-func {name} is unknown; use gaussian, unitygaussian or mexicanHat")
    width, rate = _number("--dist-func SIGMA", sigma), _number("--dist-func DAMPING", damping)
    if kind == "mexican_hat" and width <= 0:
        raise ConfigError(f"--dist-func mexicanHat has sigma {sigma}; use a positive one")
    return kind, width, rate


def _store(values: Any, result: Path) -> str:
    store = _choice("--inter-store", values.inter_store, ("off", "overwrite", "keep"))
    if store == "keep" and values.train and not result.suffix:
        raise ConfigError(
            f"--inter-store keep numbers its files before the suffix, and {result} has none; name it {result}.bin"
        )
    return store


def _choice(option: str, value: str, allowed: tuple[str, ...]) -> str:
    if value.lower() not in allowed:
        raise ConfigError(f"{option} is {value}; use one of {', '.join(allowed)}")
    return value.lower()


def _number(option: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise ConfigError(f"{option} is {text}; use a number") from None
    if not abs(value) < float("inf"):
        raise ConfigError(f"{option} is {text}; use a finite number")
    return value


def _integer(text: str) -> int:
    """A whole number 0 .. 2^31 - 1, for argparse."""
    if not text.isascii() or not text.isdigit() or int(text) > LARGEST:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from 0 to {LARGEST}")
    return int(text)


def _positive(text: str) -> float:
    """A finite number above 0, for argparse."""
    try:
        value = float(text)
    except ValueError:
        value = 0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
    return value
