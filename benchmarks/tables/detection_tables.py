"""Tables of the two protocols that COCO's evaluation judges: a detector's boxes, and everything."""

from __future__ import annotations

from benchmarks.records.record import (
    BySize,
    DetectorRow,
    EverythingRow,
    RunRecord,
    Status,
    WeightsRow,
)
from benchmarks.tables.cells import WEIGHTS_COLUMN, Reasons, percent_cell, text_cell, weights_cell
from benchmarks.tables.formatting import number
from benchmarks.tables.record_queries import unique
from benchmarks.tables.table import Cell, Column, Table
from benchmarks.tables.times import median_cell, median_column

_MODEL = Column("Model", ("model",))
_STATUS = Column("Status", ("status", "why"))
_CLASSES = "Small <= 32^2 <= medium <= 96^2 <= large, annotation area in pixels, as pycocotools."


def detector_table(record: RunRecord) -> Table:
    """COCO AP of the masks that models give for a detector's boxes, one row a model and file."""
    columns = (
        _MODEL,
        WEIGHTS_COLUMN,
        Column("Dataset", ("dataset",)),
        Column("Boxes from", ("detections", "detections_sha256")),
        Column("Mask", ("mask",)),
        Column("AP", ("ap",), "%", "right"),
        Column("AP50", ("ap50",), "%", "right"),
        Column("AP75", ("ap75",), "%", "right"),
        Column("AP small", ("ap_small",), "%", "right"),
        Column("AP medium", ("ap_medium",), "%", "right"),
        Column("AP large", ("ap_large",), "%", "right"),
        Column("Images", ("n_images",), align="right"),
        Column("Boxes", ("n_detections",), align="right"),
        Column("Time", ("seconds",), "s", "right"),
        _STATUS,
    )
    reasons = Reasons()
    rows = tuple(_detector_cells(row, reasons) for row in record.detector)
    title = "Average precision of masks for a detector's boxes"
    notes = (*_detector_notes(record), *reasons.notes())
    return Table("detector-box", title, columns, rows, notes)


def _detector_notes(record: RunRecord) -> tuple[str, ...]:
    if not record.detector:
        return ()
    files = unique((row.detections, row.detections_sha256) for row in record.detector)
    notes = [
        "Protocol detector-box: COCO AP of masks by pycocotools (IoU 0.50 to 0.95, at most 100 "
        "boxes of a category of an image). A mask's score is the detector's score of its box.",
        "Mask: single, the model's single-mask output; multi, of three the highest score.",
        _CLASSES,
        "Boxes (sha256): " + ", ".join(f"{name} {sha256[:16]}" for name, sha256 in files) + ".",
    ]
    notes += [
        f"{row.model}, {row.detections}: {row.why}."
        for row in record.detector
        if row.status == "ok" and row.why
    ]
    return unique(notes)


def _detector_cells(row: DetectorRow, reasons: Reasons) -> tuple[Cell, ...]:
    status, why = _checked(row.status, row.why, row.weights)
    if row.weights.kind == "random":
        nothing = {"ap": None, "ap50": None, "ap75": None, "ap_by_size": BySize()}
        row = row.model_copy(update=nothing)
    sizes = row.ap_by_size
    return (
        text_cell(row.model),
        weights_cell(row.weights),
        text_cell(row.dataset),
        Cell(text_cell(row.detections).text, (row.detections, row.detections_sha256)),
        text_cell(row.mask),
        *map(percent_cell, (row.ap, row.ap50, row.ap75, sizes.small, sizes.medium, sizes.large)),
        Cell(str(row.n_images), (row.n_images,)),
        Cell(str(row.n_detections), (row.n_detections,)),
        Cell("" if row.seconds is None else number(row.seconds), (row.seconds,)),
        reasons.status_cell(status, why),
    )


def everything_table(record: RunRecord) -> Table:
    """Average recall and time of segment everything, one row a model and dataset."""
    columns = (
        _MODEL,
        WEIGHTS_COLUMN,
        Column("Dataset", ("dataset",)),
        Column("AR@10", ("ar10",), "%", "right"),
        Column("AR@100", ("ar100",), "%", "right"),
        Column("AR@1000", ("ar1000",), "%", "right"),
        Column("AR@1000 small", ("ar1000_small",), "%", "right"),
        Column("AR@1000 medium", ("ar1000_medium",), "%", "right"),
        Column("AR@1000 large", ("ar1000_large",), "%", "right"),
        Column("Masks an image", ("masks_per_image",), align="right"),
        median_column(record.everything),
        Column("Images", ("n_images",), align="right"),
        Column("Objects", ("n_objects",), align="right"),
        _STATUS,
    )
    reasons = Reasons()
    rows = tuple(_everything_cells(row, reasons) for row in record.everything)
    notes = (*_everything_notes(record), *reasons.notes())
    return Table("everything", "Segment everything: recall and time", columns, rows, notes)


def _everything_notes(record: RunRecord) -> tuple[str, ...]:
    if not record.everything:
        return ()
    where = [str(record.config[key]) for key in ("device", "precision") if key in record.config]
    threads = record.environment.threads
    where.append(f"{threads} thread{'s' * (threads != 1)}")
    notes = [
        "Protocol everything: COCO average recall of masks by pycocotools, whatever the category "
        "(IoU 0.50 to 0.95), at 10, 100 and 1000 masks an image, ranked by the model's score. "
        "Crowd regions are left out.",
        _CLASSES,
        f"Time: one call an image, median over images in one process; {', '.join(where)}.",
    ]
    notes += [
        f"{row.model} on {row.dataset}: {row.why}."
        for row in record.everything
        if row.status == "ok" and row.why is not None
    ]
    if any(row.range_ms is not None for row in record.everything):
        notes.append("Range of times: the quickest and the slowest image.")
    if any(row.dataset.startswith("sa1b") for row in record.everything):
        notes.append("SA-1B's masks were made by a SAM: they favour SAM.")
    return tuple(notes)


def _everything_cells(row: EverythingRow, reasons: Reasons) -> tuple[Cell, ...]:
    status, why = _checked(row.status, row.why, row.weights)
    if row.weights.kind == "random":
        row = EverythingRow(model=row.model, dataset=row.dataset, weights=row.weights)
    sizes = row.ar1000_by_size
    masks = row.masks_per_image
    return (
        text_cell(row.model),
        weights_cell(row.weights),
        text_cell(row.dataset),
        *map(
            percent_cell,
            (row.ar10, row.ar100, row.ar1000, sizes.small, sizes.medium, sizes.large),
        ),
        Cell("" if masks is None else number(masks), (masks,)),
        median_cell(row),
        Cell(str(row.n_images), (row.n_images,)),
        Cell(str(row.n_objects), (row.n_objects,)),
        reasons.status_cell(status, why),
    )


def _checked(status: Status, why: str | None, weights: WeightsRow) -> tuple[Status, str | None]:
    """Status of a row; random weights have no accuracy, whatever the row says."""
    if weights.kind != "random":
        return status, why
    return "skipped" if status == "ok" else status, why or "random weights have no accuracy"
