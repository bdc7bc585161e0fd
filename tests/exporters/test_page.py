"""The page of a bundle holds what its manifest holds, safely, the same each time; it loads nothing."""

from __future__ import annotations

import base64
import json
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from exporters import Bundle, open_bundle, verify
from exporters.manifest import Manifest
from exporters.page import build_page, number_words, page_path, rung_lines, size_words, write_page
from hetero.errors import ConfigError, MissingExtraError
from hetero.report import words

ATTACK = "<script>alert('x')</script>"


class Page(HTMLParser):
    """Tags, attributes and the visible text of a page, and of each table by its id."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.tables: dict[str, str] = {}
        self.text, self._table = "", ""
        self.feed(text)
        self.text = " ".join(self.text.split())
        self.tables = {name: " ".join(part.split()) for name, part in self.tables.items()}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag == "table":
            self._table = dict(attrs).get("id") or "layers"
        self.handle_data(" ")  # cells stand apart

    def handle_endtag(self, tag: str) -> None:
        if tag == "table":
            self._table = ""

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._table:
            self.tables[self._table] = self.tables.get(self._table, "") + data

    @property
    def images(self) -> list[str]:
        """The SVG sources of the plots."""
        start = "data:image/svg+xml;base64,"
        sources = [value for name, value in self.attributes if name == "src"]
        assert all(source.startswith(start) for source in sources)
        return [base64.b64decode(source.removeprefix(start)).decode() for source in sources]


@pytest.fixture(scope="module")
def html(measured: Bundle) -> str:
    return build_page(measured.manifest)


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


@pytest.fixture(scope="module")
def changed(varied: Manifest) -> Page:
    return Page(build_page(varied))


def test_every_file_is_there_with_the_manifests_numbers(measured: Bundle, page: Page) -> None:
    table = page.tables["files"]
    assert len(measured.manifest.files) == 4
    for file in measured.manifest.files:
        delta = [words.signed(file.measured(f"r_at_1_{end}")) for end in ("delta", "low", "high")]
        int8 = f"{file.content.int8_layers} of {file.content.layers}" if file.precision == "int8" else "–"
        row = (
            f"{file.format} {file.precision} {file.path} recipe {file.recipe} {size_words(file.size_bytes)} "
            f"{sum(file.ops.values())} {int8} "
            f"{file.measured('max_abs'):.1e} {file.measured('min_cosine'):.5f} {words.share(file.measured('r_at_1'))} "
            f"{delta[0]} [{delta[1]}, {delta[2]}] {'? undecided' if file.precision == 'int8' else '✓ passed'}"
        )
        assert row in table
        assert file.sha256 in page.text
        assert f"{file.size_bytes:,} bytes" in page.text
        for name, count in file.ops.items():
            assert f"{count} {name}" in page.text
    assert "left out" not in table


def test_the_ladder_has_every_number_with_its_limit(measured: Bundle, page: Page) -> None:
    table = page.tables["ladder"]
    for file in measured.manifest.files:
        int8 = file.precision == "int8"
        expected = ["no limit", "passed", "undecided"] if int8 else ["passed", "no limit", "passed"]
        assert [rung.status for rung in file.ladder] == [*expected, "passed", "passed"]
        for rung in file.ladder:
            for line in rung_lines(rung):
                assert " ".join(line.split()) in table
    assert [" ".join(line.split()) for line in rung_lines(measured.manifest.files[0].ladder[0])] == [
        f"max abs {measured.manifest.files[0].measured('max_abs'):.1e} (≤ 1e−05)"
    ]
    flips = measured.manifest.files[1].ladder[3]
    assert [" ".join(line.split()) for line in rung_lines(flips)] == [
        f"lost {words.share(flips.measured['lost'])} (≤ 0.03)",
        f"won {words.share(flips.measured['won'])}",
    ]


def test_what_was_allowed_and_what_was_left_out_says_why(changed: Page) -> None:
    table = changed.tables["files"]
    assert "! allowed Allowed to break its limits: flips: lost 0.0625 (limit: at most 0.03)" in table
    left_out = table[table.index("tflite int8") :]
    assert left_out.startswith("tflite int8 not in the bundle recipe static_wi8_ai8 – – –")
    assert "−0.042 [−0.104, +0.000] ✗ left out Why it was left out: retrieval: r_at_1_delta -0.0417: cal" in left_out
    assert changed.tables["ladder"].count("✗ failed") == 1
    assert changed.tables["ladder"].count("! allowed") == 1
    assert "1 more was asked for and left out" in changed.text


def test_runtimes_are_named_with_version_result_and_reason(varied: Manifest, changed: Page) -> None:
    table = changed.tables["runtimes"]
    for file in varied.files:
        for result in file.runtimes:
            verdict = "✓ right" if result.right else "✗ wrong"
            assert result.parity is not None
            row = f"{result.name} {result.version} {verdict} {result.parity.max_abs:.1e}"
            assert row in table
    assert table.count("✗ wrong") == 1
    assert table.count("max_abs 0.25 of this runtime") == 1


def test_layers_kept_in_float_are_marked_by_words_in_plot_and_table(varied: Manifest, changed: Page) -> None:
    file = varied.files[1]
    table = changed.tables["layers"]
    for place, layer in enumerate(file.layers):
        state = "kept in float" if place < 2 else "quantised"
        row = (
            f"{layer.name} {layer.kind} {layer.module} {layer.weights:,} {1 - layer.mean_cosine:.2g} "
            f"{layer.min_cosine:.5f} {state}"
        )
        assert " ".join(row.split()) in table
    [plot, of_left_out] = [image for image in changed.images if "kept in float" in image]
    assert of_left_out.count(", kept in float") == 1
    assert f"which did not save it, in float: {varied.blocked[0].kept_float[0]}." in changed.text
    assert plot.count(", kept in float") == 2
    assert plot.count("<pattern") >= 1  # the hatching
    for layer in file.layers[:20]:
        assert f"<!-- {layer.name} -->" in plot
    [alt] = [value for name, value in changed.attributes if name == "alt" and "Bars of" in value and "onnx" in value]
    assert alt.count("(kept in float)") == 2
    assert f"Kept in float: {file.kept_float[0]}, {file.kept_float[1]}" in changed.text


def test_no_layer_is_marked_where_none_is_kept(page: Page) -> None:
    assert "kept in float" not in page.tables["layers"]
    assert page.text.count("No layer was kept in float.") == 2
    assert not any("kept in float" in image for image in page.images)


def test_similarities_of_each_file_stand_beside_torchs(measured: Bundle, page: Page) -> None:
    [alt] = [value for name, value in page.attributes if name == "alt" and value.startswith("Similarity")]
    test = measured.manifest.retrieval
    assert test is not None
    pairs = sum(test.torch_similarities.matching)
    names = ["torch model", *(f"{file.format} {file.precision}" for file in measured.manifest.files)]
    for name in names:
        assert f"{name}: {pairs:,} matching pairs" in alt
    [plot] = [image for image in page.images if "density of pairs" in image]
    assert plot.count("stroke-dasharray: 2.7,1.8") == 2 * 4  # the torch model's outlines, behind each file's
    for threshold in measured.manifest.thresholds:
        mark = f"FAR {threshold.far:g}: ≥ {threshold.similarity:.3f}"
        assert plot.count(mark) == len(names)
        assert f"{threshold.far:g} {threshold.similarity:.4f}" in page.tables["thresholds"]


def test_provenance_is_there(measured: Bundle, page: Page) -> None:
    manifest = measured.manifest
    assert manifest.calibration is not None
    for text in (
        manifest.space.id,
        manifest.model.weights_sha256,
        manifest.preprocess.fingerprint(),
        manifest.calibration.sha256,
        "56 pictures, 8 held back",
        "CC-BY-4.0",
        "synthetic/test: 48 queries in a gallery of 48 pictures (a query never finds itself)",
        "MODEL_CARD.md",
        *(f"{tool.name} {tool.version}" for tool in manifest.provenance.tools),
    ):
        assert text in page.text


def test_without_a_retrieval_test_the_page_says_so(measured: Bundle) -> None:
    content = json.loads(measured.raw)
    content |= {"retrieval": None, "thresholds": [], "calibration": None}
    for file in content["files"]:
        file |= {"similarities": None, "layers": []}
        for rung in file["ladder"][2:]:
            rung |= {"status": "not measured", "measured": {}, "limits": {}}
    plain = Page(build_page(Manifest.model_validate_json(json.dumps(content))))
    assert "No retrieval test was given" in plain.text
    assert plain.tables["ladder"].count("– not measured") == 3 * 4
    assert plain.images == []
    assert "Similarities" not in plain.text


@pytest.mark.parametrize("wrong", [{"matching": []}, {"matching": [1]}, {"non_matching": [-1] + [0] * 79}])
def test_similarities_that_cannot_be_drawn_are_no_manifest(measured: Bundle, wrong: dict[str, list[int]]) -> None:
    content = json.loads(measured.raw)
    content["files"][0]["similarities"] |= wrong
    with pytest.raises(ValidationError, match="similarities"):
        Manifest.model_validate_json(json.dumps(content))


def test_other_bins_than_torchs_are_drawn_without_it(measured: Bundle) -> None:
    content = json.loads(measured.raw)
    content["files"][0]["similarities"] = {"matching": [0, 0, 1, 5], "non_matching": [0, 2, 9, 1]}
    drawn = Page(build_page(Manifest.model_validate_json(json.dumps(content))))
    [plot] = [image for image in drawn.images if "density of pairs" in image]
    assert plot.count("stroke-dasharray: 2.7,1.8") == 2 * 3


def test_the_page_loads_nothing_and_runs_nothing(html: str, page: Page) -> None:
    assert "http://" not in html
    assert "https://" not in html
    assert not {"script", "link", "iframe", "object", "embed", "base"} & set(page.tags)
    assert not any(name in ("href", "srcset") or name.startswith("on") for name, _ in page.attributes)
    assert "url(" not in html
    assert "@import" not in html
    for image in page.images:
        assert "<script" not in image
        assert 'href="http' not in image
    assert len([name for name, value in page.attributes if name == "alt" and value]) == page.tags.count("img") == 3
    assert len(html) < 2_000_000


def test_hostile_texts_are_escaped_everywhere(varied: Manifest) -> None:
    content: dict[str, Any] = json.loads(varied.model_dump_json())
    content["licence"] += ATTACK
    content["golden"]["source"] += ATTACK
    content["retrieval"]["data"] += ATTACK
    content["provenance"] = {
        "created_by": ATTACK,
        "hetero_version": '"><script>x</script>',
        "tools": [{"name": ATTACK, "version": ATTACK}],
    }
    content["blocked"][0]["recipe"] += ATTACK
    for entry in [*content["files"], *content["blocked"]]:
        for layer in entry["layers"]:
            layer |= {"name": layer["name"] + ATTACK + "-->$x$", "kind": ATTACK, "module": ATTACK}
    for file in content["files"]:
        file["ops"] = {ATTACK: 3}
        file["kept_float"] = [name + ATTACK + "-->$x$" for name in file["kept_float"]]
        for result in file["runtimes"]:
            result |= {"version": ATTACK, "reason": ATTACK}
    content["blocked"][0]["reason"] = ATTACK
    html = build_page(Manifest.model_validate_json(json.dumps(content)))
    assert "<script" not in html
    assert html.count("&lt;script&gt;") > 40
    page = Page(html)
    assert "script" not in page.tags
    assert not any(name.startswith("on") for name, _ in page.attributes)
    for image in page.images:
        assert "<script" not in image


def test_the_same_manifest_gives_the_same_bytes(measured: Bundle, html: str, tmp_path: Path) -> None:
    written = write_page(measured, tmp_path / "page.html")
    assert written.read_bytes() == html.encode("utf-8")
    assert write_page(open_bundle(measured.path), tmp_path / "again.html").read_bytes() == html.encode("utf-8")


def test_the_page_goes_beside_the_bundle_never_into_it(measured: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    assert page_path(measured.path) == measured.path.parent / "shown.hetero.html"
    monkeypatch.chdir(measured.path)
    assert page_path(Path()) == measured.path.resolve().parent / "shown.hetero.html"
    for inside in (measured.path / "page.html", Path("golden/page.html")):
        with pytest.raises(ConfigError, match=r"cannot lie in the bundle.*shown\.hetero\.html"):
            write_page(measured, inside)
    assert verify(measured.path).passed


@pytest.mark.parametrize("package", ["jinja2", "matplotlib"])
def test_a_missing_extra_is_named(
    measured: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    if package == "matplotlib":
        monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=rf"{package}.*pip install 'hetero\[report\]'"):
        write_page(measured, tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_numbers_and_sizes_in_words() -> None:
    assert [size_words(size) for size in (1, 1023, 1024, 20_000, 1_048_576, 5_000_000, 2_000_000_000)] == [
        *("1 B", "1023 B", "1 KiB", "19.5 KiB", "1 MiB", "4.77 MiB", "1,907 MiB"),
    ]
    assert number_words("max_abs", 1.23e-7) == "1.2e-07"
    assert number_words("mean_cosine", 0.987654) == "0.98765"
    assert number_words("true_accept_delta", -0.0208) == "−0.021"
    assert number_words("false_accept_ratio", 1.0417) == "1.04"
    assert number_words("lost", 0.0021) == "0.0021"


def test_layers_beyond_twenty_are_in_the_table_only(varied: Manifest) -> None:
    content = json.loads(varied.model_dump_json())
    first = content["files"][1]["layers"][0]
    content["files"][1]["layers"] = [first | {"name": f"layer{place}", "mean_cosine": 0.9} for place in range(30)]
    page = Page(build_page(Manifest.model_validate_json(json.dumps(content))))
    plot = page.images[0]
    assert "<!-- layer19 -->" in plot
    assert "<!-- layer20 -->" not in plot
    assert "layer29" in page.tables["layers"]
    assert "The worst 20 of 30 layers" in page.text
