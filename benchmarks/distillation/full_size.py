"""A student's agreement with its teacher before and after training, at full size.

It covers the path with 1024 px, a real teacher and photographs, where a comparison of schemes would
take too long. The student before training is the file given by `--start`, or else rebuilt from the
seed of the training, with the teacher's heads.

`python -m benchmarks.distillation.full_size --run DIR --store STORE --teacher NAME \
--weights FILE --images DIR --annotations FILE --limit 20 --out results/distillation/full-size.json`
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.config.options import AccuracyArguments, ModelArguments
from benchmarks.debugging import one_line_errors
from benchmarks.distillation.training import STUDENT_NAME, evaluate_student
from benchmarks.records.documents import write_document
from benchmarks.records.environment import collect, default_threads
from benchmarks.records.progress import Reporter
from mobilesam.distillation.embedding_store import EmbeddingStore
from mobilesam.distillation.students import build_student
from mobilesam.distillation.training_loop import METRICS_NAME
from mobilesam.errors import DataError
from mobilesam.model.model_files import read_shape, save_model
from mobilesam.model.state_dicts import load_state_dict_file

_FIELDS = {
    "protocol", "reference", "n_images", "n_instances", "miou", "ci95", "boundary_miou", "status",
    "why",
}  # fmt: skip


def untrained(student: Path, target: Path) -> Mapping[str, Any]:
    """Writes to `target` a file of `distill train` as it was before its first step.

    Returns the notes on the training from the header of the file.
    """
    shape = read_shape(student, "mobilesam")
    if shape is None or "config" not in shape.notes:
        raise DataError(f"{student} does not say how it was trained; give one of distill train")
    if shape.notes["scheme"] != "decoupled":
        raise DataError(f"{student} may have other heads than its teacher's: it is not decoupled")
    seed = int(shape.notes["config"]["seed"])
    fresh = build_student(shape.encoder, shape.heads, seed=seed).state_dict()
    heads = {
        name: value
        for name, value in load_state_dict_file(student).items()
        if not name.startswith("image_encoder.")
    }
    save_model(target, shape, {**fresh, **heads})
    return shape.notes


def losses(run: Path) -> list[float]:
    """The loss of every step of a training."""
    path = run / METRICS_NAME
    try:
        return [float(json.loads(line)["loss"]) for line in path.read_text().splitlines()]
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def loss_summary(found: Sequence[float], n_parts: int = 10) -> dict[str, Any]:
    """Number of steps, and the mean losses of consecutive parts of a training."""
    edges = [round(part * len(found) / n_parts) for part in range(n_parts + 1)]
    parts = [found[a:b] for a, b in pairwise(edges) if b > a]
    return {"n_steps": len(found), "mean_of_parts": [sum(part) / len(part) for part in parts]}


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Evaluates both students and returns the document."""
    work = arguments.run / "agreement"
    work.mkdir(parents=True, exist_ok=True)
    before, after = work / "untrained.safetensors", arguments.run / STUDENT_NAME
    notes = untrained(after, before)
    models = ModelArguments(
        weights=(f"{arguments.teacher}={arguments.weights}",),
        offline=True,
        threads=arguments.threads,
    )
    accuracy = AccuracyArguments(
        dataset="coco",
        images=arguments.images,
        annotations=arguments.annotations,
        limit=arguments.limit,
        protocol=arguments.protocol,
        embeddings=arguments.run / "embeddings",
    )
    records = {
        name: evaluate_student(
            weights, arguments.teacher, models, accuracy, work / name, Reporter()
        )
        for name, weights in (("untrained", arguments.start or before), ("trained", after))
    }
    students = {
        name: [
            {**row.model_dump(mode="json", include=_FIELDS), "weights_sha256": row.weights.sha256}
            for row in record.miou
        ]
        for name, record in records.items()
    }
    store = EmbeddingStore(arguments.store)
    return {
        "note": arguments.note,
        "store": {"n_embeddings": len(store), **store.manifest.model_dump(mode="json")},
        "started_from_file": arguments.start is not None,
        "training": {**notes, "loss": loss_summary(losses(arguments.run))},
        "dataset": records["trained"].miou[0].dataset,
        "students": students,
        "environment": collect(arguments.threads).model_dump(mode="json"),
    }


@one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
    """The command line; prints one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("run", "store", "weights", "images", "annotations"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--start", type=Path, help="student that distill train started from")
    parser.add_argument("--teacher", required=True, help="registry name of the store's teacher")
    parser.add_argument("--protocol", default="box,center")
    parser.add_argument("--limit", type=int, help="only the first N images")
    parser.add_argument("--threads", type=int, default=default_threads())
    parser.add_argument("--note", help="kept in the document")
    parser.add_argument("--out", type=Path, help="also write the result to a file")
    arguments = parser.parse_args(argv)
    write_document(measure(arguments), arguments.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
