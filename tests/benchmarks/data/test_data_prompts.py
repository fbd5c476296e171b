import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from benchmarks.data.dataset import Instance
from benchmarks.data.masks import encode_mask, rle_box
from benchmarks.data.prompts import ManifestBuilder, PromptManifest, center_point, prompt_rule
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


def test_an_empty_mask_has_no_center():
    with pytest.raises(DataError, match="empty mask"):
        center_point(np.zeros((4, 4), bool))


def manifest(keys=((1, 5), (1, 7), (4, 2)), kind="box", seed=0, fingerprint="f"):
    builder = ManifestBuilder(fingerprint, prompt_rule(kind), seed)
    for image_id, annotation_id in keys:
        each = instance(annotation_id)
        builder.add(image_id, each, each.mask())
    return builder.finish()


@pytest.mark.parametrize("kind", ["box", "center"])
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


def test_the_hash_is_the_same_for_ever():
    wanted = "d7a7ba272c0b26b7cf84b7a09c4706ad39f0564de571474efa0dcca242f69539"
    assert manifest().sha256 == wanted


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
