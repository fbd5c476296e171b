"""Verdicts on accuracy: official weights on the right images, or an account of what is missing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from fractions import Fraction

from benchmarks.paper.claims import Claim, agrees
from benchmarks.paper.measures import ApMeasure, ArMeasure, DataSet, MiouMeasure
from benchmarks.paper.verdicts import ClaimVerdict, Orientation, verdict_of
from benchmarks.prompts import protocols
from benchmarks.records.record import MiouRow, RunRecord, Status, WeightsRow
from benchmarks.tables.formatting import number
from benchmarks.tables.record_queries import model_row, weights_label

AccuracyMeasure = MiouMeasure | ArMeasure | ApMeasure


@dataclass(frozen=True, slots=True)
class _Found:
    """A row of the record that a claim could be judged by."""

    value: float | None
    dataset: str
    reference: str | None
    n_images: int
    n_instances: int | None
    weights: WeightsRow
    status: Status
    why: str | None
    same_kind: bool
    reference_weights: WeightsRow | None = None
    mask: str | None = None

    def covers(self, data: DataSet) -> bool:
        """Whether it was made on the claim's images, and all of them."""
        enough = self.n_instances is None or self.n_instances >= data.min_instances
        right = fnmatchcase(self.dataset, data.pattern)
        return right and self.n_images >= data.min_images and enough

    @property
    def made_with(self) -> str:
        """Dataset and weights, as printed."""
        size = f"{self.n_images} image{'s' * (self.n_images != 1)}"
        mask = "" if self.mask is None else f", {self.mask} mask"
        return f"{weights_label(self.weights)} weights on {self.dataset} ({size}{mask})"


def teacher_of(measure: AccuracyMeasure) -> str | None:
    """The model whose masks are the reference, if there is one."""
    return (
        protocols.reference_model(measure.reference) if isinstance(measure, MiouMeasure) else None
    )


def judge_accuracy(record: RunRecord, claim: Claim, measure: AccuracyMeasure) -> ClaimVerdict:
    """Compares a published accuracy with the one measured here."""
    rows = list(_rows(record, measure))
    wanted = measure.reference if isinstance(measure, MiouMeasure) else None
    here = [row for row in rows if row.reference == wanted and row.same_kind]
    teacher = teacher_of(measure)
    lacking = [
        name
        for name, official in (
            (measure.model, _is_official(record, measure.model, here)),
            (teacher, teacher is None or _is_official_teacher(record, teacher, here)),
        )
        if name is not None and not official
    ]
    if not lacking:
        for row in here:
            if row.value is not None and row.weights.official and row.covers(measure.data):
                return _compare(record, claim, measure, row)
    orientation = _orientation(claim, measure, rows)
    return _lacking(claim, measure, lacking, here, orientation)


def _is_official(record: RunRecord, model: str, rows: list[_Found]) -> bool:
    """Whether any of a model's own rows has official weights; without rows, what the run says."""
    if rows:
        return any(row.weights.official for row in rows)
    info = model_row(record, model)
    return info is not None and info.weights.official


def _is_official_teacher(record: RunRecord, teacher: str, rows: list[_Found]) -> bool:
    """A teacher need not be among the models; its weights then stand in the rows alone."""
    known = [row.reference_weights for row in rows if row.reference_weights is not None]
    if known:
        return any(weights.official for weights in known)
    return _is_official(record, teacher, [])


def _compare(
    record: RunRecord, claim: Claim, measure: AccuracyMeasure, row: _Found
) -> ClaimVerdict:
    value = _in_unit(claim, row.value or 0.0)
    agreed = agrees(claim, Fraction(value))
    why = (
        f"{number(value)} {claim.unit} with {row.made_with}, "
        f"{'within' if agreed else 'outside'} {claim.tolerance.label} ({claim.tolerance.reason})"
    )
    return verdict_of(
        claim,
        "reproduced" if agreed else "not reproduced",
        why,
        measured=value,
        measured_from=f"run {record.id}: {measure.model}, {_label(measure)}, {row.made_with}",
    )


def _lacking(
    claim: Claim,
    measure: AccuracyMeasure,
    lacking: list[str],
    here: list[_Found],
    orientation: Orientation | None,
) -> ClaimVerdict:
    """Weights come first: without them the right images would show nothing."""
    again = _command(measure)
    if lacking:
        parts = [f"official weights of {' and '.join(lacking)}"]
        if not any(row.covers(measure.data) for row in here):
            parts.append(measure.data.what)
        fetch = f"mobilesam-bench weights fetch {' '.join(lacking)}"
        settle = f"{fetch} && {again}"
    else:
        failed = next((row.why for row in here if row.covers(measure.data) and row.why), None)
        parts = [failed or f"{measure.data.what}, {_label(measure)}"]
        if isinstance(measure, ArMeasure) and measure.mode is not None:
            parts.append("which this suite does not measure yet")
        settle = again
    why = f"lacks {'; '.join(parts)}"
    if orientation is not None:
        figure = f"{number(orientation.value)} {claim.unit}"
        versus = f" against {orientation.reference}" if orientation.reference else ""
        why += f"; no evidence, for orientation: {figure}{versus} with {orientation.made_with}"
        if orientation.reference == f"{protocols.TEACHER_PREFIX}{measure.model}":
            why += ", which agrees with itself by definition"
    return verdict_of(
        claim,
        "needs weights" if lacking else "needs data",
        why,
        settle=settle,
        orientation=orientation,
    )


def _orientation(claim: Claim, measure: AccuracyMeasure, rows: list[_Found]) -> Orientation | None:
    """The nearest figure of trained weights; agreement with a teacher never stands for accuracy."""
    wanted = measure.reference if isinstance(measure, MiouMeasure) else None
    kind = (wanted or "").partition(":")[0]
    usable = [
        row
        for row in rows
        if row.value is not None
        and row.weights.kind != "random"
        and (row.reference or "").partition(":")[0] == kind
    ]
    if not usable:
        return None
    best = max(
        usable,
        key=lambda row: (
            row.same_kind,
            row.reference == wanted,
            fnmatchcase(row.dataset, measure.data.pattern),
            row.weights.official,
            row.n_images,
        ),
    )
    mode = "" if best.same_kind else ", under another setting than the claim's"
    return Orientation(
        value=_in_unit(claim, best.value or 0.0),
        reference=best.reference,
        made_with=best.made_with + mode,
    )


def _in_unit(claim: Claim, fraction: float) -> float:
    return 100 * fraction if claim.unit.endswith("%") else fraction


def _rows(record: RunRecord, measure: AccuracyMeasure) -> Iterator[_Found]:
    """Rows of the claim's model and protocol, whatever their dataset, reference and weights."""
    if isinstance(measure, MiouMeasure):
        for row in record.miou:
            if (row.model, row.protocol) == (measure.model, measure.protocol):
                yield _found(row, _column(row, measure.column))
    elif isinstance(measure, ArMeasure):
        for each in record.everything:
            if each.model == measure.model:
                value = getattr(each, measure.column)
                yield _Found(
                    value, each.dataset, None, each.n_images, each.n_objects, each.weights,
                    each.status, each.why, measure.mode is None,
                )  # fmt: skip
    else:
        # The single mask first: where a paper does not state it, that is what is judged.
        for found in sorted(record.detector, key=lambda each: each.mask != "single"):
            if found.model == measure.model:
                boxes = fnmatchcase(found.detections.lower(), measure.detections)
                same = boxes and measure.mask in (None, found.mask)
                # The images count, not the annotations: a detector's boxes take their place.
                yield _Found(
                    found.ap, found.dataset, None, found.n_images, None, found.weights,
                    found.status, found.why, same, mask=found.mask,
                )  # fmt: skip


def _found(row: MiouRow, value: float | None) -> _Found:
    return _Found(
        value if row.status == "ok" else None,
        row.dataset,
        row.reference,
        row.n_images,
        row.n_instances,
        row.weights,
        row.status,
        row.why,
        same_kind=True,
        reference_weights=row.reference_weights,
    )


def _column(row: MiouRow, column: str) -> float | None:
    owner = row.by_size if column in ("small", "medium", "large") else row
    value: float | None = getattr(owner, column)
    return value


def _label(measure: AccuracyMeasure) -> str:
    if isinstance(measure, MiouMeasure):
        return f"{measure.protocol} against {measure.reference}"
    if isinstance(measure, ArMeasure):
        return f"everything, {measure.mode or 'the default grid'}"
    return f"{protocols.DETECTOR_BOX}, detections {measure.detections}"


def _command(measure: AccuracyMeasure) -> str:
    if isinstance(measure, MiouMeasure):
        return f"mobilesam-bench paper {measure.data.arguments}"
    if isinstance(measure, ArMeasure):
        return f"mobilesam-bench everything --models {measure.model} {measure.data.arguments}"
    multi = measure.mask == "multi"
    protocol = protocols.DETECTOR_BOX_MULTI if multi else protocols.DETECTOR_BOX
    return (
        f"mobilesam-bench miou --protocol {protocol} --detections VITDET_BOXES.json "
        f"--models {measure.model} {measure.data.arguments}"
    )
