"""The page on scale, from the committed results of the trials, with an extrapolation to SA-1B.

`python -m benchmarks.evidence.scale_page` writes `docs/scale.md`; a test fails when it is stale.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.evidence.pages import ROOT, PageColumn, markdown_table, render, write_page
from benchmarks.records.documents import read_document
from mobilesam.errors import DataError

Document = Mapping[str, Any]

RESULTS, PAGE = Path("results/scale"), Path("docs/scale.md")
TRIALS = ("stream", "aggregate", "kills", "simulation")
GPUS = (1, 8, 64)
MIN_THROUGHPUT, MAX_COST_GROWTH, MAX_MEMORY_GROWTH, MAX_MEMORY_BYTES = 1000, 0.10, 0.05, 2 * 2**30


def page(results: Path) -> str:
    """The Markdown of the page.

    Args:
        results: Folder of the JSON files of the trials; the page states which are missing.

    Raises:
        DataError: A file is not such a document.
    """
    found = {name: read_document(results / f"{name}.json", "trial") for name in TRIALS}
    try:
        return render(
            "scale.md",
            **found,
            stream_text=_stream,
            aggregate_text=_aggregate,
            kills_text=_kills,
            simulation_text=_simulation,
            plan=lambda stream: _plan(Measured.of(stream)),
        )
    except (KeyError, TypeError) as error:
        raise DataError(f"{results} holds what is no result of a trial: {error}") from error


def _target(text: str, is_reached: bool) -> str:
    return f"target: {text}: {'reached' if is_reached else 'missed'}"


def _stream(found: Document) -> str:
    columns = (
        PageColumn("Images", lambda run: f"{run['n_images']:,}"),
        PageColumn(
            "Instances a second and core", lambda run: f"{run['instances_per_s_and_core']:,.0f}"
        ),
        PageColumn("Core time an image", lambda run: f"{run['cpu_ms_per_image']:.2f}", "ms"),
        PageColumn("Peak memory", lambda run: f"{run['peak_rss_bytes'] / 1e6:,.0f}", "MB"),
        PageColumn("Shards", lambda run: f"{run['shard_bytes'] / 1e6:,.0f}", "MB"),
    )
    slowest = min(run["instances_per_s_and_core"] for run in found["runs"])
    memory_growth, cost_growth = found["memory_ratio"] - 1, found["cost_ratio"] - 1
    notes = (
        f"{found['what']}; {found['image_px']} px, {found['n_objects']} objects an image; with "
        f"scoring ({'IoU and boundary IoU' if found['boundary'] else 'IoU'}) and writing",
        _target(
            f"at least {MIN_THROUGHPUT:,} instances a second and core", slowest >= MIN_THROUGHPUT
        ),
        _target(
            f"memory of the longest within {MAX_MEMORY_GROWTH:.0%} of the shortest "
            f"({memory_growth:+.1%})",
            memory_growth <= MAX_MEMORY_GROWTH,
        ),
        _target(
            f"core time an image within {MAX_COST_GROWTH:.0%} ({cost_growth:+.1%})",
            cost_growth <= MAX_COST_GROWTH,
        ),
    )
    return markdown_table(columns, found["runs"], notes)


def _aggregate(found: Document) -> str:
    target = _target("within 2 GiB resident", found["peak_rss_bytes"] <= MAX_MEMORY_BYTES)
    return (
        f"Mean IoU with its 95 % interval over {found['n_rows']:,} rows of {found['n_images']:,} "
        f"images in {found['n_files']:,} files ({found['file_bytes'] / 1e6:,.0f} MB): "
        f"{found['sum_s']:.0f} s for the sums, {found['interval_s']:.0f} s for the resamples of "
        f"IoU and boundary IoU, peak memory {found['peak_rss_bytes'] / 1e6:,.0f} MB; {target}.\n"
    )


def _kills(found: Document) -> str:
    same = found["same_tables"] and found["same_record"]
    return (
        f"kill -9 at {found['n_kills']} random moments of a run over {found['n_images']:,} images "
        f"in {found['n_chunks']} shards, restarted each time: files and record are "
        f"{'those' if same else 'NOT those'} of an uninterrupted run.\n"
    )


def _simulation(run: Document) -> str:
    deviation = run["measured_ms"] / run["predicted_ms"] - 1
    return (
        f"{run['what']}: {run['measured_ms']:.1f} ms an image, predicted "
        f"{run['predicted_ms']:.1f} ms ({deviation:+.0%})"
    )


@dataclass(frozen=True, slots=True)
class Assumed:
    """Assumptions of the extrapolation, each with its source.

    Attributes:
        n_images: Images of SA-1B, as published (rounded).
        n_masks: Masks of SA-1B, as published (rounded).
        shard_bytes: Size of all tars, as published (rounded).
        megapixels: Size of an image: the shorter side is 1,500 px, at 3:2 the longer 2,250 px.
        encode_s: MobileSAM's encoder on one GPU, as the MobileSAM paper states it.
        decode_s: SAM's decoder for one point prompt, from FastSAM's table on an RTX 3090: 627 ms
            with 100 prompts and 446 ms with one leave 1.83 ms for each of 99.
        cores_per_gpu: Cores of a machine with eight GPUs and 128 cores.
    """

    n_images: float = 11e6
    n_masks: float = 1.1e9
    shard_bytes: float = 11e12
    megapixels: float = 1.5 * 2.25
    encode_s: float = 0.008
    decode_s: float = (0.627 - 0.446) / 99
    cores_per_gpu: int = 16

    @property
    def masks_per_image(self) -> float:
        """Mean number of prompts of an image."""
        return self.n_masks / self.n_images

    @property
    def gpu_s_per_image(self) -> float:
        """Time of a GPU for an image under one protocol."""
        return self.encode_s + self.masks_per_image * self.decode_s


@dataclass(frozen=True, slots=True)
class Measured:
    """Results of the trial on generated shards.

    Attributes:
        cpu_s: Time of a core for an image, with an instant model.
        megapixels: Size of an image.
        n_objects: Objects of an image.
        row_bytes: Size of a row of a finished shard.
    """

    cpu_s: float
    megapixels: float
    n_objects: int
    row_bytes: float

    @classmethod
    def of(cls, stream: Document) -> Measured:
        """Reads the longest run of the document of the trial `stream`."""
        run = max(stream["runs"], key=lambda each: int(each["n_images"]))
        width, height = map(int, stream["image_px"].split("x"))
        return cls(
            run["cpu_ms_per_image"] / 1e3,
            width * height / 1e6,
            stream["n_objects"],
            run["out_bytes"] / run["n_instances"],
        )

    def cpu_s_of(self, assumed: Assumed) -> float:
        """Time of a core for an image of SA-1B.

        Each mask is decoded, compared and cropped at the size of the image, so the time is taken to
        grow with the number of objects times the pixels. That is an upper bound: a part of it grows
        with the objects only (Python for each row, prompts), or with the pixels only (JPEG).
        """
        size = assumed.megapixels / self.megapixels
        return self.cpu_s * size * assumed.masks_per_image / self.n_objects


@dataclass(frozen=True, slots=True)
class Estimate:
    """All of SA-1B with a number of GPUs.

    Attributes:
        n_gpus: Number of GPUs, each with its share of cores.
        gpu_h: Hours of the GPUs.
        cpu_h: Hours of the cores.
        disk_bytes_per_s: Rate of reading all shards within the longer of the two.
        out_bytes: Size of the rows of one model and one protocol.
    """

    n_gpus: int
    gpu_h: float
    cpu_h: float
    disk_bytes_per_s: float
    out_bytes: float

    @property
    def hours(self) -> float:
        """Hours of the slower of the two, since the work overlaps."""
        return max(self.gpu_h, self.cpu_h)

    @property
    def bottleneck(self) -> str:
        """The slower of the two."""
        return "GPU" if self.gpu_h >= self.cpu_h else "cores"


def estimate(measured: Measured, n_gpus: int, assumed: Assumed) -> Estimate:
    """Extrapolates to all of SA-1B."""
    gpu_h = assumed.n_images * assumed.gpu_s_per_image / n_gpus / 3600
    cores = n_gpus * assumed.cores_per_gpu
    cpu_h = assumed.n_images * measured.cpu_s_of(assumed) / cores / 3600
    disk_bytes_per_s = assumed.shard_bytes / (max(gpu_h, cpu_h) * 3600)
    return Estimate(n_gpus, gpu_h, cpu_h, disk_bytes_per_s, measured.row_bytes * assumed.n_masks)


def _plan(measured: Measured) -> str:
    assumed = Assumed()
    columns = (
        PageColumn("GPUs", lambda each: str(each.n_gpus)),
        PageColumn("GPUs alone", lambda each: f"{each.gpu_h:,.1f}", "h"),
        PageColumn("Cores alone", lambda each: f"{each.cpu_h:,.1f}", "h"),
        PageColumn("Bottleneck", lambda each: each.bottleneck, align="left"),
        PageColumn("All of it", lambda each: f"{each.hours:,.1f}", "h"),
        PageColumn("Disk and network", lambda each: f"{each.disk_bytes_per_s / 1e6:,.0f}", "MB/s"),
        PageColumn("Rows written", lambda each: f"{each.out_bytes / 1e9:,.0f}", "GB"),
    )
    cpu_s = measured.cpu_s_of(assumed)
    notes = (
        f"assumed, as published: {assumed.n_images / 1e6:.0f} million images, "
        f"{assumed.n_masks / 1e9:.1f} billion masks, {assumed.shard_bytes / 1e12:.0f} TB",
        f"assumed: images of {assumed.megapixels:.2f} megapixels (1,500 x 2,250 px)",
        f"assumed: {assumed.encode_s * 1e3:.0f} ms a GPU for an encoding (MobileSAM's paper) and "
        f"{assumed.decode_s * 1e3:.2f} ms for a prompt (FastSAM's paper, SAM's decoder on an RTX "
        f"3090), so {assumed.gpu_s_per_image:.2f} s for an image with "
        f"{assumed.masks_per_image:.0f} masks",
        f"assumed: {assumed.cores_per_gpu} cores for each GPU, as fast as the one measured",
        f"from the measured {measured.cpu_s * 1e3:.1f} ms for {measured.megapixels:.2f} megapixels "
        f"and {measured.n_objects} objects: {cpu_s:.2f} s of a core for such an image, so that a "
        f"GPU needs {cpu_s / assumed.gpu_s_per_image:.1f} cores",
        f"from the measured {measured.row_bytes:.0f} bytes a row",
    )
    return markdown_table(columns, [estimate(measured, n, assumed) for n in GPUS], notes)


if __name__ == "__main__":
    raise SystemExit(write_page(PAGE, page(ROOT / RESULTS)))
