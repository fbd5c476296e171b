"""Comparison of exported graphs with torch."""

from __future__ import annotations

import numpy as np

from mobilesam.export import parity as export_parity


def test_nan_is_not_within_tolerance() -> None:
    row = export_parity._row(
        "decoder", "x", "logits", np.array([np.nan]), np.array([0.0]), judged=True
    )
    assert not row.passed
