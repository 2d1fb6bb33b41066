"""Saves one version after the other until it is killed: annotation_saver.py FOLDER; prints a line before each save."""

import sys

import numpy as np

from skysom.storage.annotation_set import with_mask, with_note
from skysom.storage.annotations import load, save

annotations = load(sys.argv[1])
while True:
    number = annotations.version + 1
    mask = np.zeros((20, 20), bool)
    mask[number % 20] = True
    annotations = with_mask(annotations, number % 4, 0, "core", mask, author="bob")
    annotations = with_note(annotations, 0, f"version {number}", author="bob")
    print(number, flush=True)  # noqa: T201
    annotations = save(sys.argv[1], annotations, author="bob")
