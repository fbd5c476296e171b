"""All that a training run is in the middle of, and how it outlasts the process."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mobilesam.distillation.config import TrainConfig
from mobilesam.distillation.schedule import optimizer_for
from mobilesam.distillation.schemes import Scheme
from mobilesam.errors import DataError, TrainingError, UsageError, WeightsError
from mobilesam.files import write_atomic
from mobilesam.model.state_dicts import first_not_finite, load_torch_file

CHECKPOINT_NAME = "checkpoint.pt"
METRICS_NAME = "metrics.jsonl"


class TrainState:
    """Weights, their average, the optimiser, and how far the run is.

    Args:
        scheme: What is trained; its student is changed in place.
        data_fingerprint: Of the training set.

    Attributes:
        step: Steps that are done.
        seconds: Wall time that they took, over all processes' lives.
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
        self.optimizer = optimizer_for(self.parameters, self.config)
        self.scaler = torch.amp.GradScaler(enabled=self.config.precision == "fp16")
        self.average = (
            {name: value.detach().clone() for name, value in self._averaged().items()}
            if self.config.ema_decay
            else None
        )

    def _averaged(self) -> dict[str, Tensor]:
        """What the average is of: trained parameters, and the statistics that go with them."""
        buffers = {
            f"{prefix}.{name}" if prefix else name: buffer
            for prefix, module in self.scheme.student.named_modules()
            if isinstance(module, nn.BatchNorm2d)
            for name, buffer in module.named_buffers(recurse=False)
            if buffer.is_floating_point()
        }
        return {**self.parameters, **buffers}

    @torch.no_grad()
    def update_average(self) -> None:
        """Moves the average towards the weights; faster in the beginning, when they change most."""
        if self.average is None:
            return
        decay = min(self.config.ema_decay, (1 + self.step) / (10 + self.step))
        for name, value in self._averaged().items():
            self.average[name].lerp_(value.detach(), 1 - decay)

    def result(self) -> dict[str, Tensor]:
        """The student's state dict as it is to be used: the average where there is one.

        Raises:
            TrainingError: The state dict holds NaN or infinity.
        """
        state = {name: value.detach() for name, value in self.scheme.student.state_dict().items()}
        state.update(self.average or {})
        self._require_finite(state)
        return state

    def _require_finite(self, tensors: Mapping[str, Tensor]) -> None:
        name = first_not_finite(tensors)
        if name is not None:
            raise TrainingError(
                f"{name} holds NaN or infinity after step {self.step}, so nothing was saved; lower "
                "the learning rate or choose fp32, and start again: the last checkpoint is from "
                "before"
            )

    def save(self, folder: Path) -> None:
        """Writes the checkpoint, whole or not at all.

        Raises:
            TrainingError: Weights, their average or the optimiser's state hold NaN or infinity.
            DataError: The folder cannot be written, or the disk is full.
        """
        student = self.scheme.student.state_dict()
        self._require_finite(student)
        self._require_finite({f"average of {name}": v for name, v in (self.average or {}).items()})
        self._require_finite(self._optimizer_tensors())
        buffer = io.BytesIO()
        torch.save(
            {
                "identity": json.dumps(self.identity, sort_keys=True),
                "step": self.step,
                "seconds": self.seconds,
                "student": student,
                "average": self.average,
                "optimizer": self.optimizer.state_dict(),
                "scaler": self.scaler.state_dict(),
            },
            buffer,
        )
        write_atomic(folder / CHECKPOINT_NAME, buffer.getvalue(), "free some space or choose --out")

    def _optimizer_tensors(self) -> dict[str, Tensor]:
        """Tensors of the optimiser's state, by names that include the parameter."""
        return {
            f"optimiser's {key} of {name}": value
            for name, parameter in self.parameters.items()
            for key, value in self.optimizer.state.get(parameter, {}).items()
            if isinstance(value, Tensor)
        }

    def restore(self, folder: Path) -> bool:
        """Takes up the run whose checkpoint lies in the folder.

        Returns:
            Whether there is one.

        Raises:
            UsageError: It belongs to a run with another scheme, data or settings.
            WeightsError: To one with another teacher.
            DataError: It is damaged, or its weights hold NaN or infinity.
        """
        path = folder / CHECKPOINT_NAME
        if not path.exists():
            return False
        try:
            saved = load_torch_file(path)
            identity = json.loads(saved["identity"])
            # Read as settings, so that one that has been added since has its default.
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
                    f"{path} cannot be gone on with: {broken} holds NaN or infinity; delete it to "
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
        if self.average is not None:
            for name, value in self.average.items():
                value.copy_(saved["average"][name])
        self.step, self.seconds = int(saved["step"]), float(saved["seconds"])
        return True

    def _require_same(self, found: Mapping[str, Any], path: Path) -> None:
        wanted = json.loads(json.dumps(self.identity))
        differing = [name for name in wanted if found.get(name) != wanted[name]]
        if not differing:
            return
        name = differing[0]
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


def keep_metrics_before(folder: Path, step: int) -> None:
    """Drops the lines of steps that will be done again, and any half line behind them."""
    path = folder / METRICS_NAME
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
