"""FastSAM: its architecture, its checkpoints, and its search for masks against ultralytics."""

import dataclasses
import gzip
import os
import pickle
import re
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from baselines import fast_sam
from baselines.interface import Embedding, Prompts
from baselines.mask_selection import MaskSearch
from baselines.options import Checkpoint, ModelOptions
from mobilesam.errors import UnsupportedError, UsageError, WeightsError

REG_MAX = 16
SEARCH = MaskSearch(confidence=0.6, nms_iou=0.7, max_masks=40)
# The size n exists in no table: it only keeps the tests short.
NANO = ModelOptions("fastsam-n", seed=5)


# --- architecture --------------------------------------------------------------------------------


def count(model) -> int:
    return sum(each.numel() for each in model.modules()["all"].parameters())


def test_published_parameter_counts():
    for build, published in ((fast_sam.build_s, 11_790_483), (fast_sam.build_x, 72_234_149)):
        model = build(ModelOptions("any", device="meta"))
        assert count(model) == published
        assert model.info.weights.kind == "random"
        (probe,) = model.probes()["all"]
        assert probe()[0][1].shape == (1, 32, 256, 256)


def test_random_weights_are_seeded_and_leave_torch_alone():
    def first(seed):
        model = fast_sam.build("n", REG_MAX, dataclasses.replace(NANO, seed=seed))
        return model.modules()["all"].state_dict()["model.0.conv.weight"]

    before = torch.random.get_rng_state()
    one, again, other = first(1), first(1), first(2)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_precisions():
    with pytest.raises(UsageError, match="fp32 or fp16, not in 'bf16'"):
        fast_sam.build_s(ModelOptions("fastsam-s", device="meta", precision="bf16"))
    half = fast_sam.build_s(ModelOptions("fastsam-s", device="meta", precision="fp16"))
    assert {each.dtype for each in half.modules()["all"].parameters()} == {torch.float16}
    assert count(half) == 11_790_483


# --- search, against ultralytics' own predictors --------------------------------------------------


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Checkpoint:
    """A small one-class YOLOv8-seg in ultralytics' format, random, but confident here and there."""
    network = fast_sam.build("n", REG_MAX, NANO).modules()["all"]
    generator = torch.Generator().manual_seed(0)
    head = network.model[-1]
    # With random weights no image reaches the output, until the normalisations have seen one.
    norms = [each for each in network.modules() if isinstance(each, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    pixels = torch.from_numpy(picture(640, 1024)).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        network.train()(pixels)
        network.eval()
        for branch, gain in ((head.cv2, 0.3), (head.cv3, 0.08), (head.cv4, 0.3)):
            for convolution in (each[-1] for each in branch):
                shape = convolution.weight.shape
                convolution.weight.copy_(torch.randn(shape, generator=generator) * gain)
                convolution.bias.fill_(-1 if branch is head.cv3 else 0)
    path = tmp_path_factory.mktemp("weights") / "FastSAM-n.pt"
    torch.save({"model": network, "ema": None, "train_args": {"imgsz": 1024}}, path)
    return Checkpoint(path, "0" * 64, official=False, n_bytes=path.stat().st_size, trusted=True)


@pytest.fixture(scope="module")
def trained(checkpoint):
    def build(search=SEARCH):
        options = ModelOptions("fastsam-n", checkpoint=checkpoint)
        return fast_sam.build("n", REG_MAX, options, search)

    return build


def picture(height, width):
    rng = np.random.default_rng(height)
    coarse = rng.integers(0, 255, (height // 16 + 1, width // 16 + 1, 3), dtype=np.uint8)
    return np.ascontiguousarray(coarse.repeat(16, 0).repeat(16, 1)[:height, :width])


@pytest.mark.parametrize("size", [(200, 330), (330, 170)])
def test_masks_are_those_of_ultralytics(size, trained, checkpoint):
    from ultralytics.models.fastsam import FastSAMPredictor
    from ultralytics.models.fastsam.utils import adjust_bboxes_to_image_border
    from ultralytics.models.yolo.segment import SegmentationPredictor

    image = picture(*size)
    # Its rule for the border comes too late to change a mask, so ours is switched off.
    plain = dataclasses.replace(SEARCH, border_px=0, full_iou=1)
    model = trained(plain)
    found = model.encode(model.prepare(image)).payload
    settings_ = {
        "model": str(checkpoint.path), "task": "segment", "mode": "predict", "imgsz": 1024,
        "conf": SEARCH.confidence, "iou": SEARCH.nms_iou, "max_det": SEARCH.max_masks,
        "retina_masks": True, "rect": True, "device": "cpu", "verbose": False, "save": False,
    }  # fmt: skip
    theirs = SegmentationPredictor(overrides=settings_)(image[..., ::-1].copy())[0]
    assert 3 < len(found.masks) <= SEARCH.max_masks
    # Equal to the bit on one thread; on several a sum's order moves a pixel on a threshold.
    assert np.mean(found.masks != (theirs.masks.data.numpy() > 0)) < 1e-5
    np.testing.assert_allclose(found.boxes, theirs.boxes.xyxy.numpy(), atol=2e-2)
    np.testing.assert_allclose(found.scores, theirs.boxes.conf.numpy(), atol=1e-5)
    fast = FastSAMPredictor(overrides=settings_)(image[..., ::-1].copy())[0]
    assert np.mean(found.masks != (fast.masks.data.numpy() > 0)) < 1e-5
    moved = adjust_bboxes_to_image_border(torch.tensor(found.boxes), size)
    is_same = torch.isclose(moved, fast.boxes.xyxy, atol=2e-2).all(dim=1)
    whole = torch.tensor([0, 0, size[1], size[0]], dtype=torch.float32)
    assert (is_same | (fast.boxes.xyxy == whole).all(dim=1)).all()


def test_border_rule_only_adds_to_masks(trained):
    image = picture(200, 330)
    plain = trained(dataclasses.replace(SEARCH, border_px=0, full_iou=1))
    full = trained(dataclasses.replace(SEARCH, border_px=200, full_iou=0.2))
    without = plain.encode(plain.prepare(image)).payload
    found = full.encode(full.prepare(image)).payload
    assert len(found.masks) >= len(without.masks)
    whole = (found.boxes == [0, 0, 330, 200]).all(axis=1)
    assert whole.any()
    by_score = dict(zip(found.scores.tolist(), found.masks, strict=True))
    for mask, score in zip(without.masks, without.scores.tolist(), strict=True):
        assert not (mask & ~by_score[score]).any()
    assert found.areas.sum() > without.areas.sum()


@pytest.mark.parametrize("size", [(120, 90), (60, 200), (1, 1), (3, 500)])
def test_answers_fit_the_image(size, trained):
    model, image = trained(), np.full((*size, 3), 90, np.uint8)
    embedding = model.encode(model.prepare(image))
    height, width = size
    boxes = np.array([[0, 0, 1, 1], [-9, -9, -3, -3], [0, 0, width, height], [-99, -99, 999, 999]])
    found = model.decode(embedding, Prompts(boxes=boxes), multimask=True)
    assert found.masks.shape == (4, 1, *size)
    assert not found.masks[1].any()
    points = Prompts(points=np.array([[[0, 0], [1, 1]]] * 300), labels=np.array([[1, 0]] * 300))
    assert model.decode(embedding, points).masks.shape == (300, 1, *size)
    assert found.masks.flags.owndata or found.masks.base is not None


def test_everything_and_the_halves_of_encode(trained):
    model, image = trained(), picture(200, 330)
    records = model.everything(image)
    assert len(records) > 3
    assert [each.score for each in records] == sorted((r.score for r in records), reverse=True)
    for each in records:
        assert each.mask.any()
        y, x = np.nonzero(each.mask)
        assert (x >= each.box[0]).all()
        assert (x < each.box[2]).all()
        assert (y >= each.box[1]).all()
        assert (y < each.box[3]).all()
    prepared = model.prepare(image)
    assert prepared.payload.shape == (1, 3, 640, 1024)
    halves = model.find_masks(model.run_network(prepared), prepared)
    np.testing.assert_array_equal(halves.payload.masks, [each.mask for each in records])
    assert halves.model == "fastsam-n"


def test_nothing_found():
    model = fast_sam.build("n", REG_MAX, NANO)
    image = picture(40, 60)
    assert model.everything(image) == []
    embedding = model.encode(model.prepare(image))
    for prompts in (
        Prompts(boxes=np.array([[1, 1, 9, 9]])),
        Prompts(points=np.array([[[1, 1]]]), labels=np.array([[1]])),
    ):
        found = model.decode(embedding, prompts)
        assert found.masks.shape == (1, 1, 40, 60)
        assert not found.masks.any()
        assert found.scores.tolist() == [[0]]
    with pytest.raises(UsageError, match="made by other"):
        model.decode(Embedding(embedding.payload, (40, 60), "other"), prompts)
    with_logits = Prompts(boxes=np.array([[1, 1, 9, 9]]), mask_inputs=np.zeros((1, 1, 4, 4)))
    with pytest.raises(UnsupportedError, match="masks"):
        model.decode(embedding, with_logits)


# --- checkpoints ---------------------------------------------------------------------------------


def load(checkpoint, **changes):
    changed = dataclasses.replace(checkpoint, **changes)
    return fast_sam.build("n", REG_MAX, ModelOptions("fastsam-n", checkpoint=changed))


def test_checkpoint_is_loaded_and_named(checkpoint):
    model = load(checkpoint, official=True)
    saved = torch.load(checkpoint.path, weights_only=False)["model"].state_dict()
    ours = model.modules()["all"].state_dict()
    assert all(torch.equal(ours[name], value) for name, value in saved.items())
    assert model.info.weights.kind == "file"
    assert model.info.weights.official
    assert model.info.weights.file_bytes == checkpoint.n_bytes


class Trap:
    """Leaves a file behind when unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


def test_untrusted_pickle_is_never_opened(tmp_path, checkpoint):
    path, sprung = tmp_path / "evil.pt", tmp_path / "sprung"
    path.write_bytes(pickle.dumps(Trap(sprung)))
    with pytest.raises(WeightsError, match=r"evil\.pt is a pickle.*--trust") as caught:
        load(checkpoint, path=path, trusted=False)
    assert "\n" not in str(caught.value)
    assert not sprung.exists()


def test_bad_files_are_named_in_one_line(tmp_path, checkpoint, capfd):
    whole = checkpoint.path.read_bytes()
    broken, empty, text = (tmp_path / f"{name}.pt" for name in ("broken", "empty", "text"))
    broken.write_bytes(whole[: len(whole) // 2])
    empty.write_bytes(b"")
    text.write_text("not a checkpoint")
    other, nothing, linear = (tmp_path / f"{name}.pt" for name in ("other", "nothing", "linear"))
    torch.save({"model": {"weight": torch.zeros(3)}}, other)
    torch.save([1, 2], nothing)
    torch.save({"model": torch.nn.Linear(2, 2)}, linear)
    for path in (broken, empty, text, other, nothing, linear, tmp_path / "absent.pt"):
        with pytest.raises(WeightsError, match=path.name) as caught:
            load(checkpoint, path=path)
        message = str(caught.value)
        assert "\n" not in message
        assert message.count(path.name) == 1
        # Neither what ultralytics calls it nor the names of its code.
        assert not re.search(r"ERROR|Error|attribute| _", message)
    assert capfd.readouterr().err == ""


def test_a_checkpoint_with_nan_is_refused_and_the_tensor_named(tmp_path, checkpoint):
    content = torch.load(checkpoint.path, weights_only=False)
    name, value = next(iter(content["model"].named_parameters()))
    value.data.view(-1)[0] = float("nan")
    path = tmp_path / "diverged.pt"
    torch.save(content, path)
    with pytest.raises(WeightsError, match=rf"diverged\.pt: '{name}' holds NaN"):
        load(checkpoint, path=path)


def test_a_compressed_file_is_called_so(tmp_path, checkpoint):
    path = tmp_path / "FastSAM-n.pt"
    path.write_bytes(gzip.compress(b"anything", mtime=0))
    with pytest.raises(WeightsError, match="compressed with gzip; unpack it"):
        load(checkpoint, path=path)


def test_a_network_that_answers_nan_is_not_believed(trained):
    model = trained()
    prepared = model.prepare(picture(64, 64))
    rows, prototypes = model.run_network(prepared)
    for output in ((rows * float("nan"), prototypes), (rows, prototypes / 0)):
        with pytest.raises(WeightsError, match="answered with NaN or infinity"):
            model.find_masks(output, prepared)


def test_checkpoint_of_another_size_is_refused(checkpoint):
    with pytest.raises(WeightsError, match=r"FastSAM-n\.pt is no FastSAM-s .*tensors differ"):
        fast_sam.build_s(ModelOptions("fastsam-s", checkpoint=checkpoint))


# --- what importing ultralytics does to a process ------------------------------------------------

PROBE = """
import os, sys, logging
import cv2, numpy, torch, torchvision
from PIL import Image
patched = Image.open, torch.save, cv2.imread, cv2.imwrite
cv2.setNumThreads(2)
before = dict(os.environ), numpy.get_printoptions(), cv2.getNumThreads()
from baselines import fast_sam
from baselines.options import ModelOptions
assert "ultralytics" not in sys.modules
model = fast_sam.build("n", 16, ModelOptions("fastsam-n"))
model.everything(numpy.zeros((32, 64, 3), numpy.uint8))
assert (dict(os.environ), numpy.get_printoptions(), cv2.getNumThreads()) == before
assert (Image.open, torch.save, cv2.imread, cv2.imwrite) == patched
logging.getLogger("ultralytics").warning("to stderr")
from ultralytics.utils import AUTOINSTALL, ONLINE
assert not AUTOINSTALL and not ONLINE
"""


@pytest.mark.slow
def test_import_leaves_process_home_and_stdout_alone(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    home.chmod(0o500)
    names = ("PATH", "LD_LIBRARY_PATH", "LD_PRELOAD", "SYSTEMROOT", "TMPDIR")
    environment = {name: os.environ[name] for name in names if name in os.environ}
    environment |= {"HOME": str(home), "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run(
        [sys.executable, "-c", PROBE], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert "to stderr" in done.stderr
    assert list(home.iterdir()) == []


def test_threads_that_ask_for_the_published_network_share_one():
    made, barrier = [], threading.Barrier(4)

    def make():
        made.append(fast_sam._random_network("n", REG_MAX, seed=5))
        return made[-1]

    model = fast_sam.FastSamSegmenter(make, NANO, SEARCH)
    assert len(made) == 1

    def ask(_):
        barrier.wait()
        return model.modules()["all"]

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(ask, range(4)))
    assert len(made) == 2
    assert all(each is made[1] for each in found)


def test_masks_are_found_without_changing_the_networks_output(trained):
    model = trained()
    prepared = model.prepare(picture(200, 330))
    output = model.run_network(prepared)
    before = [each.clone() for each in output]
    first, again = (model.find_masks(output, prepared).payload for _ in range(2))
    assert all(map(torch.equal, output, before))
    assert len(first.masks) > 3
    np.testing.assert_array_equal(first.masks, again.masks)
