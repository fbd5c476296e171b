import json
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from benchmarks.datasets.coco import CocoDataset
from benchmarks.datasets.dataset import Instance
from benchmarks.datasets.masks import encode_mask, rle_box
from benchmarks.prompts import centers
from benchmarks.prompts.centers import deepest_pixel
from benchmarks.prompts.manifest import ManifestBuilder, PromptManifest, center_point, prompt_rule
from mobilesam.errors import DataError

QUICK = settings(derandomize=True, deadline=None, max_examples=80)


def full_size_center(mask):
    distance = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    rows, columns = np.nonzero(distance == distance.max())
    first = np.lexsort((columns, rows))[0]
    return int(columns[first]), int(rows[first])


def instance(number=1, mask=None):
    if mask is None:
        mask = np.zeros((9, 11), bool)
        mask[2:7, 3:8] = True
    rle = encode_mask(mask)
    return Instance(number, "", float(mask.sum()), rle_box(rle), rle)


@QUICK
@given(hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, max_side=14)))
def test_center_is_that_of_the_full_size_transform(mask):
    if mask.any():
        assert center_point(mask) == full_size_center(mask)


@QUICK
@given(st.integers(0, 2**32 - 1))
def test_center_of_large_smooth_masks(seed):
    noise = np.random.default_rng(seed).normal(size=(60, 80))
    mask = ndimage.gaussian_filter(noise, 4) > 0.06
    if mask.any():
        assert center_point(mask) == full_size_center(mask)


def test_the_border_of_the_image_counts_as_outside():
    assert center_point(np.ones((5, 9), bool)) == (2, 2)
    left_half = np.zeros((5, 9), bool)
    left_half[:, :5] = True
    assert center_point(left_half) == (2, 2)


def test_ties_go_to_the_lowest_row_then_column():
    mask = np.zeros((8, 8), bool)
    for y, x in ((5, 1), (2, 6), (2, 3)):
        mask[y, x] = True
    assert center_point(mask) == (3, 2)


@pytest.mark.parametrize("seed", range(6))
def test_the_center_does_not_depend_on_the_library(monkeypatch, seed):
    noise = np.random.default_rng(seed).normal(size=(300, 400))
    mask = ndimage.gaussian_filter(noise, 3 * seed + 1) > 0
    with_opencv = deepest_pixel(mask)
    monkeypatch.setattr(centers, "_MAX_FLOAT32_SIDE_PX", 0)
    monkeypatch.setitem(sys.modules, "cv2", None)
    assert deepest_pixel(mask) == with_opencv


def test_the_center_of_the_largest_disc_that_opencv_is_trusted_with():
    side = centers._MAX_FLOAT32_SIDE_PX - 2
    rows, columns = np.ogrid[:side, :side]
    middle = (side - 1) / 2
    disc = (rows - middle) ** 2 + (columns - middle) ** 2 < middle**2
    for mask in (disc, np.pad(disc, ((0, 0), (0, 2)))):
        assert center_point(mask) == full_size_center(mask)
    wider = np.pad(disc, ((0, 0), (0, 3)), constant_values=True)
    assert center_point(wider) == full_size_center(wider)


def test_the_depth_is_the_square_of_the_distance():
    mask = np.zeros((9, 11), bool)
    mask[2:7, 3:8] = True
    assert deepest_pixel(mask) == (5, 4, 9)
    assert deepest_pixel(~mask & False) is None


def test_an_empty_mask_has_no_center():
    with pytest.raises(DataError, match="empty mask"):
        center_point(np.zeros((4, 4), bool))


def manifest(keys=((1, 5), (1, 7), (4, 2)), kind="box", seed=0, fingerprint="f"):
    builder = ManifestBuilder(fingerprint, prompt_rule(kind), seed)
    for image_id, annotation_id in keys:
        each = instance(annotation_id)
        builder.add(image_id, each, each.mask())
    return builder.finish()


@pytest.mark.parametrize("kind", ["box", "center", "random-2", "two-point-4"])
def test_a_manifest_survives_saving(tmp_path, kind):
    before = manifest(kind=kind)
    before.save(tmp_path / "m.parquet")
    after = PromptManifest.load(tmp_path / "m.parquet")
    assert after.sha256 == before.sha256
    assert (after.fingerprint, after.rule, after.seed) == ("f", prompt_rule(kind), 0)
    assert np.array_equal(after.values, before.values)
    assert after.values.dtype == np.float32
    assert len(after) == 3
    assert [p.name for p in tmp_path.iterdir()] == ["m.parquet"]


def test_the_hash_does_not_depend_on_the_order_of_adding():
    assert manifest(((4, 2), (1, 7), (1, 5))).sha256 == manifest().sha256


def test_the_hash_follows_everything_that_matters():
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
def test_the_hash_is_the_same_for_ever(kind, sha256):
    assert manifest(kind=kind).sha256 == sha256


@pytest.mark.shared
def test_manifests_of_real_data_are_the_same_for_ever(shared):
    coco = shared / "data" / "coco"
    data = CocoDataset(coco / "images" / "val2017_dev", coco / "instances_val2017_dev.json")
    wanted = {
        "box": "2871384a69734001dd103bfa9df308727f44ce0f7ba58578f4515f734678c211",
        "center": "eba45aa54167ad6f1e9c808da0c41de7848119fdccda68178a7eda6b64e260db",
        "random-3": "00235e064440b37972b069dd550e1cc23e0e20fdcf26cc71d82693f11326a728",
        "two-point-100": "025eeb438e408b4db20045dd02e850679d83d6ba55d69fac5f4ae87bfdd63c12",
    }
    builders = {kind: ManifestBuilder(data.fingerprint, prompt_rule(kind), 0) for kind in wanted}
    for sample in data.samples():
        for each in sample.instances:
            mask = each.mask()
            for builder in builders.values():
                builder.add(sample.image_id, each, mask)
    done = {kind: builder.finish() for kind, builder in builders.items()}
    assert {kind: each.sha256 for kind, each in done.items()} == wanted
    assert [each.left_out for each in done.values()] == [0, 0, 0, 35]


def test_minus_zero_is_zero():
    zero, box = manifest(), prompt_rule("box")
    minus = PromptManifest("f", box, 0, zero.image_ids, zero.annotation_ids, zero.values * 0)
    plus = PromptManifest("f", box, 0, zero.image_ids, zero.annotation_ids, zero.values * -0.0)
    assert minus.sha256 == plus.sha256


def test_looking_up_a_prompt():
    found = manifest()
    assert found.get(1, 7).tolist() == [3, 2, 8, 7]
    for missing in ((1, 6), (2, 5), (4, 9), (9, 1)):
        with pytest.raises(DataError, match=f"annotation {missing[1]} of image {missing[0]}"):
            found.get(*missing)


def uneven(order=(3, 0, 2, 1), kind="random-12"):
    """A manifest of four annotations, of which the small ones have no prompt."""
    builder = ManifestBuilder("f", prompt_rule(kind), 0)
    small = np.zeros((9, 11), bool)
    small[4, 5] = True
    keys = ((1, 5, small), (1, 7, None), (2, 1, small), (4, 2, None))
    for image_id, annotation_id, mask in (keys[place] for place in order):
        each = instance(annotation_id, mask)
        found = builder.add(image_id, each, each.mask())
        assert (found is None) == (mask is not None)
    assert builder.left_out == 2
    return builder.finish()


def header_of(table):
    (text,) = table.schema.metadata.values()
    return json.loads(text)


def test_what_has_no_prompt_is_left_out_and_counted():
    found = uneven()
    assert (len(found), found.left_out) == (2, 2)
    assert found.values.shape == (2, 24)
    assert np.isfinite(found.values).all()
    assert found.left_out_ids.tolist() == [[1, 5], [2, 1]]
    assert found.get(1, 5) is None
    assert found.get(2, 1) is None
    assert found.get(1, 7).tolist() == found.values[0].tolist()
    for missing in ((1, 6), (2, 5), (5, 2), (9, 1)):
        with pytest.raises(DataError, match=f"annotation {missing[1]} of image {missing[0]}"):
            found.get(*missing)


def test_what_is_left_out_survives_saving(tmp_path):
    before = uneven()
    before.save(tmp_path / "m.parquet")
    after = PromptManifest.load(tmp_path / "m.parquet")
    assert after.sha256 == before.sha256
    assert np.array_equal(after.values, before.values)
    assert after.left_out_ids.tolist() == before.left_out_ids.tolist()
    assert after.get(1, 5) is None
    table = pq.read_table(tmp_path / "m.parquet")
    assert table["annotation_id"].to_pylist() == [5, 7, 1, 2]
    assert [value is None for value in table["x0"].to_pylist()] == [True, False, True, False]
    assert header_of(table)["left_out"] == 2
    manifest().save(tmp_path / "all.parquet")
    assert "left_out" not in header_of(pq.read_table(tmp_path / "all.parquet"))


def test_what_is_left_out_is_part_of_the_hash():
    whole = uneven()
    parts = (whole.fingerprint, whole.rule, 0, whole.image_ids, whole.annotation_ids, whole.values)
    others = [
        whole,
        PromptManifest(*parts),
        PromptManifest(*parts, whole.left_out_ids[:1]),
        PromptManifest(*parts, whole.left_out_ids + 1),
    ]
    assert len({other.sha256 for other in others}) == 4
    assert uneven((0, 1, 2, 3)).sha256 == whole.sha256


def test_a_manifest_of_nothing_but_left_out(tmp_path):
    before = manifest(kind="annotation-point")
    assert (len(before), before.left_out, before.values.shape) == (0, 3, (0, 2))
    before.save(tmp_path / "m.parquet")
    after = PromptManifest.load(tmp_path / "m.parquet")
    assert after.sha256 == before.sha256
    assert after.get(4, 2) is None


def test_a_manifest_of_an_unknown_rule_is_refused(tmp_path):
    path = tmp_path / "m.parquet"
    manifest().save(path)
    table = pq.read_table(path)
    key, text = next(iter(table.schema.metadata.items()))
    header = json.dumps(json.loads(text) | {"kind": "guess"}).encode()
    pq.write_table(table.replace_schema_metadata({key: header}), path)
    with pytest.raises(DataError, match="is not a prompt manifest"):
        PromptManifest.load(path)


def test_an_annotation_comes_once():
    with pytest.raises(DataError, match="annotation 5 of image 1 comes twice"):
        manifest(((1, 5), (1, 5)))


def test_an_empty_manifest_keeps_its_shape(tmp_path):
    empty = manifest(())
    assert empty.values.shape == (0, 4)
    empty.save(tmp_path / "m.parquet")
    assert PromptManifest.load(tmp_path / "m.parquet").sha256 == empty.sha256


def test_a_changed_file_is_refused(tmp_path):
    path = tmp_path / "m.parquet"
    manifest().save(path)
    table = pq.read_table(path)
    moved = table.set_column(2, "x0", pa.array([0, 0, 1], pa.float32()))
    pq.write_table(moved.replace_schema_metadata(table.schema.metadata), path)
    with pytest.raises(DataError, match="was changed"):
        PromptManifest.load(path)


@pytest.mark.parametrize("data", [b"", b"PAR1 no", None])
def test_what_is_no_manifest_is_refused(tmp_path, data):
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
