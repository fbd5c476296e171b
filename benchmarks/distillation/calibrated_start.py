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


def write_start(student: str, seed: int, store: Path, weights: Path, out: Path) -> None:
    """Builds a student with the teacher's heads and scale, and writes it.

    Args:
        student: Name in `STUDENTS`.
        seed: Seed of its weights.
        store: Folder of the teacher's embeddings.
        weights: Weights of the teacher, a MobileSAM.
        out: Safetensors file to write.

    Raises:
        BenchError: Store or weights are unusable, or the file cannot be written.
    """
    model = build_untrained_student(STUDENTS[student], load_mobile_sam(weights), seed)
    calibrate(model.image_encoder, EmbeddingStore(store))
    notes = {"seed": seed, "calibrated": True}
    save_model(out, shape_of(model, notes), model.state_dict())


@one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--student", choices=sorted(STUDENTS), required=True)
    parser.add_argument("--seed", type=int, default=0)
    for name in ("store", "weights", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    found = parser.parse_args(argv)
    write_start(found.student, found.seed, found.store, found.weights, found.out)
    sys.stdout.write(f"{found.out}: scale taken from {CALIBRATION_IMAGES} images at most\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
