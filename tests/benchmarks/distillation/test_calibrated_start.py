"""Untrained students with the scale of their teacher's embeddings."""

from __future__ import annotations

from pathlib import Path

import torch


def test_calibrated_start_has_the_scale_of_the_store(tmp_path: Path) -> None:
    from benchmarks.distillation import calibrated_start
    from mobilesam.distillation.embedding_store import Entry, StoreWriter, Teacher
    from mobilesam.model.mobile_sam import build_mobile_sam, load_mobile_sam

    teacher = Teacher(name="t", weights_sha256=None, precision="fp32", input_size_px=1024)
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(256, 1, 1, generator=generator)
    with StoreWriter(tmp_path / "store", teacher, shard_bytes=10**8) as writer:
        for i in range(3):
            values = means + 0.1 * torch.randn(256, 64, 64, generator=generator)
            values[:, 32:] = 1000.0  # padding is ignored
            writer.add(Entry(f"{i:064x}", "x.jpg", (50, 100), (512, 1024)), values.half())
    weights = tmp_path / "teacher.pt"
    torch.save(build_mobile_sam().state_dict(), weights)
    out = tmp_path / "start.safetensors"
    arguments = [f"--store={tmp_path / 'store'}", f"--weights={weights}", f"--out={out}"]
    assert calibrated_start.main(["--student=tinyvit-5m-half", *arguments]) == 0
    last = load_mobile_sam(out).image_encoder.neck[3]
    assert torch.allclose(last.bias, means.flatten(), atol=0.01)
    assert torch.allclose(last.weight, torch.full((256,), 0.1), atol=0.005)
    assert calibrated_start.main(["--student=mini", *arguments]) == 1
