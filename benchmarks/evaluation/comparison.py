"""Paired comparisons of models on the same prompts, and groups of models that tie."""

from __future__ import annotations

import string
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from baselines.interface import BoolArray
from benchmarks.evaluation.summaries import ImageSums
from benchmarks.prompts.protocols import TEACHER_PREFIX
from benchmarks.records.record import ComparisonRow, DetectorRow, EverythingRow
from benchmarks.records.statistics import CONFIDENCE, Float64Array, clustered_mean_of_sums
from mobilesam.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

LEVEL = round(1 - CONFIDENCE, 6)
"""Two models differ if the corrected p-value is at most this."""
NO_DIFFERENCE = 0.0005
"""Two models count as one if the interval of their difference is within this, printed as 0.0."""

_PROMPT = ["image_id", "annotation_id"]
_TASK = ["reference", "protocol"]
NEEDED = (*_PROMPT, "model", *_TASK, "iou")
"""Columns of the instance table that comparisons use."""

_Pair = tuple[str, str, str, frozenset[str]]
PromptCounts = dict[tuple[str, str], Counter[str | None]]
"""By reference and protocol: number of prompts answered by each model, and by any (None)."""


def compare_models(rows: pd.DataFrame, dataset: str, seed: int = 0) -> tuple[ComparisonRow, ...]:
    """Compares every pair of models under every protocol and reference, prompt by prompt.

    A pair is compared on the prompts that both answered (`unshared_prompts` lists models that left
    some unanswered); if there is none, the pair has no row. Interval and p-value are those of
    `statistics.clustered_mean` of the differences, so they agree with each other; for the p-values
    see `corrected`.

    Measured by simulation (2,000 trials each; two equally good models, image effects, 30 or 100
    images with 1 to 60 instances; also where one model is better in crowded images and the other
    in sparse ones): a false positive at level 0.05 in 0.038 to 0.058 of trials. Sign flips of the
    sums over images (a permutation test) give 0.042 to 0.066 there; but where the models differ by
    rare failures, so that the differences are skewed, flips give 0.07 to 0.13 and this test 0.05
    to 0.09. A paired t-test over instances gives 0.34 to 0.52.

    Result rows have models, protocols and references in their order of first appearance in the
    instance table; A is the model that appears first.
    """
    missing = [name for name in NEEDED if name not in rows.columns]
    if missing:
        raise DataError(
            f"the table of instances has no column {', '.join(missing)}; "
            "make it again with mobilesam-bench miou"
        )

    def first(where: BoolArray) -> str:
        index = int(np.argmax(where))
        row = rows.iloc[index]
        return (
            f"row {index} (image {row['image_id']}, annotation {row['annotation_id']}, "
            f"{row['model']}, {row['protocol']} vs {row['reference']})"
        )

    wrong = ~np.isfinite(rows["iou"].to_numpy(np.float64))
    if wrong.any():
        raise DataError(f"no IoU in {first(wrong)}; score the predictions again")
    twice = rows.duplicated([*_PROMPT, "model", *_TASK]).to_numpy()
    if twice.any():
        raise DataError(f"{first(twice)} occurs twice; drop one of the two rows")
    return compare_tables([rows], dataset, seed)[0]


def compare_tables(
    tables: Iterable[pd.DataFrame], dataset: str, seed: int = 0, *, without: Collection[str] = ()
) -> tuple[tuple[ComparisonRow, ...], PromptCounts]:
    """Compares models as `compare_models` does, one table in memory at once.

    All rows of an image are in one table. Models in `without` are left out, also as references.
    Returns also the number of prompts that each model answered.
    """
    dropped = [*without, *(f"{TEACHER_PREFIX}{name}" for name in without)]
    pairs: dict[tuple[str, str, str, str], ImageSums] = {}
    counts: PromptCounts = {}
    for table in tables:
        frame = table
        if dropped:
            frame = frame[~(frame["model"].isin(dropped) | frame["reference"].isin(dropped))]
        for task, n_prompts in count_prompts(frame).items():
            counts.setdefault(task, Counter()).update(n_prompts)
        for (reference, protocol), rows in frame.groupby(_TASK, sort=False):
            by_model = rows.pivot(index=_PROMPT, columns="model", values="iou")
            images = by_model.index.get_level_values("image_id").to_numpy()
            for a, b in combinations(rows["model"].unique(), 2):
                differences = (by_model[a] - by_model[b]).to_numpy(np.float64)
                both = np.isfinite(differences)  # prompts that both models answered
                if both.any():
                    key = str(reference), str(protocol), str(a), str(b)
                    sums = pairs.setdefault(key, ImageSums(1))
                    sums.add(images[both], differences[both])
    found = []
    for (reference, protocol, a, b), sums in pairs.items():
        n_instances, (totals,) = sums.finish()
        result = clustered_mean_of_sums(n_instances, totals, sums.limits(0), seed)
        row = ComparisonRow(
            dataset=dataset,
            protocol=protocol,
            reference=reference,
            model_a=a,
            model_b=b,
            n_images=result.n_clusters,
            n_instances=int(n_instances.sum()),
            difference=result.mean,
            ci95=result.ci95,
            p_value=result.p_value,
            p_adjusted=result.p_value,
        )
        found.append(row)
    return corrected(found), counts


def corrected(
    rows: Iterable[ComparisonRow], known: Iterable[ComparisonRow] = ()
) -> tuple[ComparisonRow, ...]:
    """The known rows and the others, whose p-values are corrected by `holm`.

    It corrects for all pairs of the same dataset and reference. Models whose difference is within
    `NO_DIFFERENCE` count as one: the p-value of such a pair is 1, and pairs that are equal but for
    them share the p-value of the first. Rows of a model that is the reference are left out.
    """
    known = tuple(known)
    others = (
        row
        for row in rows
        if row.reference.removeprefix(TEACHER_PREFIX) not in (row.model_a, row.model_b)
    )
    found = (*known, *others)
    same: dict[tuple[str, str, str, str], str] = {}

    def pair(row: ComparisonRow) -> _Pair:
        """Dataset, reference, protocol, and what both models count as."""
        task, models = (row.dataset, row.reference, row.protocol), {row.model_a, row.model_b}
        while earlier := {each for each in models if (*task, each) in same}:
            models = models - earlier | {same[*task, each] for each in earlier}
        return *task, frozenset(models)

    for row in found:
        *_, models = pair(row)
        if len(models) == 2 and max(map(abs, row.ci95 or (row.difference,))) <= NO_DIFFERENCE:
            one, other = sorted(models)
            same[row.dataset, row.reference, row.protocol, other] = one
    keys = [pair(row) for row in found]
    p_values: dict[_Pair, float] = {}
    for key, row in zip(keys, known, strict=False):
        p_values.setdefault(key, row.p_adjusted)
    families: dict[tuple[str, str], dict[_Pair, float]] = {}
    for key, row in zip(keys, found, strict=True):
        if len(key[-1]) == 2 and key not in p_values:
            families.setdefault(key[:2], {}).setdefault(key, row.p_value)
    for family in families.values():
        p_values |= zip(family, holm([*family.values()]), strict=True)
    return tuple(
        row.model_copy(update={"p_adjusted": p_values.get(key, 1.0)})
        for key, row in zip(keys, found, strict=True)
    )


def count_prompts(rows: pd.DataFrame) -> PromptCounts:
    """Counts the prompts of an instance table; counts of tables of different images add up."""
    counts: PromptCounts = {}
    for (reference, protocol), part in rows.groupby(_TASK, sort=False):
        counter: Counter[str | None] = Counter(map(str, part["model"]))
        counter[None] = len(part.drop_duplicates(_PROMPT))
        counts[str(reference), str(protocol)] = counter
    return counts


def unshared_prompt_lines(counts: PromptCounts) -> tuple[str, ...]:
    """One line for each model that left prompts unanswered which another one answered."""
    return tuple(
        f"{model} answered {n:,} of {models[None]:,} prompts of {protocol} vs {reference}: "
        "its comparisons are on the prompts that both models answered"
        for (reference, protocol), models in counts.items()
        for model, n in models.items()
        if model is not None and n < models[None]
    )


def unshared_prompts(rows: pd.DataFrame) -> tuple[str, ...]:
    """The lines of `unshared_prompt_lines` for an instance table."""
    return unshared_prompt_lines(count_prompts(rows))


def unshared_images(rows: Sequence[DetectorRow | EverythingRow], what: str) -> tuple[str, ...]:
    """One line for each model that was evaluated on fewer images than another one."""
    most = max((row.n_images for row in rows if row.status == "ok"), default=0)
    return tuple(
        f"{row.model} answered {row.n_images:,} of {most:,} images of {what}: its figures are on "
        "fewer images than those of the others"
        for row in rows
        if row.status == "ok" and row.n_images < most
    )


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Corrects p-values for multiple tests; returns them in the same order.

    The smallest of n is multiplied by n, the next by n - 1 and so on; corrected values are
    monotonic and at most 1 (Holm, Scandinavian Journal of Statistics 6, 1979).
    """
    values: Float64Array = np.asarray(p_values, np.float64)
    order = np.argsort(values, kind="stable")
    scaled = values[order] * np.arange(len(values), 0, -1)
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1)
    return tuple(adjusted.tolist())


def tie_groups(scores: Mapping[str, float], comparisons: Iterable[ComparisonRow]) -> dict[str, str]:
    """Letters for a leaderboard: two models share one if and only if they do not differ.

    A model may have several letters: B may tie with A and with C though A and C differ. Groups are
    made by splitting at every pair that differs, and dropping subsets of other groups (Piepho,
    Journal of Computational and Graphical Statistics 13, 2004). Every pair of the scored models
    must be among the comparisons, which are of one protocol and reference. The model with the best
    score comes first.
    """
    ranked = sorted(scores, key=lambda model: -scores[model])
    known = {frozenset((row.model_a, row.model_b)): row.p_adjusted <= LEVEL for row in comparisons}
    groups = [frozenset(ranked)] if ranked else []
    for a, b in combinations(ranked, 2):
        pair = frozenset((a, b))
        if pair not in known:
            raise DataError(f"{a} and {b} were not compared; compare all models of one run")
        if known[pair]:
            parts = [
                part
                for group in groups
                for part in ([group - {a}, group - {b}] if pair <= group else [group])
            ]
            groups = [part for part in set(parts) if not any(part < other for other in parts)]
    order = sorted(groups, key=lambda group: sorted(map(ranked.index, group)))
    letters = [*string.ascii_letters, *(f"({n})" for n in range(52, len(order)))]
    return {
        model: "".join(letters[i] for i, group in enumerate(order) if model in group)
        for model in ranked
    }
