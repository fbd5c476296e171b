"""Settings of a training."""

from __future__ import annotations

import pytest
from pydantic import ValidationError
from small_training import (
    settings,
)

from mobilesam.distillation.train_config import TrainConfig


def test_config_round_trip_and_validation() -> None:
    config = settings(augment=True)
    assert TrainConfig.model_validate_json(config.model_dump_json()) == config
    with pytest.raises(ValidationError, match="no multiple"):
        settings(batch_size=6, micro_batch=4)
    with pytest.raises(ValidationError):
        settings(surprise=1)
