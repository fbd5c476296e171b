"""FastSAM: architecture, checkpoints, search for masks and selection of masks."""

import dataclasses
import gzip
import os
import pickle
import re
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from baselines import fast_sam
from baselines.fast_sam import FoundMasks, MaskSearch, select, snap_to_border
from baselines.interface import Checkpoint, Embedding, ModelOptions, Prompts
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
        with pytest.raises(WeightsError, match="returned NaN or infinity"):
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
from baselines.interface import ModelOptions
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


def found_masks(masks, scores) -> FoundMasks:
    masks = np.asarray(masks, bool)
    return FoundMasks(masks, np.zeros((len(masks), 4), "f4"), np.asarray(scores, "f4"))


# --- selection: the description as plain loops -------------------------------------------------


def expected_for_points(found, points, labels):
    height, width = found.masks.shape[1:]
    answer, score = np.zeros((height, width), bool), 0.0
    by_area = sorted(range(len(found.masks)), key=lambda i: -found.masks[i].sum())
    for i in by_area:
        merged = False
        for (x, y), label in zip(points, labels, strict=True):
            column, row = int(np.floor(x + 0.5)), int(np.floor(y + 0.5))
            if not (0 <= column < width and 0 <= row < height) or not found.masks[i, row, column]:
                continue
            merged = label == 1
            answer = answer | found.masks[i] if merged else answer & ~found.masks[i]
        if merged:
            score = max(score, float(found.scores[i]))
    return answer, score if answer.any() else 0.0


def expected_for_box(found, box, allowed):
    height, width = found.masks.shape[1:]
    region = np.zeros((height, width), bool)
    x0, y0, x1, y1 = (round(float(edge)) for edge in box)
    region[max(y0, 0) : max(y1, 0), max(x0, 0) : max(x1, 0)] = True
    best, answer, score = 0.0, np.zeros((height, width), bool), 0.0
    for mask, confidence, is_allowed in zip(found.masks, found.scores, allowed, strict=True):
        union = np.count_nonzero(mask | region)
        iou = np.count_nonzero(mask & region) / union if union else 0.0
        if is_allowed and region.any() and iou > best:
            best, answer, score = iou, mask, float(confidence)
    return answer, score


def scene(seed, n_masks, n_prompts, n_points):
    rng = np.random.default_rng(seed)
    height, width = rng.integers(1, 12, 2)
    # Coarse values, so that equal areas, equal IoUs and halves come up.
    masks = rng.random((n_masks, height, width)) < rng.choice([0.1, 0.5, 0.9], (n_masks, 1, 1))
    scores = rng.integers(1, 9, n_masks) / 8
    points = rng.integers(-4, 2 * max(height, width) + 4, (n_prompts, n_points, 2)) / 2
    labels = rng.integers(0, 2, (n_prompts, n_points))
    low = rng.integers(-8, 2 * max(height, width), (n_prompts, 2)) / 2
    boxes = np.concatenate((low, low + rng.integers(1, 16, (n_prompts, 2)) / 2), axis=1)
    return found_masks(masks, scores), points, labels, boxes


SIZES = {
    "n_masks": st.integers(0, 7),
    "n_prompts": st.integers(1, 5),
    "n_points": st.integers(1, 4),
}


@settings(derandomize=True, deadline=None, max_examples=150)
@given(seed=st.integers(0, 2**32), **SIZES)
def test_points_against_a_plain_loop(seed, n_masks, n_prompts, n_points):
    found, points, labels, _ = scene(seed, n_masks, n_prompts, n_points)
    masks, scores = select(found, Prompts(points=points, labels=labels))
    for row in range(n_prompts):
        answer, score = expected_for_points(found, points[row], labels[row])
        np.testing.assert_array_equal(masks[row], answer)
        assert scores[row] == score


@settings(derandomize=True, deadline=None, max_examples=150)
@given(seed=st.integers(0, 2**32), with_points=st.booleans(), **SIZES)
def test_boxes_against_a_plain_loop(seed, with_points, n_masks, n_prompts, n_points):
    found, points, labels, boxes = scene(seed, n_masks, n_prompts, n_points)
    extra = {"points": points, "labels": labels} if with_points else {}
    masks, scores = select(found, Prompts(boxes=boxes, **extra))
    for row in range(n_prompts):
        allowed = [True] * n_masks
        if with_points:
            for i in range(n_masks):
                one = found_masks(found.masks[i : i + 1], [1])
                held = [
                    bool(expected_for_points(one, [point], [1])[0].any()) for point in points[row]
                ]
                foreground = labels[row] == 1
                hit = any(np.array(held) & foreground) or not foreground.any()
                allowed[i] = hit and not any(np.array(held) & ~foreground)
        answer, score = expected_for_box(found, boxes[row], allowed)
        np.testing.assert_array_equal(masks[row], answer)
        assert scores[row] == score


def test_order_and_duplicates_of_prompts_are_kept():
    masks = np.zeros((3, 10, 30), bool)
    for i in range(3):
        masks[i, 2:8, 10 * i + 2 : 10 * i + 8] = True
    found = found_masks(masks, [0.5, 0.6, 0.7])
    which = np.array([2, 0, 0, 1, 2, 1])
    boxes = np.array([[10 * i + 1, 1, 10 * i + 9, 9] for i in which], "f4")
    before = boxes.copy()
    picked, scores = select(found, Prompts(boxes=boxes))
    np.testing.assert_array_equal(picked, masks[which])
    np.testing.assert_array_equal(scores, found.scores[which])
    np.testing.assert_array_equal(boxes, before)


def test_points_outside_do_not_wrap_around():
    masks = np.ones((1, 6, 8), bool)
    points = np.array([[[-1, -1]], [[8, 0]], [[0, 6]], [[-0.5, -0.5]]])
    picked, scores = select(
        found_masks(masks, [0.9]), Prompts(points=points, labels=np.ones((4, 1)))
    )
    assert picked.any(axis=(1, 2)).tolist() == [False, False, False, True]
    assert scores.tolist() == [0, 0, 0, np.float32(0.9)]


def test_an_answer_that_is_all_erased_scores_nothing():
    masks = np.zeros((3, 1, 6), bool)
    masks[0, 0, [0, 1, 2]] = True
    masks[1, 0, [0, 1, 3]] = True
    masks[2, 0, [2, 4, 5]] = True
    found = found_masks(masks, [0.9, 0.8, 0.7])
    points = np.array([[[0, 0], [3, 0], [4, 0]], [[0, 0], [3, 0], [3, 0]]])
    picked, scores = select(found, Prompts(points=points, labels=np.array([[1, 0, 0]] * 2)))
    assert picked[:, 0].tolist() == [[False] * 6, [False, False, True, False, False, False]]
    assert scores.tolist() == [0, np.float32(0.9)]


def test_many_prompts_are_quick():
    rng = np.random.default_rng(0)
    masks = np.zeros((100, 480, 640), bool)
    for mask in masks:
        y, x = rng.integers(0, 240), rng.integers(0, 320)
        mask[y : y + 200, x : x + 300] = True
    found = found_masks(masks, rng.random(100))
    low = rng.uniform(0, 200, (300, 2))
    boxes = Prompts(boxes=np.concatenate((low, low + rng.uniform(50, 300, (300, 2))), axis=1))
    points = Prompts(points=rng.uniform(0, 480, (300, 1, 2)), labels=np.ones((300, 1)))
    took = []
    for prompts in (boxes, points):
        start = time.perf_counter()
        select(found, prompts)
        took.append(time.perf_counter() - start)
    assert max(took) < 3  # about 0.2 s each on an idle core; a loop over pixels takes minutes


# --- the border rule -----------------------------------------------------------------------------


def test_border_rule():
    boxes = torch.tensor(
        [
            [19.0, 19, 620, 440],  # near every border: the whole input
            [20.0, 20, 620, 428],  # exactly at the limit: not near
            [-7.0, 100, 300, 429],
            [15.0, 50, 640, 448],
        ]
    )
    before = boxes.clone()
    snapped = snap_to_border(boxes, (448, 640), MaskSearch(full_iou=0.97))
    assert snapped.tolist() == [
        [0, 0, 620, 448],
        [20, 20, 620, 428],
        [0, 100, 300, 448],
        [0, 50, 640, 448],
    ]
    snapped = snap_to_border(boxes, (448, 640), MaskSearch(full_iou=0.88))
    assert snapped[[0, 3]].tolist() == [[0, 0, 640, 448]] * 2
    assert torch.equal(boxes, before)
    off = MaskSearch(border_px=0, full_iou=1)
    inside = boxes[[0, 1, 3]]
    assert torch.equal(snap_to_border(inside, (448, 640), off), inside)
