"""Makes the shipped models again: scenes, `sam-mini`, `mobilesam-mini`, and their files."""

from __future__ import annotations

import hashlib
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from segment_anything.modeling import Sam

from benchmarks.distillation.mini_student import train_student
from benchmarks.distillation.mini_teacher import TRAINING_SCENES, Watch, train_teacher
from benchmarks.distillation.scenes import SceneCache, render_scenes
from benchmarks.distillation.training import progress, shape_of
from benchmarks.records.progress import Reporter
from mobilesam.distillation.config import TrainConfig
from mobilesam.distillation.loop import Listener
from mobilesam.distillation.process_group import World
from mobilesam.model.mobile_sam import load_sam_mini
from mobilesam.model.model_files import save_model

TEACHER_NAME = "sam-mini.safetensors"
STUDENT_NAME = "mobilesam-mini.safetensors"


@dataclass(frozen=True, slots=True)
class MiniFamily:
    """The files that were made."""

    teacher: Path
    student: Path | None


def make_family(
    out: Path,
    scenes_root: Path,
    reporter: Reporter,
    world: World,
    *,
    workers: int,
    only_teacher: bool = False,
) -> MiniFamily:
    """Runs the whole recipe, taking up whatever `out` holds of it.

    Args:
        out: For checkpoints, metrics and the two files.
        scenes_root: For the rendered scenes.
        reporter: Told about progress.
        world: This process among those that train together.
        workers: Processes that render.
        only_teacher: Stop when `sam-mini` is there.

    Raises:
        BenchError: As rendering, training and writing do.
    """
    if world.rank == 0:
        _render(scenes_root, reporter, workers)
    world.wait()
    data = SceneCache(scenes_root, TRAINING_SCENES)

    watch = _watch("sam-mini, stage {}", reporter, world)
    teacher = train_teacher(data, out / "sam-mini", world=world, watch=watch)
    made_by = {"recipe": "benchmarks.distillation.mini_teacher", "data": data.fingerprint}
    path = _save(out / TEACHER_NAME, teacher, made_by, world)
    if only_teacher:
        return MiniFamily(path, None)
    # Loaded again, since the file's float16 is what the student must imitate.
    teacher = load_sam_mini(path)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    watch = _watch("mobilesam-mini, {} round", reporter, world)
    student = train_student(teacher, sha256, data, out / "mobilesam-mini", world=world, watch=watch)
    made_by = {
        "recipe": "benchmarks.distillation.mini_student",
        "teacher": sha256,
        "data": data.fingerprint,
    }
    return MiniFamily(path, _save(out / STUDENT_NAME, student, made_by, world))


def _watch(title: str, reporter: Reporter, world: World) -> Watch:
    """Shows each part of a recipe as a bar of its own; the title has a gap for the part's name."""

    def watch(name: str, config: TrainConfig) -> AbstractContextManager[Listener]:
        return progress(config, title.format(name), reporter, world)

    return watch


def _save(path: Path, model: Sam, made_by: dict[str, str], world: World) -> Path:
    if world.rank == 0:
        save_model(path, shape_of(model, made_by), model.state_dict(), half=True)
    world.wait()
    return path


def _render(root: Path, reporter: Reporter, workers: int) -> None:
    with reporter.bar("rendering scenes", TRAINING_SCENES.n_scenes) as bar:
        for ready in render_scenes(root, TRAINING_SCENES, workers):
            bar.step(done=min(ready, TRAINING_SCENES.n_scenes))
