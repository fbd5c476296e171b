"""Runs the prompts of the protocols on a model: one encoder call per image, prompts in batches."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from baselines import boundary
from baselines.boundary import adapter_call
from baselines.interface import (
    BoolArray,
    Embedding,
    Float32Array,
    Int64Array,
    Masks,
    Prompts,
    Segmenter,
    StorableEmbedding,
    UInt8Array,
)
from benchmarks.datasets.dataset import Instance, Sample
from benchmarks.datasets.masks import decode_mask
from benchmarks.evaluation.run_model import PROMPT_BATCH, Stopwatch
from benchmarks.prompts.manifests import PassPrompts
from benchmarks.prompts.protocols import AccuracyProtocol, Query, Selection, select_candidate
from benchmarks.prompts.samplers import PromptSampler, next_click, prompt_sampler, to_prompts
from benchmarks.records.environment import code_version, library_versions
from benchmarks.records.record import write_atomic
from mobilesam.errors import BenchError, DataError

ImagePrompts = Mapping[str, Sequence[Float32Array | None]]
"""Prompts of one image: by sampler, a (D,) array for each instance, or None if it has none."""


class EmbeddingCache:
    """A folder of image embeddings by image, model and weights, shared between runs.

    None caches nothing. The last digits of an embedding depend on precision and device. `code` is
    the SHA-256 of the file of a model, if it comes from one.
    """

    def __init__(
        self,
        folder: Path | None,
        precision: str = "fp32",
        device: str = "cpu",
        code: str | None = None,
    ) -> None:
        self._folder = folder
        self._setup: dict[str, object] = {"precision": precision, "device": device}
        if code is not None:
            self._setup["file"] = code
        if folder is not None:
            self._setup["code"] = code_version(("mobilesam", "baselines"))
            self._setup["libraries"] = library_versions()

    def get(self, model: Segmenter, image: UInt8Array) -> Embedding | None:
        """Returns the embedding of an image by a model; None if it is missing or damaged."""
        path = self._path(model, image)
        if path is None or not path.is_file() or not isinstance(model, StorableEmbedding):
            return None
        try:
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            with adapter_call("embedding_from"):
                return model.embedding_from(arrays, (image.shape[0], image.shape[1]))
        except (OSError, ValueError, EOFError, zipfile.BadZipFile, BenchError):
            return None  # it is computed again, and replaces the damaged one

    def put(self, model: Segmenter, image: UInt8Array, embedding: Embedding) -> None:
        """Stores an embedding, if the model allows it and the folder can be written."""
        path = self._path(model, image)
        if path is None or not isinstance(model, StorableEmbedding):
            return
        buffer = io.BytesIO()
        arrays = boundary.embedding_arrays(model, model.info.name, embedding)
        np.savez(buffer, allow_pickle=False, **arrays)
        try:
            write_atomic(path, buffer.getvalue())
        except DataError:
            # The run does not need it. After one failure (a full disk) no other is tried.
            self._folder = None

    def _path(self, model: Segmenter, image: UInt8Array) -> Path | None:
        weights = model.info.weights
        if self._folder is None or weights.sha256 is None:
            return None
        parts = {
            "model": model.info.name,
            "weights": weights.sha256,
            "input_size_px": model.info.input_size_px,
            "image": hashlib.sha256(np.ascontiguousarray(image).data).hexdigest(),
            "shape": image.shape,
            **self._setup,
        }
        key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
        return self._folder / key[:2] / f"{key}.npz"


@dataclass(frozen=True, slots=True, eq=False)
class QueryMasks:
    """Masks of one query for an instance of a sample by position, (C, H, W) bool, (C,) scores."""

    query: Query
    index: int
    masks: BoolArray
    scores: Float32Array

    @property
    def n_bytes(self) -> int:
        """Size in memory."""
        return self.masks.nbytes


class PromptRunner:
    """Runs one model on the prompts of several protocols."""

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
        self._queries: dict[str, list[Query]] = {}
        for protocol in protocols:
            self._queries.setdefault(protocol.prompt, []).append(protocol.query)

    def prompts(self, sample: Sample, masks: Sequence[BoolArray]) -> ImagePrompts:
        """Makes or looks up all prompts of one image; several threads may call it."""
        pairs = list(zip(sample.instances, masks, strict=True))
        return {
            name: [
                self._prompts.prompt(prompt_sampler(name), sample, instance, mask)
                for instance, mask in pairs
            ]
            for name in self._queries
        }

    def predict(
        self, sample: Sample, masks: Sequence[BoolArray], prompts: ImagePrompts
    ) -> Iterator[QueryMasks]:
        """Yields all masks of the model for an image; clicks are on errors against the `masks`."""
        embedding: Embedding | None = None
        for name, queries in self._queries.items():
            sampler = prompt_sampler(name)
            found = [(index, each) for index, each in enumerate(prompts[name]) if each is not None]
            for start in range(0, len(found), PROMPT_BATCH):
                if embedding is None:
                    embedding = self._encode(sample)
                part = found[start : start + PROMPT_BATCH]
                yield from self._batch(embedding, sampler, queries, part, masks, sample.instances)

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
        sampler: PromptSampler,
        queries: Sequence[Query],
        part: Sequence[tuple[int, Float32Array]],
        masks: Sequence[BoolArray],
        instances: Sequence[Instance],
    ) -> Iterator[QueryMasks]:
        """Masks of some prompts of a sampler; `masks` are all reference masks of the image."""
        model = self._model
        height, width = masks[0].shape
        size_hw = int(height), int(width)
        frame = boundary.mask_frame(model, size_hw) if sampler.prompt == "masks" else None
        prompts = to_prompts(sampler, np.stack([value for _, value in part]), frame)
        indices = [index for index, _ in part]
        outputs = {query.multimask for query in queries}
        found: dict[bool, Masks] = {}
        with self._clock("model"):
            if len(outputs) == 2:  # in one call where the model allows it
                pair = boundary.decode_pair(model, embedding, prompts, size_hw)
                found = dict(zip((False, True), pair, strict=True))
            else:
                (multimask,) = outputs
                found[multimask] = boundary.decode(
                    model, embedding, prompts, size_hw, multimask=multimask
                )
        asked = [instances[index] for index in indices]
        found = {key: _without_ignored(predicted, asked) for key, predicted in found.items()}
        for multimask, predicted in found.items():
            query = Query(sampler.name, multimask=multimask)
            for row, index in enumerate(indices):
                yield QueryMasks(query, index, predicted.masks[row], predicted.scores[row])
            budget = max(each.clicks for each in queries if each.multimask == multimask)
            if budget > 1:
                assert prompts.points is not None  # noqa: S101 - clicks start from a point
                assert prompts.labels is not None  # noqa: S101 - guaranteed by Prompts
                selection: Selection = "score" if multimask else "only"
                starts = zip(prompts.points, prompts.labels, indices, strict=True)
                sessions = [
                    _ClickSession(
                        points, labels, masks[index], selection, predicted, row, instances[index]
                    )
                    for row, (points, labels, index) in enumerate(starts)
                ]
                for clicks in range(2, budget + 1):
                    self._click(embedding, sessions, size_hw, multimask=multimask)
                    query = Query(sampler.name, clicks, multimask)
                    for session, index in zip(sessions, indices, strict=True):
                        latest, row = session.predicted, session.row
                        yield QueryMasks(query, index, latest.masks[row], latest.scores[row])

    def _click(
        self,
        embedding: Embedding,
        sessions: Sequence[_ClickSession],
        size_hw: tuple[int, int],
        *,
        multimask: bool,
    ) -> None:
        """Adds a click on the largest error to each session; masks without error stay."""
        with self._clock("prompts"):
            active = [session for session in sessions if session.click()]
        if not active:
            return
        with self._clock("model"):
            logits = [session.logits for session in active]
            known = [each for each in logits if each is not None]
            feed_back = "masks" in self._model.info.supports and len(known) == len(active)
            prompts = Prompts(
                points=np.stack([session.points for session in active]),
                labels=np.stack([session.labels for session in active]),
                mask_inputs=np.concatenate(known) if feed_back else None,
            )
            latest = boundary.decode(self._model, embedding, prompts, size_hw, multimask=multimask)
            latest = _without_ignored(latest, [each.instance for each in active])
        for row, session in enumerate(active):
            session.predicted, session.row = latest, row


def _without_ignored(predicted: Masks, instances: Sequence[Instance]) -> Masks:
    """Removes each instance's ignored pixels from its masks, which are in the same order."""
    if all(each.ignored is None for each in instances):
        return predicted
    masks = predicted.masks.copy()
    for row, each in enumerate(instances):
        if each.ignored is not None:
            masks[row, :, decode_mask(each.ignored)] = False
    return replace(predicted, masks=masks)


@dataclass(slots=True, eq=False)
class _ClickSession:
    """Clicks on one instance so far, each on another pixel, and its row in the latest masks."""

    points: Float32Array
    labels: Int64Array
    reference: BoolArray
    selection: Selection
    predicted: Masks
    row: int
    instance: Instance

    @property
    def best(self) -> int:
        """Index of the mask of the session among the latest candidates."""
        return select_candidate(self.selection, self.predicted.scores[self.row], [])

    @property
    def logits(self) -> Float32Array | None:
        """(1, 1, h, w) logits of the latest mask, if the model gives them."""
        logits = self.predicted.low_res_logits
        return None if logits is None else logits[self.row, self.best][None, None]

    def click(self) -> bool:
        """Adds the next click; returns False if all wrong pixels have been clicked."""
        found = next_click(self.predicted.masks[self.row, self.best], self.reference, self.points)
        if found is None:
            return False
        x, y, label = found
        self.points = np.concatenate([self.points, np.array([[x, y]], np.float32)])
        self.labels = np.append(self.labels, label)
        return True
