"""Do masks on neurons find the sources of a sky whose sources are known? The tables of `engine/collation/collation.md`.

    python tests/benchmarks/collation_truth.py [--quick] [--components N] [--seed N] [--markdown FILE] [--keep FOLDER]

A sky of radio and infrared sources (`skysom.jobs.demo_infrared`) at the density of a deep survey (1,000 components a
square degree) and of a wide one (100); cut-outs, a map of both channels and a mapping by `skysom run`; masks drawn by
script without the truth, and from the truth; `skysom collate` with each, and linking of neighbours at the distance that
does best as baseline. Some minutes on two idle cores, a tenth of that with --quick.
"""

import argparse
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from collation_truth_masks import Drawn, Projected, annotator_masks, truth_masks
from collation_truth_scores import (
    HOST_RADII_ARCSEC,
    Found,
    Truth,
    best_length,
    linked_neighbours,
    nearest_hosts,
    score_groups,
    score_hosts,
)
from threadpoolctl import threadpool_limits

from skysom.jobs.demo_infrared import PIXEL_ARCSEC, SimulatedSky, simulate_sky

SIDE = 68
"""Pixels of a cut-out: 170 arcsec."""
REACH_ARCSEC = 100.0
LABELS = {"related radio": "LINK", "host": "DATA_ATTACH"}
STEPS = [
    {"step": "circular_mask"},
    {"step": "noise"},
    {"step": "signal_to_noise_mask", "threshold": 3.0, "channels": [0]},
    {"step": "islands", "minimum_pixels": 4, "channels": [0]},
    {"step": "signal_to_noise_mask", "threshold": 2.0, "channels": [1]},
    {"step": "transfer", "function": "sqrt"},
    {"step": "min_max"},
]
STAGES = [
    {"sigma": 2.5, "rate": 0.1, "rotations": 92, "iterations": 2},
    {"sigma": 1.5, "rate": 0.05, "rotations": 92, "iterations": 2},
    {"sigma": 0.7, "rate": 0.05, "rotations": 180, "iterations": 3},
]
WEIGHTS = (0.95, 0.05)
"""The infrared sky is mostly of others: it follows the radio morphology, and averages out."""


@dataclass(frozen=True)
class Field:
    """A simulated field: its name and the density of its components."""

    name: str
    components_deg2: float
    share: float


FIELDS = (Field("deep", 1000.0, 1.0), Field("wide", 100.0, 0.5))


def mapped_sky(folder: Path, field: Field, components: int, seed: int, quick: bool) -> SimulatedSky:
    """Simulate a field in ``folder``, cut it, train and map: ``folder/output`` is an output of skysom."""
    from skysom.cluster.shards import Runtime
    from skysom.jobs.config import load_config
    from skysom.jobs.output import Output
    from skysom.jobs.run import run

    sky = simulate_sky(folder, components, seed, components_deg2=field.components_deg2)
    table = cut(sky, folder / "cutouts")
    stages = [stage | {"iterations": 1, "rotations": 60} for stage in STAGES] if quick else STAGES
    width = 6 if quick else 10
    config = load_config(
        None,
        flags={
            "images": tuple(str(folder / "cutouts" / name) for name in ("radio", "infrared")),
            "catalogue": str(table),
            "ingest.side_pixels": SIDE,
            "ingest.channels": ("radio", "infrared"),
            "preprocess.steps": STEPS,
            "preprocess.channel_weights": WEIGHTS,
            "som.width": width,
            "som.height": width,
            "som.region": "circular",
            "train.stages": stages,
        },
    )
    run(config, Output(folder / "output"), Runtime(workers=2))
    return sky


def cut(sky: SimulatedSky, folder: Path) -> Path:
    """Write a cut-out of each channel about every component; returns the catalogue with their names."""
    from astropy.io import fits
    from astropy.wcs import WCS
    from scipy.ndimage import map_coordinates

    table = pd.read_csv(sky.radio_catalogue)
    table["filename"] = [f"{name}.fits" for name in table["source_id"]]
    grid = np.indices((SIDE, SIDE)) - (SIDE - 1) / 2
    for channel, images in (("radio", sky.radio), ("infrared", sky.infrared)):
        (folder / channel).mkdir(parents=True, exist_ok=True)
        with fits.open(images / "field.fits") as file:
            plane, wcs = file[0].data.astype(np.float32), WCS(file[0].header)
        where = np.stack(wcs.world_to_pixel_values(table["ra"].to_numpy(), table["dec"].to_numpy()), axis=1)
        for name, (x, y) in zip(table["filename"], where, strict=True):
            image = map_coordinates(plane, [grid[0] + y, grid[1] + x], order=1, mode="nearest", output=np.float32)
            header = wcs.deepcopy().to_header()
            header["CRPIX1"] += (SIDE - 1) / 2 - x
            header["CRPIX2"] += (SIDE - 1) / 2 - y
            fits.PrimaryHDU(image, header).writeto(folder / channel / name, overwrite=True)
    table.to_csv(folder.parent / "components.csv", index=False, float_format="%.7f")
    return folder.parent / "components.csv"


# --- masks, and what they find --------------------------------------------------------------------


def save_masks(folder: Path, drawn: Drawn, author: str) -> None:
    """Keep masks as annotations of the map, in place of those that are there."""
    from skysom.jobs.annotate import annotations_of, save_annotations
    from skysom.jobs.output import Output
    from skysom.storage.annotation_set import with_label, with_masks

    output = Output(folder / "output")
    annotations = annotations_of(output)
    for label in LABELS:
        if label not in annotations.labels:
            annotations = with_label(annotations, label, author=author)
    masks = {}
    for channel, (label, planes) in enumerate(zip(LABELS, (drawn.link, drawn.host), strict=True)):
        masks |= {(neuron, channel, label): plane for neuron, plane in enumerate(planes)}
    save_annotations(output, "main", with_masks(annotations, masks, author=author), author)


def collated(folder: Path, sky: SimulatedSky, name: str) -> Found:
    """What `collate` finds with the annotations that are there, as groups and hosts."""
    from skysom.jobs.collation.collate import CollateSettings, collate
    from skysom.jobs.collation.inputs_assembly import CollateOptions
    from skysom.jobs.collation.inputs_catalogue import CatalogueChoice
    from skysom.jobs.collation.inputs_output import inputs_from_output
    from skysom.jobs.output import Output

    actions = folder / "actions.toml"
    actions.write_text("".join(f'"{label}" = "{action}"\n' for label, action in LABELS.items()))
    options = CollateOptions(
        (CatalogueChoice(str(folder / "components.csv")), CatalogueChoice(str(sky.infrared_catalogue))),
        str(actions),
        flux_columns=("total_mjy",),
        unannotated="singletons",
    )
    inputs = inputs_from_output(Output(folder / "output"), options)
    collate(inputs, folder / name, CollateSettings(redo=True), scheduler="threads")
    sources = pd.read_parquet(folder / name / "sources.parquet")
    group = np.empty(int(sources["components"].sum()), np.int64)
    for number, members in enumerate(sources["members"]):
        group[members] = number
    return Found(group, [list(map(int, rows)) for rows in sources["host_rows"]])


def projected(folder: Path, sky: SimulatedSky, truth: Truth) -> tuple[Projected, Projected]:
    """Neighbours of all components, in both catalogues, in the frames of the components' neurons, with the truth."""
    from skysom.engine.collation import neighbour_pairs, project, unit_vectors
    from skysom.engine.collation.orientation import mapping_frames
    from skysom.jobs.mapping_reader import MappingReader
    from skysom.jobs.output import Output

    reader = MappingReader(Output(folder / "output"))
    turn = (reader.survey.column(f"mappings/main/{name}") for name in ("bmu_rotation", "bmu_flip"))
    frames = mapping_frames(reader.best_units(), *turn, reader.geometry)
    side = reader.geometry.neuron_side
    nothing = np.zeros((reader.neurons, side, side), np.uint64)
    radio = _positions(folder / "components.csv")
    found = []
    for catalogue in (radio, _positions(sky.infrared_catalogue)):
        pairs = neighbour_pairs(unit_vectors(*radio), unit_vectors(*catalogue), REACH_ARCSEC)
        seen = frames.neuron[pairs[0]] >= 0
        base, other = (index[seen] for index in pairs)
        steps = project(*radio, *catalogue, base, other, frames, nothing, PIXEL_ARCSEC)
        own = (
            truth.source[base] == truth.source[other] if catalogue is radio else truth.host[truth.source[base]] == other
        )
        found.append(Projected(frames.neuron[base], steps.neuron_x, steps.neuron_y, own))
    return found[0], found[1]


def baseline(folder: Path, sky: SimulatedSky, truth: Truth) -> tuple[Found, float, float]:
    """Neighbours linked at the best distance, the nearest infrared row within the best radius; both distances."""
    from skysom.engine.collation import neighbour_pairs, separations_arcsec, unit_vectors

    vectors = unit_vectors(*_positions(folder / "components.csv"))
    index = neighbour_pairs(vectors, vectors, REACH_ARCSEC)
    pairs = (*index, separations_arcsec(vectors, vectors, *index))
    length = best_length(truth, pairs)
    group = linked_neighbours(pairs, len(vectors), length)
    flux = pd.read_csv(folder / "components.csv")["total_mjy"].to_numpy()
    middle = np.stack([np.bincount(group, flux * axis) for axis in vectors.T], axis=1)
    middle /= np.linalg.norm(middle, axis=1, keepdims=True)
    infrared = unit_vectors(*_positions(sky.infrared_catalogue))
    tried = {radius: Found(group, nearest_hosts(middle, infrared, radius)) for radius in HOST_RADII_ARCSEC}
    best = max(
        tried, key=lambda radius: np.prod([score_hosts(truth, tried[radius])[k] for k in ("completeness", "purity")])
    )
    return tried[best], length, best


def _positions(path: Path) -> tuple[np.ndarray, np.ndarray]:
    table = pd.read_csv(path, usecols=["ra", "dec"])
    return table["ra"].to_numpy(), table["dec"].to_numpy()


# --- tables ---------------------------------------------------------------------------------------


def summary_row(truth: Truth, found: Found) -> list[str]:
    """Completeness and purity of all groups, of those of several components, and of hosts."""
    recovered, pure = score_groups(truth, found)
    several, true_several = np.bincount(found.group) > 1, truth.components > 1
    hosts = score_hosts(truth, found)
    numbers = [
        recovered.mean(), pure.mean(), recovered[true_several].mean(), pure[several].mean(),
        hosts["completeness"], hosts["listed"], hosts["purity"], hosts["right_host"],
    ]  # fmt: skip
    return [f"{number:.3f}" for number in numbers]


def detail_rows(truth: Truth, founds: dict[str, Found]) -> Iterable[list[str]]:
    """Completeness by kind of source, and by number of components; purity by the number that a group has."""
    scores = {name: score_groups(truth, found) for name, found in founds.items()}
    for kind in dict.fromkeys(["compact", "double", "triple", "fr1", "bent", "complex"]):
        chosen = truth.kind == kind
        yield [kind, f"{chosen.sum():,}", *(_share(recovered[chosen]) for recovered, _ in scores.values())]
    for count in (1, 2, 3, 4):
        chosen, words = (truth.components == count, str(count)) if count < 4 else (truth.components >= 4, "4 and more")
        yield [
            f"{words} component{'s' * (count > 1)}", f"{chosen.sum():,}",
            *(_share(recovered[chosen]) for recovered, _ in scores.values()),
        ]  # fmt: skip
    for count in (1, 2, 3, 4):
        row = [f"groups of {count if count < 4 else '4 and more'}: purity", ""]
        for name, found in founds.items():
            sizes = np.bincount(found.group)
            row.append(_share(scores[name][1][sizes == count if count < 4 else sizes >= 4]))
        yield row


def _share(values: np.ndarray) -> str:
    """A share with its binomial standard error."""
    if not len(values):
        return ""
    share = values.mean()
    return f"{share:.3f} ± {np.sqrt(share * (1 - share) / len(values)):.3f}"


def field_lines(folder: Path, field: Field, components: int, seed: int, quick: bool) -> list[str]:
    """The tables of one field, as lines of Markdown."""
    sky = mapped_sky(folder, field, components, seed, quick)
    truth = Truth.of(pd.read_csv(sky.truth))
    from skysom.jobs.mapping_reader import MappingReader
    from skysom.jobs.output import Output

    weights = MappingReader(Output(folder / "output")).survey.load_som("main")[0]
    nearest, length, radius = baseline(folder, sky, truth)
    founds = {f"neighbours within {length:.0f}″": nearest}
    drawn = {
        "masks by script": annotator_masks(weights, SIDE / 2),
        "masks by truth": truth_masks(*projected(folder, sky, truth), len(weights), weights.shape[-1]),
    }
    for name, masks in drawn.items():
        save_masks(folder, masks, name)
        founds[name] = collated(folder, sky, name.replace(" ", "_"))
    several = (truth.components > 1).sum()
    return [
        f"{field.name}: {field.components_deg2:,.0f} components a square degree, {len(truth.source):,} components of "
        f"{len(truth.kind):,} sources, {several:,} of several components; {len(weights)} neurons; hosts of the "
        f"baseline within {radius:.0f}″",
        "",
        *_table(
            [
                "",
                "completeness",
                "purity",
                "of several: compl.",
                "purity",
                "hosts: compl.",
                "listed",
                "purity",
                "right",
            ],
            [[name, *summary_row(truth, found)] for name, found in founds.items()],
        ),
        "",
        *_table(["completeness of", "sources", *founds], detail_rows(truth, founds)),
        "",
    ]


def _table(head: list[str], rows: Iterable[list[str]]) -> list[str]:
    return ["| " + " | ".join(head) + " |", "|" + "---|" * len(head), *("| " + " | ".join(row) + " |" for row in rows)]


def main(arguments: list[str] | None = None) -> list[str]:
    """Print the tables; returns their lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="500 components of the deep field, a map of 6x6")
    parser.add_argument("--components", type=int, help="of the deep field; the wide one has half as many")
    parser.add_argument("--seed", type=int, default=2, help="of the sky; the script for masks was made on seed 1")
    parser.add_argument("--markdown", type=Path, help="write the tables to this file")
    parser.add_argument("--keep", type=Path, help="keep skies, maps and collations in this folder")
    options = parser.parse_args(arguments)
    components = options.components or (500 if options.quick else 4000)
    lines = []
    with threadpool_limits(1), tempfile.TemporaryDirectory(prefix="collation-truth-") as temporary:
        for field in FIELDS[:1] if options.quick else FIELDS:
            folder = (options.keep or Path(temporary)) / field.name
            lines += field_lines(folder, field, round(components * field.share), options.seed, options.quick)
            print("\n".join(lines), flush=True)
    if options.markdown:
        options.markdown.write_text("\n".join(lines) + "\n")
    return lines


if __name__ == "__main__":
    main()
