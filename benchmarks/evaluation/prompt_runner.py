"""Puts the questions of the protocols to a model: the encoder once an image, prompts in batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from baselines import boundary
from baselines.interface import (
    BoolArray,
    Embedding,
    Float32Array,
    Int64Array,
    Masks,
    Prompts,
    Segmenter,
)
from benchmarks.datasets.dataset import Sample
from benchmarks.evaluation.embedding_cache import EmbeddingCache
from benchmarks.evaluation.run_model import PROMPT_BATCH
from benchmarks.evaluation.stopwatch import Stopwatch
from benchmarks.prompts.clicks import next_click
from benchmarks.prompts.manifests import PassPrompts
from benchmarks.prompts.protocols import AccuracyProtocol, Query
from benchmarks.prompts.samplers import PromptSampler, prompt_sampler, to_prompts

Made = Mapping[str, Sequence[Float32Array | None]]
"""The prompts of one image: by prompt rule, one (D,) for each instance or None."""


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """What a model answers to one question about one instance.

    Attributes:
        question: What was asked.
        index: Of the instance among those of its sample.
        masks: (C, H, W) bool at the image's own size.
        scores: (C,) float32, the model's own.
    """

    question: Query
    index: int
    masks: BoolArray
    scores: Float32Array


class Asker:
    """Runs one model on the prompts of several protocols.

    Args:
        model: The model.
        protocols: Protocols that the model supports, at least one.
        prompts: The prompts, the same for all models.
        clock: Stopwatch for the time spent in the model.
        cache: Cache of image embeddings.
    """

    def __init__(
        self,
        model: Segmenter,
        protocols: Sequence[AccuracyProtocol],
        prompts: PassPrompts,
        clock: Stopwatch,
        cache: EmbeddingCache,
    ) -> None:
        self._model = model
        self._prompts = prompts
        self._clock = clock
        self._cache = cache
        self._questions: dict[str, list[Query]] = {}
        for protocol in protocols:
            self._questions.setdefault(protocol.prompt, []).append(protocol.query)

    def prompts(self, sample: Sample, masks: Sequence[BoolArray]) -> Made:
        """Makes or looks up all prompts of one image; several threads may do so at once.

        Args:
            sample: The image.
            masks: Reference mask of each of its instances, from which prompts are made.

        Returns:
            By prompt rule, one for each instance in order; None where there is none.
        """
        pairs = list(zip(sample.instances, masks, strict=True))
        return {
            name: [
                self._prompts.prompt(prompt_sampler(name), sample, instance, mask)
                for instance, mask in pairs
            ]
            for name in self._questions
        }

    def answers(
        self, sample: Sample, masks: Sequence[BoolArray], prompts: Made
    ) -> Iterator[Answer]:
        """Yields all results of the model for one image.

        Args:
            sample: The image.
            masks: Reference mask of each of its instances; clicks are placed on its errors.
            prompts: Prompts made by `prompts`.

        Raises:
            BenchError: The model fails on the image, or its result violates the interface.
        """
        embedding: Embedding | None = None
        for name, questions in self._questions.items():
            rule = prompt_sampler(name)
            found = [
                (index, value) for index, value in enumerate(prompts[name]) if value is not None
            ]
            for start in range(0, len(found), PROMPT_BATCH):
                if embedding is None:
                    embedding = self._encode(sample)
                part = found[start : start + PROMPT_BATCH]
                yield from self._batch(embedding, rule, questions, part, masks)

    def _encode(self, sample: Sample) -> Embedding:
        with self._clock("data"):
            found = self._cache.get(self._model, sample.image)
        if found is not None:
            self._clock.cached_embeddings += 1
            return found
        with self._clock("model"):
            embedding = boundary.encode(self._model, sample.image)
        with self._clock("writing"):
            self._cache.put(self._model, sample.image, embedding)
        return embedding

    def _batch(
        self,
        embedding: Embedding,
        rule: PromptSampler,
        questions: Sequence[Query],
        part: Sequence[tuple[int, Float32Array]],
        masks: Sequence[BoolArray],
    ) -> Iterator[Answer]:
        prompts = to_prompts(rule, np.stack([value for _, value in part]))
        rows = [index for index, _ in part]
        wants = {question.multimask for question in questions}
        with self._clock("model"):
            found = self._decode(embedding, prompts, _size_hw(masks), wants)
        for multimask, answer in found.items():
            question = Query(rule.name, multimask=multimask)
            for row, index in enumerate(rows):
                yield Answer(question, index, answer.masks[row], answer.scores[row])
        budget = max(question.clicks for question in questions)
        if budget > 1:
            yield from self._click(embedding, rule, prompts, found[False], rows, masks, budget)

    def _decode(
        self, embedding: Embedding, prompts: Prompts, size_hw: tuple[int, int], wants: set[bool]
    ) -> dict[bool, Masks]:
        model = self._model
        if len(wants) == 2:
            single, multi = boundary.decode_pair(model, embedding, prompts, size_hw)
            return {False: single, True: multi}
        (multimask,) = wants
        found = boundary.decode(model, embedding, prompts, size_hw, multimask=multimask)
        return {multimask: found}

    def _click(
        self,
        embedding: Embedding,
        rule: PromptSampler,
        prompts: Prompts,
        first: Masks,
        rows: Sequence[int],
        masks: Sequence[BoolArray],
        budget: int,
    ) -> Iterator[Answer]:
        """Clicks on the largest error of each answer, K - 1 times; one without errors stays."""
        assert prompts.points is not None  # noqa: S101 - clicks start from a point
        assert prompts.labels is not None  # noqa: S101 - guaranteed by Prompts
        dialogues = [
            _Dialogue(prompts.points[row], prompts.labels[row], _row(first, row), masks[index])
            for row, index in enumerate(rows)
        ]
        for clicks in range(2, budget + 1):
            with self._clock("prompts"):
                going = [each for each in dialogues if each.click()]
            if going:
                with self._clock("model"):
                    prompts = self._next_prompts(going)
                    found = boundary.decode(self._model, embedding, prompts, _size_hw(masks))
                for row, each in enumerate(going):
                    each.answer = _row(found, row)
            question = Query(rule.name, clicks=clicks)
            for each, index in zip(dialogues, rows, strict=True):
                yield Answer(question, index, each.answer.masks[0], each.answer.scores[0])

    def _next_prompts(self, going: Sequence[_Dialogue]) -> Prompts:
        logits = [each.answer.low_res_logits for each in going]
        known = [part for part in logits if part is not None]
        feed_back = "masks" in self._model.info.supports and len(known) == len(going)
        return Prompts(
            points=np.stack([each.points for each in going]),
            labels=np.stack([each.labels for each in going]),
            mask_inputs=np.concatenate(known) if feed_back else None,
        )


@dataclass(slots=True, eq=False)
class _Dialogue:
    """Clicks given for one instance so far, each on a different pixel, and the latest mask."""

    points: Float32Array
    labels: Int64Array
    answer: Masks
    reference: BoolArray

    def click(self) -> bool:
        """Adds the next click; returns False if all wrong pixels have been clicked."""
        found = next_click(self.answer.masks[0, 0], self.reference, self.points)
        if found is None:
            return False
        x, y, label = found
        self.points = np.concatenate([self.points, np.array([[x, y]], np.float32)])
        self.labels = np.append(self.labels, label)
        return True


def _size_hw(masks: Sequence[BoolArray]) -> tuple[int, int]:
    """Height and width of an image, taken from the reference masks of its objects."""
    height, width = masks[0].shape
    return int(height), int(width)


def _row(masks: Masks, row: int) -> Masks:
    """The answer to one of N prompts, still with a leading dimension of 1."""
    logits = masks.low_res_logits
    return Masks(
        masks.masks[row : row + 1],
        masks.scores[row : row + 1],
        None if logits is None else logits[row : row + 1],
    )
