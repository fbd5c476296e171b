"""Writes an untrained student with the scale of its teacher's embeddings, for `--start`.

`python -m benchmarks.distillation.calibrated_start --student tinyvit-5m-half --store STORE \
--weights FILE --out start.safetensors`
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.debugging import one_line_errors
from mobilesam.distillation.embedding_store import EmbeddingStore
from mobilesam.distillation.students import (
    CALIBRATION_IMAGES,
    STUDENTS,
    build_untrained_student,
    calibrate,
    shape_of,
)
from mobilesam.model.mobile_sam import load_mobile_sam
from mobilesam.model.model_files import save_model


@one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Builds a student with the heads and scale of a MobileSAM, and writes it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--student", choices=sorted(STUDENTS), required=True)
    parser.add_argument("--seed", type=int, default=0)
    for name in ("store", "weights", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    found = parser.parse_args(argv)
    teacher = load_mobile_sam(found.weights)
    model = build_untrained_student(STUDENTS[found.student], teacher, found.seed)
    calibrate(model.image_encoder, EmbeddingStore(found.store))
    notes = {"seed": found.seed, "calibrated": True}
    save_model(found.out, shape_of(model, notes), model.state_dict())
    sys.stdout.write(f"{found.out}: scale taken from {CALIBRATION_IMAGES} images at most\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
