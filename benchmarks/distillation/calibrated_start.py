"""Writes a fresh student at the scale of its teacher's embeddings, for `distill train --start`.

`python -m benchmarks.distillation.calibrated_start --student tinyvit-5m-half --store STORE \
--weights FILE --out start.safetensors`
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mobilesam.distillation.calibration import DEFAULT_IMAGES, calibrate
from mobilesam.distillation.embedding_store import EmbeddingStore
from mobilesam.distillation.students import STUDENTS, build_student, heads_of
from mobilesam.errors import BenchError
from mobilesam.model.mobile_sam import load_mobile_sam
from mobilesam.model.model_files import ModelShape, save_model


def write_start(student: str, seed: int, store: Path, weights: Path, out: Path) -> None:
    """Builds the student, gives it the teacher's heads and scale, and writes it.

    Args:
        student: One of `STUDENTS`.
        seed: Of its weights.
        store: Of the teacher's embeddings.
        weights: The teacher's, of MobileSAM's architecture.
        out: Safetensors file.

    Raises:
        BenchError: Store or weights are unusable, or the file cannot be written.
    """
    teacher = load_mobile_sam(weights)
    shape = ModelShape(
        "mobilesam", STUDENTS[student], heads_of(teacher), {"seed": seed, "calibrated": True}
    )
    model = build_student(*shape.tiny_vit(), seed=seed)
    calibrate(model.image_encoder, EmbeddingStore(store))
    model.prompt_encoder.load_state_dict(teacher.prompt_encoder.state_dict())
    model.mask_decoder.load_state_dict(teacher.mask_decoder.state_dict())
    save_model(out, shape, model.state_dict())


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--student", choices=sorted(STUDENTS), required=True)
    parser.add_argument("--seed", type=int, default=0)
    for name in ("store", "weights", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    found = parser.parse_args(argv)
    try:
        write_start(found.student, found.seed, found.store, found.weights, found.out)
    except BenchError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    sys.stdout.write(f"{found.out}: scale taken from {DEFAULT_IMAGES} images at most\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
