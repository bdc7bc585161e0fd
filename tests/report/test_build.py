"""The page and the terminal table hold what report.json holds, safely; reading refuses what is not a report."""

from __future__ import annotations

import io
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console

from hetero.errors import BundleError, MissingExtraError, StorageError
from hetero.report import words
from hetero.report.assemble import make_report
from hetero.report.build import build_html, load_report, render_terminal, write_report
from hetero.report.markdown import render_markdown
from hetero.report.schema import Check, Report

ATTACK = "<script>alert('x')</script>"


class Page(HTMLParser):
    """Tags, attributes, ids and visible text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def small(report: Report) -> Report:
    """One student and one example: quick to draw."""
    return make_report(
        space_id=report.space_id, run=report.run, students=report.students[:1], examples=report.examples[:1]
    )


@pytest.fixture(scope="module")
def html(report: Report) -> str:
    return build_html(report)


def test_the_page_holds_every_number_of_the_cells(report: Report, html: str) -> None:
    table = html[html.index('<table id="cells">') : html.index("</table>")]
    text = " ".join(Page(table).text.split())
    for student in report.students:
        assert student.name in text
        for cell in ("paragon", "heterogeneous", "homogeneous", "reverse"):
            for metric in ("r_at_1", "r_at_5", "map_at_r"):
                assert words.interval(getattr(getattr(student.cells, cell), metric)) in text
        for cost in (student.macs, student.params):
            assert words.count(cost.query) in text
            assert words.count(cost.gallery) in text
            assert words.ratio(cost.ratio) in text
    assert "raw pixels (PCA-64)" in text
    assert "0.348 [0.342, 0.354]" in text
    assert "tiny-23x-alone (negative control)" in text


def test_the_page_holds_rule_thresholds_checks_and_how_it_was_made(report: Report, html: str) -> None:
    text = " ".join(Page(html).text.split())
    for student in report.students:
        for result in (student.rule.r_at_1, student.rule.map_at_r):
            verdict = "✓ satisfied" if result.satisfied else "✗ not satisfied"
            assert f"{words.difference(result)}{verdict}" in text.replace("] ✓", "]✓").replace("] ✗", "]✗")
    for expected in (
        words.summary(report),
        report.run.command,
        report.run.config_sha256,
        report.space_id,
        '"note": null',
        "torch 2.13.0",
        "28 min 30 s",
        "21,400 images/s",
        "0.4620",
        "1,200,000",
        "control at chance",
    ):
        assert expected in text


def test_matches_are_marked_by_word_and_sign_too(report: Report, html: str) -> None:
    matches = [match for example in report.examples for match in example.matches]
    assert html.count("✓ right") == sum(match.correct for match in matches)
    assert html.count("✗ wrong") == sum(not match.correct for match in matches)
    assert html.count('<li class="wrong">') == html.count("✗ wrong")


def test_the_page_loads_nothing_and_runs_nothing(html: str) -> None:
    assert "http://" not in html
    assert "https://" not in html
    page = Page(html)
    assert not {"script", "link", "iframe", "object", "embed", "base"} & set(page.tags)
    sources = [value for name, value in page.attributes if name in ("src", "href", "srcset", "data")]
    assert sources
    assert all(value.startswith(("data:image/png;base64,", "data:image/svg+xml;base64,")) for value in sources)
    assert "url(" not in html
    assert "@import" not in html
    assert len(html.encode("utf-8")) < 3_000_000


def test_every_picture_has_an_alternative_text(html: str) -> None:
    page = Page(html)
    alternatives = [value for name, value in page.attributes if name == "alt"]
    assert page.tags.count("img") == len(alternatives)
    assert all(alternatives)


def test_hostile_names_are_escaped_everywhere(report: Report) -> None:
    def poison(value: object, key: str = "") -> object:
        if isinstance(value, dict):
            hostile = key in ("config", "versions", "durations_s", "images_per_s", "terms")
            return {(k + ATTACK if hostile else k): poison(v, k) for k, v in value.items()}
        if isinstance(value, list):
            return [poison(one, key) for one in value]
        exempt = ("role", "cell", "image_png", "config_sha256")
        return value + ATTACK if isinstance(value, str) and key not in exempt else value

    poisoned = Report.model_validate(poison(json.loads(report.model_dump_json(by_alias=True))))
    page = build_html(poisoned)
    assert page.count("<script") == 0
    assert page.count("&lt;script&gt;") > 50
    assert "script" not in Page(page).tags
    console = Console(file=io.StringIO(), width=200)
    console.print(render_terminal(poisoned))


def test_a_name_cannot_leave_an_attribute(small: Report) -> None:
    document = json.loads(small.model_dump_json(by_alias=True))
    document["examples"][0]["query"]["id"] = '" onerror="x'
    document["examples"][0]["matches"][0]["id"] = "a onerror=x"
    page = Page(build_html(Report.model_validate(document)))
    assert not any(name.startswith("on") for name, _ in page.attributes)
    assert ("title", '" onerror="x') in page.attributes


def test_a_minimal_report_has_a_page_and_a_table(small: Report) -> None:
    minimal = make_report(space_id=small.space_id, run=small.run, students=small.students)
    page = build_html(minimal)
    assert 'id="thresholds"' not in page
    assert "Example queries" not in page
    assert "<h2>Training</h2>" not in page
    assert 'id="checks"' not in page
    assert "raw pixels" not in page
    assert "chance" not in _print(minimal)


def test_optional_parts_and_metrics_show_where_measured(report: Report) -> None:
    document = json.loads(report.model_dump_json(by_alias=True))
    document["students"][1]["cells"]["reverse"]["mrr"] = {"value": 0.7654, "low": 0.7, "high": 0.8}
    document["examples"][0]["query"]["image_png"] = None
    document["histograms"] = document["curves"] = []
    document["thresholds"][0]["measured_false_accept_rate"] = 0.00123
    document["run"]["dataset"] |= {"train_images": None}
    document["checks"] = [Check(name="n", passed=False, value=None, expected="e").model_dump()]
    other = Report.model_validate(document)
    page = build_html(other)
    assert '<th scope="col">MRR</th>' in page
    assert '<th scope="col">mAP</th>' not in page
    assert "0.765" in page
    assert "no picture" in page
    assert "0.0012" in page
    assert "✗ failed" in page
    assert "Trained on" not in page
    assert "MRR" in _print(other)


def _print(report: Report, width: int = 160) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(render_terminal(report))
    return console.file.getvalue()


def test_the_terminal_table_holds_every_number_and_the_verdict(report: Report) -> None:
    text = _print(report)
    for student in report.students:
        for cell in ("paragon", "heterogeneous", "homogeneous", "reverse"):
            for metric in ("r_at_1", "r_at_5", "map_at_r"):
                assert words.interval(getattr(getattr(student.cells, cell), metric)) in text
        assert f"{student.name}: {words.count(student.macs.query)} MACs" in text
    flat = " ".join(text.split())
    assert words.summary(report) in flat
    assert "tiny-23x-alone, control" in text
    assert re.search(r"raw pixels +0\.348 \[0\.342, 0\.354\]", text)
    assert re.search(r"chance +0\.0014", text)
    assert max(len(line) for line in _print(report, width=80).splitlines()) <= 80


def test_the_terminal_table_takes_brackets_literally(report: Report) -> None:
    document = json.loads(report.model_dump_json(by_alias=True))
    document["run"]["name"] = "[bold]run[/bold]"
    document["students"][1]["name"] = "[red]s[/red]"
    document["thresholds"] = document["histograms"] = document["examples"] = []
    text = _print(Report.model_validate(document))
    assert "[bold]run[/bold]" in text
    assert "[red]s[/red]" in text


def test_write_and_load_give_the_same_report(report: Report, html: str, tmp_path: Path) -> None:
    data, page = write_report(report, tmp_path / "run")
    assert [data.name, page.name] == ["report.json", "report.html"]
    assert load_report(data) == report
    assert load_report(tmp_path / "run") == report
    assert page.read_text(encoding="utf-8") == html
    assert sorted(one.name for one in data.parent.iterdir()) == ["report.html", "report.json"]
    document = json.loads(data.read_text(encoding="utf-8"))
    assert document["run"]["config"]["gallery"] == {"width": 1.5, "note": None}
    assert document["students"][0]["rule"]["r_at_1"]["satisfied"] is True


def test_a_failed_write_keeps_the_old_report(report: Report, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StorageError, match="cannot write"):
        write_report(report, tmp_path / "file")
    assert (tmp_path / "file").read_text() == "not a folder"


def test_without_jinja_the_data_is_written_and_the_extra_named(
    report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'hetero\[report\]'"):
        write_report(report, tmp_path)
    assert load_report(tmp_path) == report


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "text that is not JSON"),
        (b"[]", "a JSON list"),
        (b'{"schema": 1, "x": NaN}', "NaN is not a JSON number"),
        (b'{"schema": 1, "x": 1' + b"0" * 5000 + b"}", "text that is not JSON"),
        (b"[" * 200_000, "text that is not JSON"),
        (b"\xff\xfe", "bytes that are not UTF-8"),
        (b"{}", "another version; got schema None; expected schema 1"),
        (b'{"schema": 2}', "another version; got schema 2; expected schema 1"),
        (b'{"schema": true}', "another version; got schema True"),
        (b'{"schema": 1}', r"breaks the report's rules at space_id \(and 5 more\); got Field required"),
    ],
)
def test_load_report_refuses_what_is_not_one(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "report.json"
    path.write_bytes(content)
    with pytest.raises(BundleError, match=message) as caught:
        load_report(path)
    assert str(path) in str(caught.value)
    assert "fix: " in str(caught.value)


def test_load_report_names_the_key_that_is_wrong(report: Report, tmp_path: Path) -> None:
    path, text = tmp_path / "report.json", report.model_dump_json(by_alias=True)
    document = json.loads(text)
    document["students"][0]["cells"]["reverse"]["r_at_1"]["value"] = "high"
    path.write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(BundleError, match=r"students\.0\.cells\.reverse\.r_at_1\.value") as caught:
        load_report(path)
    assert "valid number" in str(caught.value)
    document = json.loads(text)
    document["cells"] = document["students"][1]["cells"]
    path.write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(BundleError, match="at the report; got Value error, top-level cells must equal"):
        load_report(path)


def test_load_report_refuses_a_missing_and_an_enormous_file(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"there is no readable report at .*report\.json"):
        load_report(tmp_path)
    with open(tmp_path / "report.json", "wb") as stream:
        stream.truncate(65 * 2**20)
    with pytest.raises(BundleError, match=r"68,157,440 bytes; expected at most 67,108,864 bytes"):
        load_report(tmp_path)


def test_every_view_shows_the_recalls_of_a_preset(with_recalls: Report) -> None:
    html = build_html(with_recalls)
    table = html[html.index('<table id="recalls">') :]
    page = "".join(Page(table[: table.index("</table>")]).text.split())
    console = Console(file=io.StringIO(), width=200)
    console.print(render_terminal(with_recalls))
    terminal = " ".join(console.file.getvalue().split())  # type: ignore[attr-defined]
    markdown = render_markdown(with_recalls)
    assert "SearchR@1R@10R@100R@1000" in page
    assert "| | R@1 | R@10 | R@100 | R@1000 |" in markdown
    for title in (html, terminal, markdown):
        assert "R@k of the evaluation preset sop" in title
    rows = [("gallery model: paragon", with_recalls.students[0].recalls["paragon"])]
    for student in with_recalls.students:
        for cell in ("heterogeneous", "homogeneous", "reverse"):
            rows.append((f"{student.name}: {cell}", student.recalls[cell]))
    for label, found in rows:
        scores = [found[rank] for rank in (1, 10, 100, 1000)]
        line = " ".join([label, *(words.interval(score) for score in scores)])
        assert line.replace(" ", "") in page
        assert line in terminal
        numbers = " | ".join(f"{score.value:.4f} [{score.low:.4f}, {score.high:.4f}]" for score in scores)
        assert f"| {label} | {numbers} |" in markdown


def test_no_view_speaks_of_recalls_without_a_preset(report: Report, html: str) -> None:
    console = Console(file=io.StringIO(), width=200)
    console.print(render_terminal(report))
    for view in (html, console.file.getvalue(), render_markdown(report)):  # type: ignore[attr-defined]
        assert "R@k" not in view
