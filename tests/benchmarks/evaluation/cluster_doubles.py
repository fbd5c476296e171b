"""Models for the workers of a cluster, which import them by name."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from baselines.dummy import DummySegmenter
from baselines.interface import ModelOptions, Prepared, UInt8Array


class Killer(DummySegmenter):
    """Brings its process down at images of a certain first pixel, or once, if there is a file."""

    def prepare(self, image: UInt8Array) -> Prepared:
        pixel = ",".join(map(str, image[0, 0]))
        once = Path(os.environ["SCALE_TEST_ONCE"])
        if pixel == os.environ["SCALE_TEST_PIXEL"]:
            os.kill(os.getpid(), signal.SIGKILL)
        if once.exists():
            once.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().prepare(image)


def build_killer(options: ModelOptions) -> Killer:
    return Killer(options.name, {})


class Failing(DummySegmenter):
    """Fails at every image."""

    def prepare(self, image: UInt8Array) -> Prepared:
        raise RuntimeError("always red")


def build_failing(options: ModelOptions) -> Failing:
    return Failing(options.name, {})
