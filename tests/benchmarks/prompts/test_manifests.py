"""Prompt manifests: hashes, files, lookups, and how a pass over the data makes them."""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.datasets.coco import CocoDataset
from benchmarks.datasets.dataset import Instance, Sample
from benchmarks.datasets.masks import encode_mask, rle_box
from benchmarks.prompts.manifests import ManifestStore, PassPrompts, PromptManifest
from benchmarks.prompts.samplers import prompt_sampler
from mobilesam.errors import DataError

KEYS = ((1, 5), (1, 7), (4, 2))
IMAGE = np.zeros((9, 11, 3), np.uint8)


def instance(number, mask=None):
    if mask is None:
        mask = np.zeros((9, 11), bool)
        mask[2:7, 3:8] = True
    rle = encode_mask(mask)
    return Instance(number, "", float(mask.sum()), rle_box(rle), rle)


def manifest(keys=KEYS, kind="box", seed=0, fingerprint="f"):
    sampler = prompt_sampler(kind)
    prompts = {}
    for image_id, annotation_id in keys:
        each = instance(annotation_id)
        prompts[image_id, annotation_id] = sampler.sample(each, each.mask(), seed)
    return PromptManifest.from_prompts(fingerprint, sampler, seed, prompts)


@pytest.mark.parametrize(
    "kind", ["box", "center", "random-2", "two-point-4", "box-jitter-2.5", "mask-eroded"]
)
def test_a_manifest_survives_saving(tmp_path, kind):
    before = manifest(kind=kind)
    before.save(tmp_path / "m.parquet")
    after = PromptManifest.load(tmp_path / "m.parquet")
    assert after.sha256 == before.sha256
    assert (after.fingerprint, after.sampler, after.seed) == ("f", prompt_sampler(kind), 0)
    assert np.array_equal(after.values, before.values)
    assert after.values.dtype == np.float32
    assert len(after.ids) == 3
    assert [p.name for p in tmp_path.iterdir()] == ["m.parquet"]


def test_the_hash_does_not_depend_on_the_order_of_the_prompts():
    assert manifest(((4, 2), (1, 7), (1, 5))).sha256 == manifest().sha256


def test_the_hash_covers_everything_that_matters():
    others = [
        manifest(),
        manifest(((1, 5), (1, 7))),
        manifest(((1, 5), (1, 7), (4, 3))),
        manifest(kind="center"),
        manifest(seed=1),
        manifest(fingerprint="g"),
    ]
    assert len({other.sha256 for other in others}) == len(others)


@pytest.mark.parametrize(
    ("kind", "sha256"),
    [
        ("box", "d7a7ba272c0b26b7cf84b7a09c4706ad39f0564de571474efa0dcca242f69539"),
        ("center", "be71f7f72d3727780aaf4b378595e63f499014ace5de85eb19f4f4318510362d"),
    ],
)
def test_hashes_do_not_change_between_versions(kind, sha256):
    assert manifest(kind=kind).sha256 == sha256


@pytest.mark.shared
def test_hashes_of_real_data_do_not_change_between_versions(shared, tmp_path):
    coco = shared / "data" / "coco"
    data = CocoDataset(coco / "images" / "val2017_dev", coco / "instances_val2017_dev.json")
    wanted = {
        "box": "2871384a69734001dd103bfa9df308727f44ce0f7ba58578f4515f734678c211",
        "center": "eba45aa54167ad6f1e9c808da0c41de7848119fdccda68178a7eda6b64e260db",
        "random-3": "00235e064440b37972b069dd550e1cc23e0e20fdcf26cc71d82693f11326a728",
        "two-point-100": "025eeb438e408b4db20045dd02e850679d83d6ba55d69fac5f4ae87bfdd63c12",
    }
    store = ManifestStore(data.fingerprint, 0, tmp_path)
    prompts = PassPrompts(store)
    for sample in data.samples():
        for each in sample.instances:
            mask = each.mask()
            for name in wanted:
                prompts.prompt(prompt_sampler(name), sample, each, mask)
    prompts.finish(whole=False)
    assert {name: store.sha256(name) for name in wanted} == wanted
    assert [store.left_out(name) for name in wanted] == [0, 0, 0, 35]


def test_minus_zero_is_zero():
    zero = manifest()
    hashes = {replace(zero, values=zero.values * factor).sha256 for factor in (0, -0.0)}
    assert len(hashes) == 1


def test_a_prompt_is_found_by_image_and_annotation():
    found = manifest()
    assert found.get(1, 7).tolist() == [3, 2, 8, 7]
    for missing in ((1, 6), (2, 5), (4, 9), (9, 1)):
        with pytest.raises(DataError, match=f"annotation {missing[1]} of image {missing[0]}"):
            found.get(*missing)


def with_small_masks(order=(3, 0, 2, 1)):
    """A manifest of four annotations, two of which are too small to have a prompt."""
    sampler = prompt_sampler("random-12")
    small = np.zeros((9, 11), bool)
    small[4, 5] = True
    keys = ((1, 5, small), (1, 7, None), (2, 1, small), (4, 2, None))
    prompts = {}
    for image_id, annotation_id, mask in (keys[place] for place in order):
        each = instance(annotation_id, mask)
        prompts[image_id, annotation_id] = sampler.sample(each, each.mask(), 0)
    return PromptManifest.from_prompts("f", sampler, 0, prompts)


def header_of(table):
    (text,) = table.schema.metadata.values()
    return json.loads(text)


def test_annotations_without_a_prompt_are_left_out_and_counted():
    found = with_small_masks()
    assert (len(found.ids), found.left_out) == (4, 2)
    assert found.values.shape == (4, 24)
    assert found.get(1, 5) is None
    assert found.get(2, 1) is None
    assert np.isfinite(found.get(1, 7)).all()
    for missing in ((1, 6), (2, 5), (5, 2), (9, 1)):
        with pytest.raises(DataError, match=f"annotation {missing[1]} of image {missing[0]}"):
            found.get(*missing)


def test_left_out_annotations_survive_saving(tmp_path):
    before = with_small_masks()
    before.save(tmp_path / "m.parquet")
    after = PromptManifest.load(tmp_path / "m.parquet")
    assert after.sha256 == before.sha256
    assert np.array_equal(after.values, before.values, equal_nan=True)
    assert after.left_out == 2
    assert after.get(1, 5) is None
    table = pq.read_table(tmp_path / "m.parquet")
    assert table["annotation_id"].to_pylist() == [5, 7, 1, 2]
    assert [value is None for value in table["x0"].to_pylist()] == [True, False, True, False]
    assert header_of(table)["left_out"] == 2
    manifest().save(tmp_path / "all.parquet")
    assert "left_out" not in header_of(pq.read_table(tmp_path / "all.parquet"))


def test_left_out_annotations_are_part_of_the_hash():
    whole = with_small_masks()
    made = np.isfinite(whole.values[:, 0])
    others = [
        whole,
        replace(whole, ids=whole.ids[made], values=whole.values[made]),
        replace(whole, ids=whole.ids[1:], values=whole.values[1:]),
        replace(whole, ids=whole.ids + np.where(made, 0, 1)[:, None]),
    ]
    assert len({other.sha256 for other in others}) == 4
    assert with_small_masks((0, 1, 2, 3)).sha256 == whole.sha256


def test_a_manifest_without_any_prompt(tmp_path):
    before = manifest(kind="annotation-point")
    assert (len(before.ids), before.left_out) == (3, 3)
    before.save(tmp_path / "m.parquet")
    after = PromptManifest.load(tmp_path / "m.parquet")
    assert after.sha256 == before.sha256
    assert after.get(4, 2) is None


def test_an_empty_manifest_keeps_its_shape(tmp_path):
    empty = manifest(())
    assert empty.values.shape == (0, 4)
    empty.save(tmp_path / "m.parquet")
    assert PromptManifest.load(tmp_path / "m.parquet").sha256 == empty.sha256


def test_a_manifest_of_an_unknown_sampler_is_rejected(tmp_path):
    path = tmp_path / "m.parquet"
    manifest().save(path)
    table = pq.read_table(path)
    key, text = next(iter(table.schema.metadata.items()))
    header = json.dumps(json.loads(text) | {"kind": "guess"}).encode()
    pq.write_table(table.replace_schema_metadata({key: header}), path)
    with pytest.raises(DataError, match="is not a prompt manifest"):
        PromptManifest.load(path)


def test_a_changed_file_is_rejected(tmp_path):
    path = tmp_path / "m.parquet"
    manifest().save(path)
    table = pq.read_table(path)
    moved = table.set_column(2, "x0", pa.array([0, 0, 1], pa.float32()))
    pq.write_table(moved.replace_schema_metadata(table.schema.metadata), path)
    with pytest.raises(DataError, match="was changed"):
        PromptManifest.load(path)


@pytest.mark.parametrize("data", [b"", b"PAR1 no", None])
def test_another_file_is_rejected(tmp_path, data):
    path = tmp_path / "m.parquet"
    if data is None:
        pq.write_table(pa.table({"a": [1]}), path)
    else:
        path.write_bytes(data)
    with pytest.raises(DataError, match=r"m\.parquet is not a prompt manifest"):
        PromptManifest.load(path)


def test_a_missing_manifest(tmp_path):
    with pytest.raises(DataError, match="No such file"):
        PromptManifest.load(tmp_path / "m.parquet")


def run_pass(store, *, whole, keys=KEYS):
    """Collects the box prompts of one pass and returns them."""
    prompts = PassPrompts(store)
    found = []
    for image_id, annotation_id in keys:
        each = instance(annotation_id)
        sample = Sample(image_id, "a.png", IMAGE, (each,))
        found.append(prompts.prompt(prompt_sampler("box"), sample, each, each.mask()))
    prompts.finish(whole=whole)
    return found


def test_a_pass_uses_the_manifest_of_an_earlier_one(tmp_path):
    store = ManifestStore("f", 0, tmp_path)
    assert store.sha256("box") is None
    made = run_pass(store, whole=True)
    assert store.sha256("box") == manifest().sha256
    resumed = ManifestStore("f", 0, tmp_path)
    again = run_pass(resumed, whole=True)
    assert [each.tolist() for each in again] == [each.tolist() for each in made]
    with pytest.raises(DataError, match="annotation 9 of image 1; the manifest belongs to other"):
        run_pass(resumed, whole=True, keys=((1, 9),))


def test_only_a_pass_over_all_images_is_stored(tmp_path):
    run_pass(ManifestStore("f", 0, tmp_path), whole=False)
    assert list(tmp_path.iterdir()) == []
    run_pass(ManifestStore("f", 0, tmp_path), whole=True)
    with pytest.raises(DataError, match="belongs to other data; choose another --out"):
        ManifestStore("g", 0, tmp_path).find("box")


def test_an_annotation_occurs_once(tmp_path):
    with pytest.raises(DataError, match="annotation 5 of image 1 comes twice"):
        run_pass(ManifestStore("f", 0, tmp_path), whole=True, keys=((1, 5), (1, 5)))
