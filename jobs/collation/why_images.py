"""Images of components for the picture of a source: cut-outs as they lie on the sky, stitched where they overlap."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np

from skysom.jobs.collation.inputs import CollationInputs
from skysom.jobs.collation.why_island import Island
from skysom.jobs.cutouts import CutoutReader, open_reader
from skysom.jobs.mapping_reader import MappingReader
from skysom.jobs.output import Output
from skysom.storage.pinkfile import open_data


@dataclass(frozen=True, eq=False)
class Cutout:
    """An image (C, H, H), its pixel in arcsec, and the matrix (2, 2) that takes an offset (x, y) of an image of which
    north is up and east left to the offset in this one, in pixels of either.
    """

    image: np.ndarray
    pixel_arcsec: float
    matrix: np.ndarray


class Images(Protocol):
    """Where images of components come from."""

    def cutouts(self, inputs: CollationInputs, island: Island, rows: Sequence[int]) -> Mapping[int, Cutout]:
        """Cut-outs by base row, of those of ``rows`` that have one."""


class SurveyImages:
    """Cut-outs of an output as they were ingested, before preprocessing; read again where the store keeps none.

    Raises MissingStageError where there is no such mapping.
    """

    def __init__(self, output: Output, som_name: str = "main") -> None:
        self.reader = MappingReader(output, som_name)

    def cutouts(self, inputs: CollationInputs, island: Island, rows: Sequence[int]) -> Mapping[int, Cutout]:
        """Cut-outs by base row; components are found by their id."""
        survey = self.reader.survey
        if not survey.attrs["parts"] and not {"images", "prepared"} & set(survey.group.array_keys()):
            return {}  # imported without images
        wanted = {island.base.name(row): int(row) for row in rows}
        own = np.flatnonzero(np.isin(survey.column("source_id").astype(object), np.array(list(wanted), object)))
        found: dict[int, Cutout] = {}
        scale = survey.attrs.get("pixel_scale_arcsec") or inputs.pixel_scale_arcsec[0]
        for row in own.tolist():
            base_row = wanted[str(np.asarray(survey["source_id"][row]))]
            image = self._image(row)
            if base_row not in found and np.isfinite(image).any():
                found[base_row] = Cutout(image, float(scale), self._matrix(inputs, base_row, row))
        return found

    @cached_property
    def _cutter(self) -> CutoutReader:
        """What cuts images of a survey that keeps none."""
        return open_reader(self.reader.output.survey, self.reader.output.catalogue)

    def _image(self, row: int) -> np.ndarray:
        survey = self.reader.survey
        if "images" in survey:
            return np.asarray(survey["images"][row], np.float32)
        if survey.attrs["parts"]:
            return self._cutter.read(row, row + 1)[0][0]
        return np.asarray(survey["prepared"][row], np.float32)

    def _matrix(self, inputs: CollationInputs, base_row: int, row: int) -> np.ndarray:
        """From the sky onto the neuron, and back from the neuron to the image."""
        mapped, geometry = inputs.mapped, self.reader.geometry
        at = int(np.searchsorted(mapped.row, base_row))
        if at == len(mapped) or mapped.row[at] != base_row:
            return np.eye(2)
        names = ("bmu", "bmu_rotation", "bmu_flip")
        neuron, turn, flip = (int(self.reader.rows(name, np.array([row]))[0]) for name in names)
        if neuron != mapped.neuron[at]:  # neurons were left out
            return np.eye(2)
        image = _turn(float(geometry.angle(turn)), flip)
        return image.T @ _turn(float(mapped.angle_rad[at]), int(mapped.flip[at]))


class PinkImages:
    """Images of a file of the peer's trainer: image i is of base row i, north up and east left.

    Raises PinkFormatError for a damaged file.
    """

    def __init__(self, path: str | Path) -> None:
        self.file = open_data(path)

    def cutouts(self, inputs: CollationInputs, island: Island, rows: Sequence[int]) -> Mapping[int, Cutout]:
        """Cut-outs by base row."""
        there = [int(row) for row in rows if row < self.file.count]
        scale = inputs.pixel_scale_arcsec[0]
        images = self.file.take(there)
        return {row: Cutout(image, scale, np.eye(2)) for row, image in zip(there, images, strict=True)}


def stitched(
    cutouts: Sequence[tuple[Cutout, tuple[float, float]]], channel: int, side: int, pixel_arcsec: float
) -> np.ndarray:
    """One channel of cut-outs on a common grid (side, side) float32, north up and east left; NaN where there is none.

    cutouts : with the place (east, north) in arcsec of each from the middle of the picture. Earlier ones lie on top;
    pixels are interpolated bilinearly.
    """
    from scipy.ndimage import map_coordinates

    found = np.full((side, side), np.nan, np.float32)
    rows, columns = np.indices((side, side)) - (side - 1) / 2
    for cutout, (east, north) in cutouts:
        x = (columns * pixel_arcsec + east) / cutout.pixel_arcsec
        y = (rows * pixel_arcsec - north) / cutout.pixel_arcsec
        u, v = np.tensordot(cutout.matrix, np.stack([x, y]), 1)
        plane = cutout.image[channel]
        centre = (np.array(plane.shape) - 1) / 2
        own = map_coordinates(plane, [v + centre[0], u + centre[1]], order=1, cval=np.nan)
        found = np.where(np.isfinite(found), found, own)
    return found


def _turn(angle_rad: float, flip: int) -> np.ndarray:
    """(2, 2), from (x, y) in an image to (x, y) in the neuron (specs/pyink.md, section 3)."""
    cosine, sine = np.cos(angle_rad), np.sin(angle_rad)
    return np.diag([1.0, -1.0 if flip else 1.0]) @ np.array([[cosine, -sine], [sine, cosine]])
