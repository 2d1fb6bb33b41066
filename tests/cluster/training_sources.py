"""Sources of images for the tests of batched training: real ones, that fail or die on request."""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Deadly:
    """Kills its process (-9) some reads in, the first time or always; ``marker`` says that it has."""

    images: np.ndarray
    marker: Path
    after: int
    always: bool = False

    def __call__(self, places):
        counter = self.marker.with_name("reads")
        with counter.open("a") as file:
            file.write("x")
        if len(counter.read_text()) > self.after and (self.always or not self.marker.exists()):
            self.marker.touch()
            time.sleep(0.05)
            os.kill(os.getpid(), signal.SIGKILL)
        return self.images[places]


@dataclass(frozen=True)
class Flaky:
    """Raises OSError at its first ``failures`` reads, whoever makes them."""

    images: np.ndarray
    log: Path
    failures: int

    def __call__(self, places):
        with self.log.open("a") as file:
            file.write("x")
        if len(self.log.read_text()) <= self.failures:
            raise OSError("the store is away")
        return self.images[places]
