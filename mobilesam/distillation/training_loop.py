"""The training loop of all schemes, its state and checkpoints, and its processes."""

from __future__ import annotations

import io
import json
import math
import os
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from mobilesam.distillation.batches import Batch, TrainingSet, make_batch, step_indices
from mobilesam.distillation.optimizer import build_optimizer, learning_rate
from mobilesam.distillation.schemes import Scheme
from mobilesam.distillation.train_config import TrainConfig
from mobilesam.errors import DataError, TrainingError, UsageError, WeightsError
from mobilesam.files import write_atomic
from mobilesam.model.state_dicts import first_not_finite, is_finite, load_torch_file

CHECKPOINT_NAME = "checkpoint.pt"
METRICS_NAME = "metrics.jsonl"
_LOW_PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16}
# Buffers of batch normalisation.
_RUNNING = ("running_mean", "running_var", "num_batches_tracked")
_HINT = (
    "lower the learning rate or choose fp32, and start again: the last checkpoint is from before"
)

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class ProcessGroup:
    """Number `rank` of `size` processes that train one model; by default this process alone."""

    rank: int = 0
    size: int = 1

    def share(self, items: Sequence[_T]) -> Sequence[_T]:
        """Every `size`-th item, starting with number `rank`.

        Unlike `DistributedSampler` it refuses unequal shares rather than repeating items, because
        that would change the mean over processes.
        """
        if len(items) % self.size:
            raise UsageError(
                f"{len(items)} micro-batches cannot be shared by {self.size} processes; "
                "choose batch_size / micro_batch a multiple of them"
            )
        return items[self.rank :: self.size]

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Replaces each tensor by its sum over all processes, in one exchange."""
        if self.size == 1 or not tensors:
            return
        device = tensors[0].device
        flat = torch.cat([each.detach().reshape(-1).float().to(device) for each in tensors])
        torch.distributed.all_reduce(flat)
        sums = torch.split(flat, [tensor.numel() for tensor in tensors])
        for tensor, total in zip(tensors, sums, strict=True):
            tensor.detach().copy_(total.view_as(tensor))

    def wait(self) -> None:
        """Waits for all processes."""
        if self.size > 1:
            torch.distributed.barrier()


@contextmanager
def launched_processes(device: torch.device) -> Iterator[ProcessGroup]:
    """Joins the processes that `torchrun` has started, if any."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield ProcessGroup()
        return
    torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield ProcessGroup(torch.distributed.get_rank(), torch.distributed.get_world_size())
    finally:
        torch.distributed.destroy_process_group()


class TrainState:
    """Weights, their moving average, optimiser and progress of a run.

    `step` is the number of finished steps and `seconds` their wall time, over all resumed runs.
    `identity` is what a run must share with the checkpoint that it resumes.
    """

    def __init__(self, scheme: Scheme, data_fingerprint: str) -> None:
        self.scheme = scheme
        self.config: TrainConfig = scheme.config
        self.step = 0
        self.seconds = 0.0
        self.identity: Mapping[str, Any] = {
            "scheme": scheme.name,
            "teacher": scheme.teacher_sha256,
            "data": data_fingerprint,
            "config": self.config.model_dump(mode="json"),
        }
        self.parameters = {
            name: value for name, value in scheme.student.named_parameters() if value.requires_grad
        }
        self.optimizer = build_optimizer(self.parameters, self.config)
        self.scaler = torch.amp.GradScaler(enabled=self.config.precision == "fp16")
        self.average: dict[str, Tensor] | None = None
        if self.config.ema_decay:
            self.average = {name: v.detach().clone() for name, v in self._averaged().items()}

    def _averaged(self) -> dict[str, Tensor]:
        """Trained parameters and running statistics of batch normalisation."""
        buffers = self.scheme.student.named_buffers()
        running = {name: each for name, each in buffers if name.endswith(_RUNNING[:2])}
        return {**self.parameters, **running}

    @torch.no_grad()
    def update_average(self) -> None:
        """Updates the moving average; its decay is lower during the first steps."""
        if self.average is None:
            return
        decay = min(self.config.ema_decay, (1 + self.step) / (10 + self.step))
        for name, value in self._averaged().items():
            self.average[name].lerp_(value.detach(), 1 - decay)

    def result(self) -> dict[str, Tensor]:
        """State dict of the student, with averaged weights if there are any, all finite."""
        state = {name: value.detach() for name, value in self.scheme.student.state_dict().items()}
        state.update(self.average or {})
        self._require_finite(state)
        return state

    def _require_finite(self, tensors: Mapping[str, Tensor]) -> None:
        name = first_not_finite(tensors)
        if name is not None:
            raise TrainingError(
                f"{name} holds NaN or infinity after step {self.step}, so nothing was saved; "
                f"{_HINT}"
            )

    def save(self, folder: Path) -> None:
        """Writes the checkpoint atomically, if all of it is finite."""
        student = self.scheme.student.state_dict()
        optimizer_tensors = {
            f"optimiser's {key} of {name}": value
            for name, parameter in self.parameters.items()
            for key, value in self.optimizer.state.get(parameter, {}).items()
            if isinstance(value, Tensor)
        }
        average = {f"average of {name}": v for name, v in (self.average or {}).items()}
        self._require_finite({**student, **average, **optimizer_tensors})
        document = {
            "identity": json.dumps(self.identity, sort_keys=True),
            "step": self.step,
            "seconds": self.seconds,
            "student": student,
            "average": self.average,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }
        buffer = io.BytesIO()
        torch.save(document, buffer)
        write_atomic(folder / CHECKPOINT_NAME, buffer.getvalue(), "free some space or choose --out")

    def restore(self, folder: Path) -> None:
        """Loads the checkpoint of a folder, if there is one; it must be of the same run."""
        path = folder / CHECKPOINT_NAME
        if not path.exists():
            return
        try:
            saved = load_torch_file(path)
            identity = json.loads(saved["identity"])
            # Validated, so that settings that were added since have their defaults.
            settings = TrainConfig.model_validate(identity["config"])
            identity["config"] = settings.model_dump(mode="json")
        except (WeightsError, TypeError, KeyError, ValueError) as error:
            raise DataError(
                f"{path} cannot be read ({type(error).__name__}); delete it to start anew"
            ) from error
        self._require_same(identity, path)
        for weights in (saved["student"], saved["average"] or {}):
            broken = first_not_finite(weights)
            if broken is not None:
                raise DataError(
                    f"{path} cannot be resumed: {broken} holds NaN or infinity; delete it to "
                    "start anew"
                )
        try:
            self.scheme.student.load_state_dict(saved["student"])
        except RuntimeError as error:
            raise UsageError(
                f"{path} belongs to a run with a student of another shape; choose another --out"
            ) from error
        self.optimizer.load_state_dict(saved["optimizer"])
        self.scaler.load_state_dict(saved["scaler"])
        for name, value in (self.average or {}).items():
            value.copy_(saved["average"][name])
        self.step, self.seconds = int(saved["step"]), float(saved["seconds"])

    def _require_same(self, found: Mapping[str, Any], path: Path) -> None:
        wanted = json.loads(json.dumps(self.identity))
        name = next((name for name in wanted if found.get(name) != wanted[name]), None)
        if name is None:
            return
        if name == "teacher":
            raise WeightsError(
                f"{path} imitates a teacher with weights {found.get(name)}, not {wanted[name]}; "
                "give that teacher, or another --out"
            )
        if name == "config":
            changed = [key for key in wanted[name] if found[name].get(key) != wanted[name][key]]
            name = " and ".join(changed)
        raise UsageError(
            f"{path} belongs to a run with another {name}; repeat its settings, or choose "
            "another --out"
        )


@dataclass(frozen=True, slots=True)
class StepReport:
    """Result of one step."""

    step: int  # from 1
    loss: float  # mean over the whole batch
    learning_rate: float
    seconds: float  # wall time of the run so far, over all resumed runs
    parts: dict[str, float]  # terms of the loss


StepCallback = Callable[[StepReport], None]
CheckpointCallback = Callable[[TrainState], None]


def train(
    scheme: Scheme,
    data: TrainingSet,
    folder: Path,
    *,
    processes: ProcessGroup | None = None,
    on_step: StepCallback | None = None,
    on_checkpoint: CheckpointCallback | None = None,
) -> TrainState:
    """Trains until `config.steps`, resuming the checkpoint of the folder if there is one.

    All randomness depends on the seed and the number of the step only. A resumed run is therefore
    identical to an uninterrupted one, bit for bit on one CPU.

    Checkpoint and metrics are written to `folder`, made if missing. `on_step` is called after every
    step, `on_checkpoint` at the start and after each checkpoint, both by the first process only.

    Raises:
        TrainingError: The loss, a gradient or a weight is not finite; files in the folder are from
            before that step.
        UsageError: The checkpoint is of another run, or the batch cannot be shared.
        WeightsError: The checkpoint is of another teacher.
        DataError: The folder cannot be written or read, or the disk is full.
    """
    processes = processes or ProcessGroup()
    state = TrainState(scheme, data.fingerprint)
    state.restore(folder)
    if processes.rank == 0:
        _truncate_metrics(folder / METRICS_NAME, state.step)
        if on_checkpoint is not None:
            on_checkpoint(state)
    processes.wait()
    scheme.student.eval()
    for part in scheme.trained():
        part.train()
    config = state.config
    with closing(_prefetched_steps(scheme, data, processes, state.step)) as steps:
        for batches in steps:
            report = _step(state, batches, processes)
            if processes.rank != 0:
                continue
            _append_metrics(folder / METRICS_NAME, report)
            if state.step % config.checkpoint_every == 0 or state.step == config.steps:
                state.save(folder)
                if on_checkpoint is not None:
                    on_checkpoint(state)
            if on_step is not None:
                on_step(report)
    processes.wait()
    scheme.student.eval()
    return state


def _prefetched_steps(
    scheme: Scheme, data: TrainingSet, processes: ProcessGroup, first: int
) -> Generator[list[Future[Batch]], None, None]:
    """Yields this process's micro-batches of each step; a thread makes them one step ahead."""
    config, device = scheme.config, next(scheme.student.parameters()).device
    options = config.model_dump(include={"seed", "augment", "zoom", "zoom_least"})

    def make(indices: list[int], slots: list[int], step: int) -> Batch:
        chosen = [indices[slot] for slot in slots]
        batch = make_batch(data, chosen, slots, side_px=scheme.side_px, step=step, **options)
        return batch.to(device)

    def begin(step: int) -> list[Future[Batch]]:
        """Starts the batches of a step; none after the last one."""
        if step >= config.steps:
            return []
        indices = step_indices(len(data), config.batch_size, config.seed, step)
        starts = processes.share(range(0, config.batch_size, config.micro_batch))
        slots = (list(range(start, start + config.micro_batch)) for start in starts)
        return [pool.submit(make, indices, each, step) for each in slots]

    pool = ThreadPoolExecutor(1)
    try:
        ahead = begin(first)
        for step in range(first, config.steps):
            now, ahead = ahead, begin(step + 1)
            yield now
    finally:
        pool.shutdown(cancel_futures=True)


def _step(
    state: TrainState, batches: Sequence[Future[Batch]], processes: ProcessGroup
) -> StepReport:
    started = time.perf_counter()
    config = state.config
    rate = learning_rate(config, state.step)
    where = f"at step {state.step + 1} (learning rate {rate:.2g}); {_HINT}"
    for group in state.optimizer.param_groups:
        group["lr"] = rate * group["rate_factor"]
    state.optimizer.zero_grad(set_to_none=True)
    n_micro = config.batch_size // config.micro_batch
    sums: dict[str, float] = {}
    # Running statistics of batch normalisation. A micro-batch is normalised by its own mean and
    # variance, in whichever process. The statistics of all micro-batches of a step start from the
    # same values, and their mean is kept, so that they are equal for any number of processes.
    # Unlike synchronised batch normalisation this works on CPUs and needs one exchange a step.
    running = [
        buffer
        for part in state.scheme.trained()
        for name, buffer in part.named_buffers()
        if name.endswith(_RUNNING)
    ]
    before = [buffer.clone() for buffer in running]
    means = [torch.zeros_like(buffer, dtype=torch.float32) for buffer in running]
    dtype = _LOW_PRECISIONS.get(config.precision)
    for batch in (each.result() for each in batches):
        for buffer, start in zip(running, before, strict=True):
            buffer.copy_(start)
        kind = batch.images.device.type
        with torch.autocast(kind, dtype or torch.bfloat16, enabled=dtype is not None):
            loss = state.scheme.loss(batch)
        for buffer, mean in zip(running, means, strict=True):
            mean.add_(buffer, alpha=1 / n_micro)
        torch.autograd.backward(state.scaler.scale(loss.total / n_micro))
        for name, value in {"loss": float(loss.total.detach()), **loss.parts}.items():
            sums[name] = sums.get(name, 0.0) + value / n_micro
    gradients = {name: v.grad for name, v in state.parameters.items() if v.grad is not None}
    totals = torch.tensor(list(sums.values()), dtype=torch.float32)
    processes.sum_([*gradients.values(), totals])
    processes.sum_(means)
    parts = dict(zip(sums, totals.tolist(), strict=True))
    if not math.isfinite(parts["loss"]):
        raise TrainingError(f"the loss is {parts['loss']} {where}")
    state.scaler.unscale_(state.optimizer)
    norms = torch.stack([torch.linalg.vector_norm(each) for each in gradients.values()])
    # In fp16 the scaler skips such a step and halves its scale, as long as the scale is above 1.
    if not is_finite(norms) and not (state.scaler.is_enabled() and state.scaler.get_scale() > 1):
        name = list(gradients)[int(torch.isfinite(norms).int().argmin())]
        raise TrainingError(f"the gradient of {name} is not finite {where}")
    for buffer, mean in zip(running, means, strict=True):
        buffer.copy_(mean if buffer.is_floating_point() else mean.round())
    nn.utils.clip_grad_norm_(list(state.parameters.values()), config.clip_norm)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    state.step += 1
    state.update_average()
    state.seconds += time.perf_counter() - started
    return StepReport(state.step, parts.pop("loss"), rate, state.seconds, parts)


def _append_metrics(path: Path, report: StepReport) -> None:
    row = {**asdict(report), "seconds": round(report.seconds, 3)}
    row |= row.pop("parts")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror}; choose another --out") from error


def _truncate_metrics(path: Path, step: int) -> None:
    """Removes the lines after a step, and an incomplete last line."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except ValueError:
            break
    write_atomic(path, "".join(f"{line}\n" for line in kept).encode())
