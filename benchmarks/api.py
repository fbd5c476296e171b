"""The public Python API; `benchmarks` exports its functions, and the command line calls them."""

from __future__ import annotations

import io
import tempfile
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack

from baselines.interface import BoolArray, Prompts, Segmenter, UInt8Array
from baselines.registry import ModelEntry, select
from benchmarks.config.from_options import make_config
from benchmarks.config.options import AccuracyArguments, ModelArguments, OutputArguments
from benchmarks.config.run_config import find_profile
from benchmarks.datasets.dataset import ArrayDataset, Dataset
from benchmarks.records.instances import read_instances
from benchmarks.records.progress import Reporter
from benchmarks.records.record import RunRecord
from benchmarks.records.record import load_record as load_run_record
from benchmarks.run import executed
from mobilesam.errors import BenchError, DataError, UsageError
from mobilesam.frozen_model import FrozenModel

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from benchmarks.config.run_config import RunConfig
    from benchmarks.regression.compare import CompareRow

REPORT_NAME = "report.html"
Model = str | Segmenter | Callable[[UInt8Array, Prompts], BoolArray]
"""A registered name or wildcard, a `Segmenter`, or a function (see `FunctionSegmenter`)."""
DatasetLike = str | Dataset | Sequence[tuple[UInt8Array, BoolArray]]
"""A registered name, a `Dataset`, or pairs of an (H, W, 3) uint8 image and (N, H, W) bool masks."""
PlotKind = Literal[
    "accuracy-latency", "clicks", "decode", "latency", "params", "protocols", "robustness", "size"
]  # fmt: skip
TableName = Literal[
    "models",
    "params",
    "latency",
    "batches",
    "memory",
    "miou",
    "comparisons",
    "robustness",
    "accuracy_times",
    "detector",
    "everything",
    "failures",
]


@dataclass(eq=False)
class Result:
    """Result of a run.

    Attributes:
        record: The record, as `record.json` holds it.
        folder: Folder of the record; None if it was temporary.
        files: Tables, plots and report that were written.
        problems: Files that could not be written, although the record was.
    """

    record: RunRecord
    folder: Path | None = None
    files: Sequence[Path] = ()
    problems: Sequence[str] = ()

    @cached_property
    def instances(self) -> pd.DataFrame:
        """One row per prompt: image, annotation, model, protocol, reference, IoU, boundary IoU.

        Raises:
            DataError: The run has measured no accuracy.
        """
        if self.record.instances is None or self.folder is None:
            raise DataError("this run has no table of instances: it measured no IoU")
        frame: pd.DataFrame = read_instances(self.folder / self.record.instances)
        return frame

    @property
    def summary(self) -> pd.DataFrame:
        """One row per model and protocol, with 95 % intervals; values are fractions in [0, 1].

        Without accuracy, one row per model and phase, or else per model and component.
        """
        names: tuple[TableName, ...] = ("miou", "detector", "everything", "latency", "params")
        return self.table(next((name for name in names if getattr(self.record, name)), "miou"))

    def table(self, name: TableName) -> pd.DataFrame:
        """Returns the rows of one list of the record, such as `latency` or `failures`.

        Intervals are split into two columns, `ci95_low` and `ci95_high`.
        """
        import pandas as pd

        return pd.DataFrame(map(_flat, getattr(self.record, name)))

    def plot(self, kind: PlotKind = "accuracy-latency", *, times: Result | None = None) -> Figure:
        """Draws a plot of the record.

        Args:
            kind: Which plot.
            times: Result of `time_model` for the same models in the same precision, if this one
                has no times.

        Returns:
            A matplotlib figure, which Jupyter displays.

        Raises:
            UsageError: The record lacks what the plot shows.
        """
        from benchmarks.report.plots import draw_plot

        record = self.record
        if times is not None:
            from benchmarks.tables.merging import merge_records

            record = merge_records([record, times.record])
        if kind == "accuracy-latency" and not record.latency:
            raise UsageError(
                "accuracy-latency needs times, and none were measured: evaluate with "
                "profile='quick', or plot with times=time_model(models)"
            )
        figure: Figure | None = draw_plot(record, kind)
        if figure is None:
            raise UsageError(f"the record has nothing for the plot {kind!r}")

        def png() -> bytes:
            buffer = io.BytesIO()
            figure.savefig(buffer, format="png", dpi=150)
            return buffer.getvalue()

        # Jupyter displays a figure that was made without pyplot only by this method.
        figure._repr_png_ = png  # type: ignore[attr-defined]
        return figure

    def _repr_html_(self) -> str:
        return str(self.summary.to_html())


@dataclass(frozen=True, eq=False)
class Comparison:
    """Two runs side by side.

    Attributes:
        rows: One per quantity that either run measured, with verdict and interval.
        notes: Differences in how the runs were made, one line each.
    """

    rows: tuple[CompareRow, ...]
    notes: tuple[str, ...]

    @property
    def summary(self) -> pd.DataFrame:
        """One row per model and quantity: values `a` and `b`, change, interval and verdict."""
        import pandas as pd

        return pd.DataFrame(map(_flat, self.rows))

    def _repr_html_(self) -> str:
        return str(self.summary.to_html())


class RunOptions(TypedDict, total=False):
    """Options of all measuring functions.

    Attributes:
        weights: Local weights by name of the model.
        offline: Download nothing.
        device: Torch device; `cpu` by default.
        precision: `fp32` (default), `fp16` or `bf16`.
        threads: CPU threads, also set for this process; by default the cores that are free.
        seed: Seed of prompts, scenes, order and random weights; 0 by default.
        out: Folder for the record; the same folder resumes an interrupted run. By default a
            temporary folder.
        quiet: Print warnings only.
    """

    weights: Mapping[str, Path | str]
    offline: bool
    device: str
    precision: str
    threads: int
    seed: int
    out: Path | str
    quiet: bool


def evaluate(
    models: Model | Iterable[Model],
    dataset: DatasetLike = "photos",
    protocols: str | Iterable[str] | None = None,
    *,
    references: str | Iterable[str] = "ground-truth",
    limit: int | None = None,
    images: Path | str | None = None,
    annotations: Path | str | None = None,
    root: Path | str | Iterable[Path | str] = (),
    ignore: int | None = None,
    boundary: bool = True,
    save_masks: bool = False,
    noc: Iterable[float] | None = None,
    noc_ceiling: int | None = None,
    profile: str | None = None,
    **options: Unpack[RunOptions],
) -> Result:
    """Evaluates models on a dataset: mean IoU and boundary IoU with 95 % intervals.

    Args:
        models: One or several models.
        dataset: `photos`, `synthetic`, a format (`coco`, `lvis`, `sa1b`, `masks`, `yolo-seg`,
            `voc`, `labelme`; `auto` detects it), or data of your own.
        protocols: Accuracy protocols, such as `box`, `center` or `clicks-5`; None for the default.
        references: `ground-truth`, or `teacher:NAME` for the masks of another model.
        limit: Use the first images only.
        images: Folder of the images of `coco`, `lvis` or `masks`.
        annotations: Instances file of `coco` or `lvis`, folder of the masks of `masks`.
        root: Folder or file of the dataset; folders or tar files of `sa1b`.
        ignore: Value of pixels of `masks` or `voc` that are neither object nor background.
        boundary: Compute boundary IoU as well.
        save_masks: Keep the predicted masks in `out`, also as COCO results.
        noc: IoUs, above 0 and up to 1, until which clicks are counted; by default 0.8, 0.85, 0.9
            and 0.95.
        noc_ceiling: Clicks of the protocols `noc` and `noc-multi`; by default 20.
        profile: Also time the models, with `quick`, `standard` or `full` thoroughness.
        options: See `RunOptions`.

    Raises:
        UsageError: An argument is invalid.
        DataError: The dataset cannot be read, or `out` holds another run.
    """
    own_dataset: Dataset | None = None
    roots = (Path(root),) if isinstance(root, Path | str) else tuple(map(Path, root))
    if not isinstance(dataset, str):
        if any((limit, images, annotations, roots, ignore is not None)):
            raise UsageError("limit, images, annotations, root, ignore are for named datasets")
        own_dataset = dataset if isinstance(dataset, Dataset) else ArrayDataset(dataset)
    accuracy = AccuracyArguments(
        dataset=dataset if isinstance(dataset, str) else "photos",
        images=None if images is None else Path(images),
        annotations=None if annotations is None else Path(annotations),
        root=roots,
        ignore=ignore,
        limit=limit,
        protocol=None if protocols is None else _joined(protocols),
        reference=_joined(references),
        save_masks=save_masks,
        no_boundary=not boundary,
        noc=None if noc is None else ",".join(map(str, noc)),
        noc_ceiling=noc_ceiling,
    )
    return _measured(
        "evaluate",
        options,
        profile=None if profile is None else find_profile(profile),
        accuracy=accuracy,
        entries=_entries(models, timed=profile is not None),
        dataset=own_dataset,
    )


def time_model(
    models: str | Iterable[str], *, profile: str = "quick", **options: Unpack[RunOptions]
) -> Result:
    """Times every phase of models in fresh processes.

    Args:
        models: Names of registered models; an object of this process cannot be timed in another.
        profile: `quick`, `standard` or `full`.
        options: See `RunOptions`.

    Raises:
        UsageError: An argument is invalid.
        DataError: `out` holds another run.
    """
    entries = _entries(models, timed=True)
    return _measured("time_model", options, profile=find_profile(profile), entries=entries)


def count_parameters(models: Model | Iterable[Model], **options: Unpack[RunOptions]) -> Result:
    """Counts parameters, FLOPs and bytes of models by component; loads no weights.

    Args:
        models: One or several models.
        options: See `RunOptions`.

    Raises:
        UsageError: An unknown model.
        DataError: `out` holds another run.
    """
    return _measured("count_parameters", options, counting=True, entries=_entries(models))


def compare(
    a: Path | str | Result, b: Path | str | Result, *, threshold: float | None = None
) -> Comparison:
    """Compares two runs: what is better, worse, or without a clear change.

    Args:
        a: First run: its folder, its record file, or a result.
        b: Second run.
        threshold: Ratio above 1 from which times and memory count as different; None for 1.05.

    Raises:
        UsageError: The threshold is not above 1.
        DataError: A run cannot be read.
    """
    from benchmarks.regression import compare as runs

    limit = runs.THRESHOLD if threshold is None else threshold
    runs.check_threshold(limit, runs.THRESHOLD)

    def load(run: Path | str | Result) -> runs.Run:
        if not isinstance(run, Result):
            return runs.load_run(Path(run))
        return runs.Run(run.record, None if run.record.instances is None else run.instances)

    first, second = load(a), load(b)
    notes = runs.comparison_notes(first.record, second.record, limit)
    return Comparison(tuple(runs.compare_runs(first, second, limit)), notes)


def load_record(path: Path | str) -> Result:
    """Loads the result of a run from its folder or from its `record.json`.

    Raises:
        DataError: It cannot be read.
    """
    path = Path(path)
    return Result(load_run_record(path), path if path.is_dir() else path.parent)


def measure(
    config: RunConfig,
    *,
    quiet: bool = False,
    write_files: bool = False,
    plots: bool = True,
    report: bool = False,
) -> Result:
    """Runs a configuration; all functions above and all measuring commands call this.

    `quiet` prints warnings only; `write_files` writes tables, and with `plots` plots, next to the
    record. `report` writes `report.html`; if that fails, the record stays, and there is a warning.
    """
    reporter, problems = Reporter(quiet=quiet), []
    with executed(config, reporter) as record:
        files = write_tables_and_plots(record, config.out, plots=plots) if write_files else []
        if report:
            from benchmarks.report.page import write_report

            path = config.out / REPORT_NAME
            try:
                write_report([config.out], path)
                files.append(path)
            except BenchError as error:
                problems.append(f"no report was written: {error}; see mobilesam-bench report")
                reporter.warn(problems[-1])
    return Result(record, config.out, tuple(files), tuple(problems))


def write_tables_and_plots(record: RunRecord, folder: Path, *, plots: bool = True) -> list[Path]:
    """Writes tables and, unless they are unwanted, plots of a record; returns the files."""
    from benchmarks.report.plots import write_plots
    from benchmarks.tables.record_tables import write_tables

    return [*write_tables(record, folder), *(write_plots(record, folder) if plots else ())]


def _measured(function: str, options: RunOptions, **settings: Any) -> Result:
    """Runs in `out`, or in a temporary folder whose table of instances is kept in memory."""
    if unknown := set(options) - set(RunOptions.__annotations__):
        raise UsageError(f"unknown option {', '.join(sorted(unknown))} of benchmarks.{function}")
    given: dict[str, Any] = dict(options)
    out, quiet = given.pop("out", None), given.pop("quiet", False)
    weights = tuple(f"{name}={path}" for name, path in given.pop("weights", {}).items())
    models = ModelArguments(weights=weights, **given)

    def run(folder: Path) -> Result:
        output, text = OutputArguments(out=folder), f"benchmarks.{function}"
        config = make_config(function, models, output, command_text=text, **settings)
        return measure(config, quiet=quiet)

    if out is not None:
        return run(Path(out))
    with tempfile.TemporaryDirectory(prefix="mobilesam-bench-") as folder:
        result = run(Path(folder) / "run")
        if result.record.instances is not None:
            _ = result.instances
        result.folder = None
        return result


def _entries(models: Model | Iterable[Model], *, timed: bool = False) -> list[ModelEntry]:
    """Registry entries of models in their order; each object gets an entry of its own."""
    given = [models] if isinstance(models, (str, Segmenter)) or callable(models) else list(models)
    found: dict[str, ModelEntry] = {}
    for model in given:
        if isinstance(model, str):
            named = select([part.strip() for part in model.split(",")])
            found |= {entry.name: entry for entry in named}
            continue
        if timed:
            raise UsageError(
                "times are measured in fresh processes, which an object of this process cannot "
                "enter: register the model, and give its name"
            )
        entry = _own_entry(model)
        if entry.name in found:
            raise UsageError(f"two models are named {entry.name!r}; give them different names")
        found[entry.name] = entry
    if not found:
        raise UsageError("no model given")
    return list(found.values())


def _own_entry(model: Any) -> ModelEntry:
    from baselines.function import FunctionSegmenter

    if not isinstance(model, Segmenter) and not callable(model):
        raise UsageError(
            f"a model is a name, a Segmenter or a function predict(image, prompts) -> masks; "
            f"got {type(model).__name__}"
        )
    segmenter = model if isinstance(model, Segmenter) else FunctionSegmenter(model)
    # A new identifier for each call: results of another object must not be resumed.
    target = f"object:{uuid.uuid4()}"
    return ModelEntry(
        segmenter.info.name, target, "given as an object", factory=lambda _: segmenter
    )


def _joined(names: str | Iterable[str]) -> str:
    return names if isinstance(names, str) else ",".join(names)


def _flat(row: FrozenModel) -> dict[str, Any]:
    """Fields of a row, with intervals as two columns and nested values in short."""
    fields: dict[str, Any] = {}
    for name, value in row.model_dump(exclude={"samples_ms", "by_category"}).items():
        if name.startswith(("ci95", "range", "boundary_ci95", "again_ci95")):
            low, high = value if value is not None else (None, None)
            fields |= {f"{name}_low": low, f"{name}_high": high}
        elif isinstance(value, dict) and name.endswith("weights"):
            fields[name] = value["kind"]
        elif isinstance(value, dict):
            fields |= {f"{name}_{key}": part for key, part in value.items()}
        else:
            fields[name] = value
    return fields
