"""A process that imports MobileSAM, loads it and answers one box, for `speed cold-start`.

`python -m benchmarks.evidence.cold_start SIDE WEIGHTS IMAGE MASK X0 Y0 X1 Y1` reads an image
(.npy), writes the mask (.npy), and prints the seconds of each step as JSON. It imports nothing but
what its side needs: ours (`fast`), or the authors' package (`authors`).
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from importlib import import_module
from itertools import pairwise
from typing import Any

STEPS = ("import", "load", "image", "box")


def _ours() -> Callable[[str], Any]:
    from mobilesam.predictor import MobileSam

    return MobileSam.from_checkpoint


def _authors() -> Callable[[str], Any]:
    theirs = import_module("mobile_sam")
    build = theirs.sam_model_registry["vit_t"]
    return lambda weights: theirs.SamPredictor(build(checkpoint=weights).eval())


SIDES = {"fast": _ours, "authors": _authors}


def main(side: str, weights: str, image: str, mask: str, *box: str) -> int:
    """Runs all steps; returns the exit code."""
    times = [time.perf_counter()]

    def done() -> None:
        times.append(time.perf_counter())

    load = SIDES[side]()
    import numpy as np

    done()
    predictor = load(weights)
    done()
    predictor.set_image(np.load(image))
    done()
    masks, _, _ = predictor.predict(box=np.array(box, np.float32), multimask_output=False)
    done()
    np.save(mask, masks[0])
    seconds = [after - before for before, after in pairwise(times)]
    sys.stdout.write(json.dumps(dict(zip(STEPS, seconds, strict=True))))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
