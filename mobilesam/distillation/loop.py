"""The one training loop, for every scheme."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from mobilesam.distillation.batches import Batch, make_batch, step_indices
from mobilesam.distillation.config import TrainConfig
from mobilesam.distillation.process_group import World
from mobilesam.distillation.samples import TrainingSet
from mobilesam.distillation.schedule import learning_rate
from mobilesam.distillation.schemes import Scheme
from mobilesam.distillation.state import METRICS_NAME, TrainState, keep_metrics_before
from mobilesam.errors import DataError, TrainingError
from mobilesam.model.state_dicts import is_finite

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, slots=True)
class StepReport:
    """What a step came to.

    Attributes:
        step: Its number, from 1.
        loss: Mean over the whole batch.
        learning_rate: That it was taken with.
        seconds: Wall time of the run so far, over all processes' lives.
        parts: What the loss was made of.
    """

    step: int
    loss: float
    learning_rate: float
    seconds: float
    parts: dict[str, float]


Listener = Callable[[StepReport], None]
Watch = Callable[[TrainState], None]


def train(
    scheme: Scheme,
    data: TrainingSet,
    folder: Path,
    *,
    world: World | None = None,
    on_step: Listener | None = None,
    on_checkpoint: Watch | None = None,
) -> TrainState:
    """Trains until `config.steps`; takes up the checkpoint in the folder where there is one.

    All randomness comes from the seed and the number of the step, never from what was done before:
    so a run that was interrupted and taken up again is the same, bit for bit on one CPU.

    Args:
        scheme: What is trained; its student is changed in place.
        data: Images.
        folder: For checkpoint and metrics; made if missing.
        world: This process among those that train together; None is alone.
        on_step: Told of every step.
        on_checkpoint: Shown the state at the start, whether or not a run is taken up, and whenever
            it has been written. The first process alone is; the others wait.

    Returns:
        The state at the end.

    Raises:
        TrainingError: The loss, a gradient or a weight is not finite any more; the files in the
            folder are from before that step.
        UsageError: The checkpoint is of another run, or the batch cannot be shared.
        WeightsError: The checkpoint is of another teacher.
        DataError: The folder cannot be written or read, or the disk is full.
    """
    world = world or World()
    state = TrainState(scheme, data.fingerprint)
    state.restore(folder)
    if world.rank == 0:
        keep_metrics_before(folder, state.step)
        if on_checkpoint is not None:
            on_checkpoint(state)
    world.wait()
    scheme.train_mode()
    with _Batches(scheme, data, world) as batches:
        while state.step < state.config.steps:
            started = time.perf_counter()
            report = _step(state, batches.of(state.step), world)
            state.seconds += time.perf_counter() - started
            report = StepReport(
                report.step, report.loss, report.learning_rate, state.seconds, report.parts
            )
            if world.rank == 0:
                _append(folder, report)
                if state.step % state.config.checkpoint_every == 0 or (
                    state.step == state.config.steps
                ):
                    state.save(folder)
                    if on_checkpoint is not None:
                        on_checkpoint(state)
                if on_step is not None:
                    on_step(report)
    world.wait()
    scheme.student.eval()
    return state


def _step(state: TrainState, batches: Iterator[Batch], world: World) -> StepReport:
    config = state.config
    rate = learning_rate(config, state.step)
    for group in state.optimizer.param_groups:
        group["lr"] = rate * group["rate_factor"]
    state.optimizer.zero_grad(set_to_none=True)
    n_micro = config.batch_size // config.micro_batch
    sums: dict[str, float] = {}
    statistics = _Statistics(state.scheme.trained(), n_micro)
    for batch in batches:
        with statistics.collected(), _autocast(config, batch.images.device):
            found = state.scheme.loss(batch)
        torch.autograd.backward(state.scaler.scale(found.total / n_micro))
        for name, value in {"loss": float(found.total.detach()), **found.parts}.items():
            sums[name] = sums.get(name, 0.0) + value / n_micro
    gradients = [value.grad for value in state.parameters.values() if value.grad is not None]
    totals = torch.tensor(list(sums.values()), dtype=torch.float32)
    world.sum_([*gradients, totals])
    world.sum_(statistics.means())
    parts = dict(zip(sums, totals.tolist(), strict=True))
    _require_finite(parts["loss"], state.step + 1, rate)
    state.scaler.unscale_(state.optimizer)
    _require_finite_gradients(state, rate)
    statistics.keep()
    nn.utils.clip_grad_norm_(list(state.parameters.values()), config.clip_norm)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    state.step += 1
    state.update_average()
    return StepReport(state.step, parts.pop("loss"), rate, 0.0, parts)


class _Statistics:
    """Running statistics of batch normalisation, made independent of who computes what.

    A micro-batch is normalised by its own mean and variance, whichever process computes it: their
    number and size are settings of the run, so that processes and accumulation change nothing.
    (Synchronised statistics would couple the processes in every layer's forward and backward pass,
    and exist for GPUs only.) The running statistics start from the same values for every
    micro-batch of a step, and the mean over all of them is kept, so their order does not count.
    """

    def __init__(self, trained: Sequence[nn.Module], n_micro: int) -> None:
        self._buffers = [
            buffer
            for part in trained
            for module in part.modules()
            if isinstance(module, nn.BatchNorm2d)
            for buffer in module.buffers(recurse=False)
        ]
        self._start = [buffer.clone() for buffer in self._buffers]
        self._means = [torch.zeros_like(buffer, dtype=torch.float32) for buffer in self._buffers]
        self._n_micro = n_micro

    def collected(self) -> _Statistics:
        return self

    def __enter__(self) -> None:
        for buffer, start in zip(self._buffers, self._start, strict=True):
            buffer.copy_(start)

    def __exit__(self, *error: object) -> None:
        for buffer, mean in zip(self._buffers, self._means, strict=True):
            mean.add_(buffer, alpha=1 / self._n_micro)

    def means(self) -> list[Tensor]:
        """What `keep` will keep, to be summed over processes before."""
        return self._means

    def keep(self) -> None:
        """Makes the means the running statistics."""
        for buffer, mean in zip(self._buffers, self._means, strict=True):
            buffer.copy_(mean if buffer.is_floating_point() else mean.round())


class _Batches:
    """Makes the micro-batches of this process, each while the one before is computed."""

    def __init__(self, scheme: Scheme, data: TrainingSet, world: World) -> None:
        self._scheme = scheme
        self._config: TrainConfig = scheme.config
        self._data = data
        self._world = world
        self._device = next(scheme.student.parameters()).device
        self._pool = ThreadPoolExecutor(1)
        self._ahead: dict[int, list[Future[Batch]]] = {}

    def __enter__(self) -> _Batches:
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def of(self, step: int) -> Iterator[Batch]:
        """The micro-batches of a step; those of the next one are begun meanwhile."""
        jobs = self._ahead.pop(step, None) or self._begin(step)
        if step + 1 < self._config.steps:
            self._ahead[step + 1] = self._begin(step + 1)
        for job in jobs:
            yield job.result()

    def _begin(self, step: int) -> list[Future[Batch]]:
        config = self._config
        indices = step_indices(len(self._data), config.batch_size, config.seed, step)
        starts = range(0, config.batch_size, config.micro_batch)
        mine = self._world.share(starts)
        return [
            self._pool.submit(self._make, indices, list(range(a, a + config.micro_batch)), step)
            for a in mine
        ]

    def _make(self, indices: list[int], slots: list[int], step: int) -> Batch:
        return make_batch(
            self._data,
            [indices[slot] for slot in slots],
            slots,
            side_px=self._scheme.side_px,
            seed=self._config.seed,
            step=step,
            augment=self._config.augment,
            zoom=self._config.zoom,
            zoom_least=self._config.zoom_least,
        ).to(self._device)


def _autocast(config: TrainConfig, device: torch.device) -> torch.autocast:
    dtype = _DTYPES[config.precision]
    enabled = dtype != torch.float32
    return torch.autocast(device.type, dtype=dtype if enabled else torch.bfloat16, enabled=enabled)


def _require_finite(loss: float, step: int, rate: float) -> None:
    if not math.isfinite(loss):
        raise TrainingError(
            f"the loss is {loss} at step {step} (learning rate {rate:.2g}); lower the learning "
            "rate or choose fp32, and start again: the last checkpoint is from before"
        )


def _require_finite_gradients(state: TrainState, rate: float) -> None:
    """Stops before a step that would make weights NaN, which a finite loss does not rule out.

    In fp16, the scaler skips such a step and halves its scale, as long as the scale is above 1.
    """
    gradients = {name: v.grad for name, v in state.parameters.items() if v.grad is not None}
    norms = torch.stack([torch.linalg.vector_norm(each) for each in gradients.values()])
    if is_finite(norms) or (state.scaler.is_enabled() and state.scaler.get_scale() > 1):
        return
    name = list(gradients)[int(torch.isfinite(norms).int().argmin())]
    raise TrainingError(
        f"the gradient of {name} is not finite at step {state.step + 1} (learning rate "
        f"{rate:.2g}); lower the learning rate or choose fp32, and start again: the last "
        "checkpoint is from before"
    )


def _append(folder: Path, report: StepReport) -> None:
    row = {
        "step": report.step,
        "loss": report.loss,
        "learning_rate": report.learning_rate,
        "seconds": round(report.seconds, 3),
        **report.parts,
    }
    path = folder / METRICS_NAME
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror}; choose another --out") from error
