"""The check of GPUs, run on the CPU: parity, times, failures and the budget."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.evidence import cuda_check
from benchmarks.evidence.cuda_check import Plan, Variant, run_part
from benchmarks.latency.timer import StopRule

CPU = torch.device("cpu")


def test_the_shipped_model_agrees_and_a_failing_variant_leaves_the_others(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cuda_check, "_RULE", StopRule(1, 0.0, 0.1, 0.0))
    monkeypatch.setattr(cuda_check, "PLANS", {"cpu": Plan(128, 1, (1, 2), (3,), 2)})
    strict = Variant(0.0, 1.0, needs_cuda=False)  # no two implementations agree in all digits
    monkeypatch.setitem(cuda_check.VARIANTS, "bf16", strict)
    monkeypatch.setattr(cuda_check, "computes_bf16", lambda: True)
    out = tmp_path / "check.json"
    names = "fp32,bf16,fp16"
    assert cuda_check.main(["--device=cpu", f"--variants={names}", f"--out={out}"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document == json.loads(out.read_text())
    found: dict[str, Any] = document["variants"]
    parts = found["fp32"]["parts"]
    assert list(parts) == ["parity", "encoder-1", "encoder-2", "decoder-3", "everything"]
    assert {part["status"] for part in parts.values()} == {"ok"}
    assert parts["parity"]["mean_iou"] > 0.999
    assert parts["parity"]["max_difference_of_embeddings"] < 1e-3
    assert parts["encoder-2"]["per_second"] == pytest.approx(2000 / parts["encoder-2"]["median_ms"])
    assert found["bf16"]["parts"]["parity"]["status"] == "failed"
    assert "too far from the reference" in found["bf16"]["parts"]["parity"]["why"]
    assert found["bf16"]["parts"]["encoder-1"]["status"] == "ok"
    assert found["fp16"] == {"left_out": "not on this cpu"}
    assert document["environment"]["cpu"]


@pytest.mark.parametrize("handler", [signal.default_int_handler, signal.SIG_IGN])
def test_a_part_is_interrupted_at_the_end_of_the_budget(
    handler: Any, request: pytest.FixtureRequest
) -> None:
    before = signal.signal(signal.SIGINT, handler)  # ignored in the background of a shell
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))

    def forever() -> dict[str, Any]:
        while True:
            time.sleep(0.01)

    found = run_part(forever, 0.1, CPU)
    assert found["status"] == "failed"
    assert "end of the budget" in found["why"]
    assert found["seconds"] < 5
    assert signal.getsignal(signal.SIGINT) is handler
    assert "no time was left" in run_part(forever, -1.0, CPU)["why"]


def test_ctrl_c_is_no_error_of_a_part() -> None:
    def interrupted() -> dict[str, Any]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_part(interrupted, 10.0, CPU)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_and_invalid_options_are_short_errors(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cuda_check.main([]) == 1
    assert "error: device 'cuda' cannot be used here" in capsys.readouterr().err
    for option, message in (
        ("--variants=fp8", "unknown variant 'fp8'"),
        ("--out=no/x", "no folder"),
    ):
        with pytest.raises(SystemExit, match="2"):
            cuda_check.main([option])
        assert message in capsys.readouterr().err
