"""The HTML report as a file: content, escaping, missing parts, and the command."""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from benchmarks.datasets.photos import attribution
from benchmarks.evaluation.predictions import load_predictions, save_predictions
from benchmarks.records.instances import read_instances
from benchmarks.records.record import RunRecord, WeightsRow, load_record, save_record
from benchmarks.report.gallery import Gallery, build_gallery
from benchmarks.report.page import (
    MergedRuns,
    _folded_text,
    find_runs,
    find_subgroups,
    join_runs,
    render,
    write_report,
)
from benchmarks.tables.record_queries import protocols
from benchmarks.tables.record_tables import headline_table
from mobilesam.errors import UsageError

EVIL = "<script>alert(1)</script>"


class Parsed(HTMLParser):
    """Tags with their attributes, and the text that people see."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._inside: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self._inside:
            while self._inside.pop() != tag:
                pass

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self._inside):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())


def page(*records: RunRecord, gallery: Gallery | None = None) -> str:
    merged = MergedRuns(records[0], ((Path(), records[0]),), records, {})
    return render(merged, gallery or Gallery(why="no masks"), ())


def test_page_loads_nothing_and_its_policy_allows_nothing_else(record: RunRecord) -> None:
    parsed = Parsed(page(record))
    for tag, attributes in parsed.tags:
        for name in ("src", "href"):
            value = attributes.get(name) or "#"
            assert value.startswith(("#", "data:")), (tag, value)
        assert not any(name.startswith("on") for name in attributes)
        # The policy of the page forbids inline styles.
        assert "style" not in attributes
    policy = next(a["content"] or "" for t, a in parsed.tags if "http-equiv" in a)
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


def test_policy_has_the_hashes_of_scripts_and_styles(record: RunRecord) -> None:
    text = page(record)
    for tag, directive in (("style", "style-src"), ("script", "script-src")):
        body = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        assert len(body) == 1
        digest = base64.b64encode(hashlib.sha256(body[0].encode()).digest()).decode()
        assert f"{directive} 'sha256-{digest}'" in text


def test_all_sections_and_figures_are_present(make_many: Callable[[int], RunRecord]) -> None:
    record = make_many(4)
    older = record.model_copy(update={"id": "older", "created_utc": "2026-01-01T00:00:00Z"})
    parsed = Parsed(page(record, older))
    anchors = {a["id"] for t, a in parsed.tags if t == "section"}
    assert anchors == {
        "summary", "findings", "gallery", "time", "accuracy", "models", "history", "environment",
        "missing",
    }  # fmt: skip
    links = {a["href"] for t, a in parsed.tags if t == "a"}
    assert {f"#{anchor}" for anchor in anchors - {"missing"}} <= links
    assert "robustness to disturbed prompts: mobilesam-bench miou --protocol" in parsed.text
    kinds = {str(a["id"]).split("-")[1] for t, a in parsed.tags if a.get("class") == "plot"}
    assert kinds == {"accuracy", "latency", "decode", "size", "history"}
    for word in ("noisy machine", "out of memory", "Example CPU | 9000", "0123456789abcdef0123"):
        assert word in parsed.text


def test_every_machine_is_named(record: RunRecord) -> None:
    other = record.environment.model_copy(update={"cpu_features": ("neon",), "load_1min": 7.0})
    older = record.model_copy(update={"id": "older", "environment": other, "note": "few images"})
    text = Parsed(page(record, older)).text
    assert "2 machines or settings, listed under History" in text
    assert "from 2 runs, listed under History" in text
    table = page(record, older).split('id="t-environment"')[1].split("</figure>")[0]
    table = Parsed(table.partition("<table>")[2]).text
    assert all(word in table for word in ("older", record.id, "neon"))
    assert "7.0" in table
    assert "few images" not in page(record, older).split('id="findings"')[0]
    alone = Parsed(page(record)).text
    assert f"from {record.id}." in alone


def test_numbers_match_the_record(record: RunRecord) -> None:
    text = Parsed(page(record)).text
    assert "74.4 [71.4, 76.9]" in text
    assert "1,200 (range 1,176 to 1,224)" in text


def test_first_screen_answers_in_a_sentence_and_seven_columns(record: RunRecord) -> None:
    text = page(record)
    answer = text.split('class="answer"')[1]
    assert "Run mobilesam: " in Parsed(answer).text
    table = Parsed(answer.split('id="t-models-')[1].split("</table>")[0])
    assert [tag for tag, a in table.tags if a.get("scope") == "col"] == 7 * ["th"]
    assert text.count('class="answer"') == len(protocols(record))


def test_long_texts_of_cells_are_folded() -> None:
    assert _folded_text("short") == ("short", "")
    head, rest = _folded_text("many words " * 20)
    assert len(head) <= 70
    assert head + rest == "many words " * 20


def test_ids_are_unique_and_charts_have_labels(make_many: Callable[[int], RunRecord]) -> None:
    parsed = Parsed(page(make_many(3)))
    ids = [a["id"] for _, a in parsed.tags if "id" in a]
    assert len(ids) == len(set(ids))
    charts = [a for _, a in parsed.tags if a.get("class") == "chart"]
    assert len(charts) > 10
    assert all(a.get("aria-label") for a in charts)


def evil(record: RunRecord) -> RunRecord:
    """A record in which everything that can be named has a hostile name."""
    text = record.model_dump_json()
    for old in ("mobilesam", "coco:val2017_dev", "noisy machine", "Example CPU", "image_encoder"):
        text = text.replace(old, f"{EVIL}'\\\"{old}")
    return RunRecord.model_validate_json(text)


def test_hostile_names_are_escaped(record: RunRecord) -> None:
    hostile = evil(record).model_copy(update={"id": EVIL, "note": EVIL, "command": EVIL})
    older = hostile.model_copy(update={"id": f"{EVIL}2", "created_utc": EVIL})
    parsed = Parsed(page(hostile, older))
    scripts = [a for t, a in parsed.tags if t == "script"]
    assert [a.get("type") for a in scripts] == ["application/json", None]
    assert EVIL in parsed.text
    assert not [t for t, _ in parsed.tags if t in ("img", "iframe", "object", "form", "base")]


def test_empty_run_gives_a_page(empty_record: RunRecord) -> None:
    text = Parsed(page(empty_record)).text
    assert "This record cannot say which model to run" in text
    assert "accuracy: mobilesam-bench miou" in text
    assert "times: mobilesam-bench latency" in text


def test_same_record_gives_same_page(record: RunRecord) -> None:
    assert page(record) == page(record)


def test_packaged_photos_are_credited_below_the_gallery(photos_run: Path, tmp_path: Path) -> None:
    write_report([photos_run], tmp_path / "r.html")
    text = Parsed((tmp_path / "r.html").read_text()).text
    line = attribution((30213, 62554))
    assert "Flickr 8561578295, 5560942229" in line
    assert line in text
    assert text.index("objects on 2 images of photos; prompts: ") < text.index(line)
    # Any folder that is named is that of other datasets.
    shown = build_gallery([photos_run], ["box"], each=1, images=tmp_path)
    names = {picture.name for picture in shown.pictures.values()}
    assert names == {"000000030213.jpg", "000000062554.jpg"}


def test_gallery_without_photos_has_no_credits(gallery: Gallery, record: RunRecord) -> None:
    assert gallery.attribution is None
    assert 'class="attribution' not in page(record, gallery=gallery)


def test_damaged_masks_remove_the_gallery_only(masks_run: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(masks_run, broken)
    (broken / "predictions" / "box.parquet").write_bytes(b"PAR1")
    write_report([broken], tmp_path / "r.html")
    text = Parsed((tmp_path / "r.html").read_text()).text
    assert "The stored masks cannot be shown" in text
    assert "box.parquet" in text


def test_find_runs_searches_subfolders(masks_run: Path, tmp_path: Path) -> None:
    assert find_runs([masks_run, masks_run / "record.json"]) == [masks_run]
    assert find_runs([masks_run.parent]) == [masks_run]
    with pytest.raises(UsageError, match=r"holds no record\.json"):
        find_runs([tmp_path])
    with pytest.raises(UsageError, match="no run given"):
        find_runs([])


def test_times_of_another_machine_are_in_the_history_only(
    tmp_path: Path, make_record: Callable[..., RunRecord]
) -> None:
    new = make_record(2, id="new", created_utc="2026-02-01T00:00:00Z")
    same = make_record(2, id="same", created_utc="2026-01-01T00:00:00Z")
    other = new.environment.model_copy(update={"cpu": "Another CPU"})
    far = make_record(2, id="far", created_utc="2026-01-15T00:00:00Z", environment=other)
    for run in (new, same, far):
        save_record(run, tmp_path / run.id)
    merged = join_runs(find_runs([tmp_path]))
    assert merged.record.id == "same+far+new"
    assert {row.run for row in merged.record.latency} == {"new"}
    assert [run.id for run in merged.runs] == ["new", "far", "same"]
    assert merged.left_out.keys() == {"far"}
    write_report([tmp_path], tmp_path / "r.html")
    text = Parsed((tmp_path / "r.html").read_text()).text
    assert "2 machines or settings" in text
    reason = text.split("tables and history; not in tables: times: ")[1]
    reason = reason.split(": report these runs apart")[0]
    assert "Another CPU" in reason
    assert "in run far" in reason


def test_the_table_of_runs_says_where_they_are(
    tmp_path: Path, make_record: Callable[..., RunRecord]
) -> None:
    new = make_record(2, id="new", created_utc="2026-02-01T00:00:00Z")
    weights = WeightsRow(kind="file", sha256="ab" * 32)
    models = tuple(row.model_copy(update={"weights": weights}) for row in new.models)
    drawn = tuple(r.model_copy(update={"dataset": "synthetic:seed=1,n=9"}) for r in new.miou)
    apart = make_record(
        2, id="apart", created_utc="2026-01-01T00:00:00Z", models=models, miou=drawn, latency=()
    )
    for run in (new, apart):
        save_record(run, tmp_path / run.id)
    write_report([tmp_path], tmp_path / "r.html")
    text = Parsed((tmp_path / "r.html").read_text()).text
    assert "nothing; not in tables: rows of mobilesam: weights custom abababab, here " in text


def test_what_was_not_measured_is_listed(make_many: Callable[[int], RunRecord]) -> None:
    record = make_many(4)
    text = Parsed(page(record)).text.split("Not measured")[1]
    for word in ("segment everything", "AP with the boxes", "robustness", "models: ", "edgetam"):
        assert word in text
    assert "times: " not in text
    assert "times: " in Parsed(page(record.model_copy(update={"latency": ()}))).text


def test_named_runs_come_before_those_of_a_folder(
    tmp_path: Path, make_record: Callable[..., RunRecord]
) -> None:
    old = make_record(2, id="old", created_utc="2026-01-01T00:00:00Z")
    rows = tuple(row.model_copy(update={"miou": 0.5}) for row in old.miou if row.miou)
    new = make_record(2, id="new", created_utc="2026-02-01T00:00:00Z", miou=rows)
    for run in (old, new):
        save_record(run, tmp_path / run.id)
    folders = find_runs([tmp_path])
    assert {row.miou for row in join_runs(folders).record.miou if row.miou} == {0.5}
    preferred = join_runs(folders, {tmp_path / "old"})
    assert 0.5 not in {row.miou for row in preferred.record.miou}
    assert [folder.name for folder, _ in preferred.kept] == ["old", "new"]


def test_models_in_another_precision_have_their_own_name_in_all_parts(
    masks_run: Path, tmp_path: Path
) -> None:
    record = load_record(masks_run)
    for name in ("fp32", "bf16"):
        shutil.copytree(masks_run, tmp_path / name)
        weights = WeightsRow(kind="file", sha256=name)
        models = tuple(
            row.model_copy(update={"weights": weights}) if row.model == "dummy" else row
            for row in record.models
        )
        update = {"id": name, "models": models, "config": {**record.config, "precision": name}}
        save_record(record.model_copy(update=update), tmp_path / name)
    # The gallery takes masks of each model once.
    (tmp_path / "bf16" / "predictions" / "box.parquet").unlink()
    merged = write_report([tmp_path], tmp_path / "r.html")
    assert not merged.left_out
    assert {row.model for row in merged.record.miou} == {"box", "dummy", "dummy (bf16)"}
    pairs = {(row.model_a, row.model_b) for row in merged.record.comparisons}
    assert len(pairs) == 3
    groups, _ = find_subgroups(merged.kept)
    assert {row.model for row in groups} == {"box", "dummy", "dummy (bf16)"}
    text = (tmp_path / "r.html").read_text()
    assert '"models": ["box", "dummy (bf16)", "dummy"]' in text  # of the gallery


def test_report_of_the_committed_runs_agrees_with_the_readme() -> None:
    root = Path(__file__).resolve().parents[3]
    text = (root / "README.md").read_text()
    block = text.split("<!-- results:begin -->")[1].split("<!-- results:end -->")[0]
    named = [root / path for path in re.findall(r"\((results/runs/[^/]+)/record\.json", block)]
    runs = find_runs([*named, root / "results" / "runs"])
    record = join_runs(runs, named).record
    table = [line.split(" | ") for line in block.splitlines() if line.startswith("| ")]
    shown = {cells[0].strip("| "): cells[2:4] for cells in table[2:]}
    rows = headline_table(record, shown).to_markdown().splitlines()
    found = {line.split(" | ")[0].strip("| "): line.split(" | ")[3:5] for line in rows}
    assert shown
    assert {model: found[model] for model in shown} == shown
    # These are the runs that `nox -s report` prefers.
    source = (root / "noxfile.py").read_text().split("PUBLISHED = ")[1].split("COMMITTED")[0]
    assert re.findall(r'"(cpu-[\w-]+)"', source) == [path.name for path in named]


def test_command_writes_a_file_and_prints_its_path(
    run: Any, masks_run: Path, tmp_path: Path
) -> None:
    done = run("report", masks_run, "--out=made/r.html", "--cases=1", "--failures-first")
    assert done.code == 0
    assert done.out.startswith("report  made/r.html (")
    assert '"failures_first": true' in (tmp_path / "made" / "r.html").read_text()
    assert run("report", masks_run, "--out=q.html", "--quiet").out == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["report"], "no run given"),
        (["report", "nowhere"], "holds no record.json"),
        (["report", "RUN", "--cases=0"], "--cases must be at least 1"),
        (["report", "RUN", "--out=."], "is a folder"),
        (["report", "RUN", "--cases=many"], "many"),
    ],
)
def test_invalid_arguments_give_a_one_line_error(
    run: Any, masks_run: Path, arguments: list[str], message: str
) -> None:
    done = run(*(str(masks_run) if each == "RUN" else each for each in arguments))
    assert done.code == 2
    assert message in done.err
    assert "Traceback" not in done.err


def test_hostile_model_name_is_escaped_in_the_gallery(masks_run: Path, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = tmp_path / "hostile"
    shutil.copytree(masks_run, folder)
    path = folder / "predictions" / "dummy.parquet"
    info, rows = load_predictions(path)
    save_predictions(path, info.model_copy(update={"model": EVIL}), rows)
    frame = read_instances(folder / "instances.parquet")
    frame["model"] = frame["model"].replace("dummy", EVIL)
    pq.write_table(pa.Table.from_pandas(frame), folder / "instances.parquet")
    record = load_record(folder)
    models = tuple(
        row.model_copy(update={"model": EVIL}) if row.model == "dummy" else row
        for row in record.models
    )
    save_record(record.model_copy(update={"models": models}), folder)
    write_report([folder], tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text()
    parsed = Parsed(text)
    assert [a.get("type") for t, a in parsed.tags if t == "script"] == ["application/json", None]
    assert '"models": ["box", "\\u003cscript\\u003e' in text
