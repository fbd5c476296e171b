"""Conversion of options into a run configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.config import from_options
from benchmarks.config.from_options import (
    device_of,
    listed,
    make_config,
    one_trained,
    open_dataset,
    require_new_folder,
    select_models,
    sharding_config,
    weights_policy,
)
from benchmarks.config.options import (
    AccuracyArguments,
    DataArguments,
    ModelArguments,
    OutputArguments,
    ScaleArguments,
)
from benchmarks.config.run_config import ShardingConfig, find_profile
from benchmarks.datasets.synthetic import SyntheticDataset
from benchmarks.records.environment import ThreadChoice
from mobilesam.errors import UsageError, WeightsError

MODELS = ModelArguments(models="box, dummy", threads=1)


@pytest.mark.parametrize(
    ("models", "use_busy"),
    [("mobilesam-fast,mobilesam-fast@512", True), ("mobilesam-fast,box", False)],
)
def test_the_fast_path_alone_takes_all_cores(
    monkeypatch: pytest.MonkeyPatch, models: str, use_busy: bool
) -> None:
    """It is faster under load with all of them: results/speedups/load.json."""
    seen = []
    found = ThreadChoice(1, "")
    monkeypatch.setattr(
        from_options, "free_threads", lambda *, use_busy: (seen.append(use_busy), found)[1]
    )
    accuracy = AccuracyArguments(dataset="synthetic", protocol="box")
    make_config("miou", ModelArguments(models=models), OutputArguments(), accuracy=accuracy)
    assert seen == [use_busy]


def test_options_become_one_configuration(tmp_path: Path) -> None:
    config = make_config(
        "run",
        MODELS,
        OutputArguments(out=tmp_path / "o", note="a note"),
        profile=find_profile("quick"),
        counting=True,
        accuracy=AccuracyArguments(
            dataset="synthetic", protocol="box,everything", reference="teacher:box,ground-truth",
            no_boundary=True,
        ),
        n_scenes=2,
    )  # fmt: skip
    assert [entry.name for entry in config.models] == ["box", "dummy"]
    assert [entry.name for entry in config.reference_models] == ["box"]
    assert [protocol.name for protocol in config.protocols] == ["box"]
    assert (config.everything, config.boundary, config.count_parameters) == (True, False, True)
    assert config.dataset is not None
    assert config.dataset.n_images == 2
    assert config.needs_weights
    assert not config.default_models
    assert not (tmp_path / "o").exists()  # created by the run itself


def test_a_default_folder_is_created_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    accuracy = AccuracyArguments(protocol="box", detections=Path("x.json"))
    with pytest.raises(UsageError, match="--detections is for"):
        make_config("miou", MODELS, OutputArguments(), accuracy=accuracy)
    assert not list(tmp_path.iterdir())
    config = make_config("params", MODELS, OutputArguments(), counting=True)
    assert config.out.is_dir()
    assert config.out.name.startswith("params-")
    assert not config.needs_weights


@pytest.mark.parametrize(
    ("options", "device", "config"),
    [
        (ScaleArguments(), "cpu", None),
        (ScaleArguments(chunk=7), "cpu", ShardingConfig(images_per_shard=7)),
        (ScaleArguments(lanes=0), "cpu", ShardingConfig(prefetch_threads=0)),
        (
            ScaleArguments(cluster="local", workers=2),
            "cuda",
            ShardingConfig(cluster="local", workers=2, worker_gpus=1.0),
        ),
        (
            ScaleArguments(cluster="local", worker_gpus=0.5),
            "cuda",
            ShardingConfig(cluster="local", worker_gpus=0.5),
        ),
    ],
)
def test_options_of_shards(
    options: ScaleArguments, device: str, config: ShardingConfig | None
) -> None:
    assert sharding_config(options, ModelArguments(device=device)) == config


def test_the_device_of_a_remote_cluster_need_not_be_here() -> None:
    models = ModelArguments(device="cuda:77")
    assert device_of(models, ShardingConfig(cluster="10.0.0.1:6379")) == "cuda:77"
    for sharding in (None, ShardingConfig(), ShardingConfig(cluster="local")):
        with pytest.raises(UsageError, match="cuda"):
            device_of(models, sharding)


def test_a_limit_replaces_the_number_of_scenes() -> None:
    for limit, n_images in ((None, 5), (3, 3)):
        dataset = open_dataset(DataArguments(dataset="synthetic", limit=limit), 5, seed=1)
        assert isinstance(dataset, SyntheticDataset)
        assert dataset.n_images == n_images


def test_weights_by_name_of_the_model() -> None:
    policy = weights_policy(ModelArguments(weights=("mobilesam=a.pt",), offline=True), 10)
    assert policy.overrides == {"mobilesam": Path("a.pt")}
    assert (policy.offline, policy.trust, policy.fetch_limit_bytes) == (True, False, 10)


def test_one_model_with_trained_weights() -> None:
    assert one_trained(ModelArguments(models="box"), "predict").entry.name == "box"
    with pytest.raises(UsageError, match="predict takes one model"):
        one_trained(MODELS, "predict")
    with pytest.raises(WeightsError, match="sam-vit-b"):
        one_trained(ModelArguments(models="sam-vit-b", offline=True), "predict")


def test_lists_are_separated_by_commas() -> None:
    assert listed(" a, b,,c ") == ["a", "b", "c"]


def test_a_folder_with_a_record_is_refused(tmp_path: Path) -> None:
    require_new_folder(tmp_path)
    (tmp_path / "record.json").touch()
    with pytest.raises(UsageError, match="choose another --out"):
        require_new_folder(tmp_path)


def test_each_input_size_is_a_model() -> None:
    options = ModelArguments(models="mobilesam,grabcut", input_size="1024,512")
    names = [entry.name for entry in select_models(options)]
    assert names == ["mobilesam", "mobilesam@512", "grabcut"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"models": "mobilesam", "input_size": "large"}, "--input-size takes sizes in pixels"),
        ({"models": "mobilesam", "input_size": ","}, "--input-size takes sizes in pixels"),
        ({"models": "box,grabcut", "input_size": "512"}, "box, grabcut cannot run at other"),
        ({"models": "fastsam-s", "licence": "permissive"}, "leaves none of fastsam-s"),
    ],
)
def test_impossible_selections(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        select_models(ModelArguments(**changes))


def test_models_without_a_permissive_licence_are_left_out_and_named(
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = ModelArguments(models="mobilesam,fastsam-*", licence="permissive")
    assert [entry.name for entry in select_models(options)] == ["mobilesam"]
    assert capsys.readouterr().err == "licence: left out fastsam-x, fastsam-s\n"


def test_batches_are_a_setting_of_the_run(tmp_path: Path) -> None:
    quick, output = find_profile("quick"), OutputArguments(out=tmp_path / "o")
    plain = make_config("latency", MODELS, output, profile=quick)
    config = make_config("latency", MODELS, output, profile=quick, batch="4,1,4")
    assert (plain.batch_sizes, config.batch_sizes) == ((), (1, 4))
    settings = config.to_dict((), ())
    assert settings.pop("batch_sizes") == [1, 4]
    assert settings == plain.to_dict((), ())
    for text in ("0", "two", ",", "-1"):
        with pytest.raises(UsageError, match="--batch takes numbers of images"):
            make_config("latency", MODELS, output, profile=quick, batch=text)


def test_weights_by_names_with_other_characters() -> None:
    given = ("mobilesam@512=a.pt", "hf:facebook/sam-vit-base=my/folder=1")
    assert weights_policy(ModelArguments(weights=given)).overrides == {
        "mobilesam@512": Path("a.pt"),
        "hf:facebook/sam-vit-base": Path("my/folder=1"),
    }
