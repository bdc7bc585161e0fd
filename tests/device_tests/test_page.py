"""The page of a device check says what its report says, to someone who has not seen one before; it loads nothing."""

from __future__ import annotations

import base64
import io
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from device_tests.judge import overall
from device_tests.page import DRAWN, build_page, verdict_sentence, write_page
from device_tests.result import DelegateRecord
from device_tests.schema import (
    CellRecord,
    DeviceRecord,
    DeviceReport,
    Flip,
    Golden,
    Interval,
    LatencyRecord,
    Measured,
    Metric,
    Search,
    ThresholdCheck,
)
from device_tests.words import delegate_words
from hetero.errors import MissingExtraError

ATTACK = "<script>alert('x')</script>\"><img src=x onerror=alert(1)>"
CAVEAT = (
    "emulated arm64 Linux device reached over real adb: no bionic, no ART, no am, no pm; its speed says nothing "
    "about a phone's"
)
VOID = {"meta", "img", "br", "image"}


class Page(HTMLParser):
    """Tags, attributes, the visible text, and the text of each table by its id; refuses tags that do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.tables: dict[str, str] = {}
        self.text, self.style, self._table = "", "", ""
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []
        self.text = " ".join(self.text.split())
        self.tables = {name: " ".join(part.split()) for name, part in self.tables.items()}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self._table = dict(attrs)["id"] or ""
        self.handle_data(" ")  # cells stand apart

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag
        if tag == "table":
            self._table = ""

    def handle_data(self, data: str) -> None:
        if "style" in self.open:
            self.style += data
            return
        self.text += data
        if self._table:
            self.tables[self._table] = self.tables.get(self._table, "") + data

    @property
    def drawings(self) -> list[str]:
        """The alternative texts of the flips' pictures."""
        return [value for name, value in self.attributes if name == "aria-label"]


def metric(device: float, other: float) -> Metric:
    difference = device - other
    return Metric(
        device=device, other=other, difference=Interval(value=difference, low=difference - 0.01, high=difference + 0.02)
    )


def search(device: float, other: float) -> Search:
    return Search(r_at_1=metric(device, other), r_at_5=metric(device, other), map_at_r=metric(device, other))


def flip(number: int, *, host_right: bool, device_right: bool) -> Flip:
    return Flip(
        query=f"query/{number}.png",
        number=number,
        host=f"gallery/{number}.png",
        device=f"gallery/{number + 1}.png",
        host_right=host_right,
        device_right=device_right,
        cosine=0.98765,
    )


def measured(**changes: Any) -> Measured:
    return Measured(
        **{
            "queries": 200,
            "min_cosine": 0.991234,
            "mean_cosine": 0.999,
            "same_top": 0.975,
            "host_runtime": "onnxruntime 1.20.1",
            "host": search(0.895, 0.9),
            "paragon": search(0.895, 0.953),
            "no_paragon": None,
            "chance_r_at_1": 0.001,
            "r_at_1": Interval(value=0.895, low=0.85, high=0.93),
            "flips": (),
            "lost": 0,
            "won": 0,
            "mcnemar_p": 1.0,
            "golden": Golden(max_abs=0.0012, limit=0.002, min_cosine=0.99991, host_max_abs=0.0004),
            "thresholds": (
                ThresholdCheck(
                    false_accept_rate=0.001,
                    similarity=0.61234,
                    device_true_accepts=0.801,
                    host_true_accepts=0.802,
                    recorded_true_accepts=0.803,
                    device_false_accepts=0.00101,
                    host_false_accepts=0.00102,
                    genuine_pairs=1900,
                    impostor_pairs=198_000,
                ),
            ),
            **changes,
        }
    )


def timed(*, quoted: bool, fastest: float = 4.0) -> LatencyRecord:
    each = tuple(fastest + place % 17 / 10 for place in range(208))
    return LatencyRecord(
        mean=fastest + 0.79,
        median=fastest + 0.8,
        p90=fastest + 1.5,
        p99=fastest + 1.6,
        each=each,
        load=12.345,
        quoted=quoted,
    )


def cell(**changes: Any) -> CellRecord:
    return CellRecord(
        **{
            "device": "phone-1",
            "format": "tflite",
            "precision": "int8",
            "path": "tflite/model.int8.tflite",
            "runtime": "ai-edge-litert",
            "runtime_version": "2.0.3",
            "delegate_asked": "auto",
            "delegate": DelegateRecord(asked="auto", name="XNNPACK", nodes_taken=27, nodes=28),
            "status": "passed",
            "reasons": (),
            "resumed": False,
            "measured": measured(),
            "latency_ms": timed(quoted=True),
            "threads": 4,
            "peak_rss_bytes": 123 << 20,
            "temperature_c": (31.04, 33.56),
            "battery_percent": 87.4,
            **changes,
        }
    )


def idle(status: str, reason: str, **changes: Any) -> CellRecord:
    nothing = {"runtime_version": None, "delegate": None, "measured": None, "latency_ms": None, "threads": 0}
    unknown = {"peak_rss_bytes": None, "temperature_c": (None, None), "battery_percent": None}
    return cell(**{"status": status, "reasons": (reason,), **nothing, **unknown, **changes})


def device(name: str = "phone-1", **changes: Any) -> DeviceRecord:
    return DeviceRecord(
        **{
            "name": name,
            "kind": "android-physical",
            "abi": "aarch64",
            "model": "Maker Model 8",
            "system": "Android 14, API 34",
            "error": None,
            "leftovers": (),
            **changes,
        }
    )


def emulator() -> DeviceRecord:
    return device("emulator", kind="linux-arm64-emulated", model="QEMU virt", system="Linux 6.12.117")


def report(*cells: CellRecord, devices: tuple[DeviceRecord, ...] = (), **changes: Any) -> DeviceReport:
    return DeviceReport(
        **{
            "bundle": "runs/small.hetero",
            "bundle_sha256": "ab" * 32,
            "space_id": "glyphs-large-v1",
            "gallery": "runs/gallery",
            "gallery_model_sha256": "cd" * 32,
            "data": "omniglot/test",
            "queries": 200,
            "queries_in_gallery": 0,
            "gallery_size": 13_180,
            "hetero_version": "0.1.0",
            "host": "Linux x86_64",
            "verdict": overall(cells),
            "devices": devices or (device(),),
            "cells": cells,
            **changes,
        }
    )


def flipping() -> CellRecord:
    """Two lost, one won, two that changed nothing."""
    flips = (
        flip(3, host_right=True, device_right=True),
        flip(10, host_right=True, device_right=False),
        flip(20, host_right=False, device_right=True),
        flip(30, host_right=True, device_right=False),
        flip(40, host_right=False, device_right=False),
    )
    return cell(measured=measured(flips=flips, lost=2, won=1, mcnemar_p=0.6251))


def pictures(*names: str, side: int = 28) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {name: rng.integers(0, 256, (side, side, 3), dtype=np.uint8) for name in names}


def mixed() -> DeviceReport:
    """A passed, a failed and a cell that was not run, on a phone and an emulated device, and a phone that is lost."""
    return report(
        flipping(),
        cell(
            format="onnx",
            precision="fp16",
            runtime="onnxruntime",
            runtime_version="1.20.1",
            delegate_asked="none",
            delegate=DelegateRecord(asked="none", name=None, nodes_taken=0, nodes=None),
            status="failed",
            reasons=(
                "smallest cosine to the host's embedding 0.912345 (at least 0.999)",
                "93.0% of the queries find the same first match (at least 98%)",
            ),
            latency_ms=timed(quoted=True, fastest=11.0),
        ),
        cell(device="emulator", latency_ms=timed(quoted=False, fastest=777.0), resumed=True),
        idle("not run", "tflite-runtime has no wheel", device="emulator", runtime="tflite-runtime"),
        idle("failed", "phone-2 is offline", device="phone-2"),
        devices=(
            device(leftovers=("/data/local/tmp/hetero-1: rm exited with 1",)),
            emulator(),
            device("phone-2", kind=None, abi=None, model=None, system=None, error="phone-2 is offline; plug it in"),
        ),
        queries_in_gallery=120,
    )


@pytest.fixture(scope="module")
def html() -> str:
    return build_page(mixed(), pictures("query/10.png", "gallery/10.png", "gallery/11.png"))


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def test_the_verdict_is_one_sentence_with_the_number_of_cells_and_devices(page: Page) -> None:
    assert (
        "✗ Failed: 2 of 5 cells on 3 devices failed, 2 passed and 1 was not run. 1 device could not be used."
        in page.text
    )
    assert verdict_sentence(report(cell())) == "Passed: 1 of 1 cell on 1 device passed."
    skipped = report(cell(), idle("not run", "no wheel"))
    assert verdict_sentence(skipped) == "Passed: 1 of 2 cells on 1 device passed and 1 was not run."
    nothing = report(idle("not run", "no wheel"), idle("not run", "no wheel"))
    assert verdict_sentence(nothing) == (
        "Failed: none of 2 cells on 1 device failed, but 1 device ran nothing: 2 were not run."
    )


def test_a_check_that_only_timed_is_neither_passed_nor_failed() -> None:
    bench = {"mean": 6.789, "median": None, "p90": None, "p99": None, "each": (), "load": 33.3}
    one = idle("latency only", "a benchmark tool gives no embeddings", latency_ms=LatencyRecord(**bench, quoted=True))
    page = Page(build_page(report(one, one, idle("not run", "it runs TFLite files")), {}))
    assert "– Not judged: 2 of 3 cells on 1 device were timed only and 1 was not run." in page.text
    assert "0 of 3 cells passed, 2 latency only, 1 not run" in page.text
    assert "– latency only – asked: auto – – –" in page.tables["matrix"]
    assert "Why only its latency is known: a benchmark tool gives no embeddings" in page.tables["matrix"]
    assert "phone-1 – latency only tflite int8 ai-edge-litert 6.79 – – – 33.3 – –" in page.tables["latency"]
    assert "img" not in page.tags  # there is no distribution
    assert "✓" not in page.text


def test_the_head_says_what_was_checked_and_that_a_query_never_finds_itself(page: Page) -> None:
    for text in (
        "runs/small.hetero",
        "runs/gallery, 13,180 pictures embedded by the gallery model",
        "omniglot/test",
        "120 of the 200 queries are themselves in the gallery; such a query never finds itself",
        "ab" * 32,
        "cd" * 32,
        "glyphs-large-v1",
    ):
        assert text in page.text
    assert "no query is in the gallery by its name" in Page(build_page(report(cell()), {})).text


def test_each_cell_is_a_row_of_the_matrix_with_its_numbers_and_reasons(page: Page) -> None:
    table = page.tables["matrix"]
    assert (
        "tflite int8 ai-edge-litert 2.0.3 ✓ passed XNNPACK took 27 of 28 nodes asked: auto "
        "0.895 [0.850, 0.930] −0.0050 [−0.015, +0.015] 0.953 0.975 0.99123 2 / 1 p 0.63"
    ) in table
    assert "onnx fp16 onnxruntime 1.20.1 ✗ failed none asked: none" in table
    assert "Why it failed: smallest cosine to the host's embedding 0.912345 (at least 0.999)" in table
    assert "Why it failed: 93.0% of the queries find the same first match (at least 98%)" in table
    assert "– not run – asked: auto – – – – – – Why it was not run: tflite-runtime has no wheel" in table
    assert "phone-2 not known: it was never reached tflite int8 ai-edge-litert ✗ failed – asked: auto – – –" in table
    assert "Why it failed: phone-2 is offline" in table
    assert table.count("from an earlier run") == 1
    assert "by chance it would be 0.0010." in page.text
    places = [table.index(text) for text in ("phone-1", "✗ failed", "emulator", "– not run", "phone-2")]
    assert places == sorted(places)


def test_a_paragon_that_is_not_known_says_why_once() -> None:
    without = measured(paragon=None, no_paragon="the queries are not in the gallery")
    page = Page(build_page(report(cell(measured=without), cell(measured=without, precision="fp16")), {}))
    assert page.tables["matrix"].count("– see below") == 2
    assert page.text.count("R@1 of the paragon is not known: the queries are not in the gallery.") == 1


def test_golden_embeddings_and_thresholds_stand_beside_the_hosts(page: Page) -> None:
    assert (
        "phone-1 tflite int8 ai-edge-litert 2.0.3, XNNPACK ✓ yes 1.2e-03 2.0e-03 0.99991 4.0e-04"
        in (page.tables["golden"])
    )
    assert "0.001 0.6123 0.801 0.802 0.803 0.00101 0.00102" in page.tables["thresholds"]
    assert "198,000" in page.text
    off = measured(golden=Golden(max_abs=0.5, limit=0.002, min_cosine=-0.2, host_max_abs=None), thresholds=())
    other = Page(build_page(report(cell(measured=off)), {}))
    assert "✗ no 5.0e-01 2.0e-03 −0.20000 –" in other.tables["golden"]
    assert "The bundle has no calibrated similarities." in other.text
    assert "thresholds" not in other.tables


def test_an_emulated_device_is_called_one_and_a_phone_is_not(page: Page) -> None:
    assert f"emulator: {CAVEAT}." in page.text
    assert "emulated arm64 Linux device, not a phone" in page.tables["devices"]
    phone = Page(build_page(report(cell()), {})).text
    assert CAVEAT not in phone
    assert "bionic" not in phone.lower()
    assert (
        "emulator Android emulator aarch64"
        in Page(
            build_page(report(cell(device="emulator"), devices=(device("emulator", kind="android-emulator"),)), {})
        ).tables["devices"]
    )


def test_devices_say_what_they_are_what_went_wrong_and_what_is_left_on_them(page: Page) -> None:
    table = page.tables["devices"]
    assert "phone-1 physical Android phone aarch64 Maker Model 8 Android 14, API 34" in table
    assert "! Still on the device: /data/local/tmp/hetero-1: rm exited with 1" in table
    assert "phone-2 not known: it was never reached – – – ✗ Why it could not be used: phone-2 is offline; plug" in table


def test_latency_is_shown_of_phones_only(page: Page) -> None:
    table = page.tables["latency"]
    assert "phone-1 tflite int8 ai-edge-litert 2.0.3, XNNPACK 4.79 4.80 5.50 5.60 12.3 4 123 31.0 → 33.6 87 %" in table
    assert "emulator" not in table
    assert "777" not in page.text
    [alt] = [value for name, value in page.attributes if name == "alt"]
    assert alt == (
        "Distributions of latency. phone-1, tflite int8, ai-edge-litert: median 4.8 ms, p90 5.5 ms, p99 5.6 ms; "
        "phone-1, onnx fp16, onnxruntime, none: median 11.8 ms, p90 12.5 ms, p99 12.6 ms."
    )


def test_without_a_phone_the_page_says_why_there_is_no_latency() -> None:
    emulated = cell(device="emulator", latency_ms=timed(quoted=False, fastest=777.0))
    page = Page(build_page(report(emulated, devices=(emulator(),)), {}))
    assert "Latency is quoted from physical phones only" in page.text
    assert "latency" not in page.tables
    assert "img" not in page.tags
    assert "777" not in page.text


def test_latencies_that_are_far_apart_or_not_known_are_drawn() -> None:
    nothing = LatencyRecord(mean=0.0, median=0.0, p90=0.0, p99=0.0, each=(), load=None, quoted=True)
    cells = [cell(latency_ms=timed(quoted=True, fastest=fastest)) for fastest in (0.4, 90.0)]
    bare = cell(latency_ms=nothing, threads=0, peak_rss_bytes=None, temperature_c=(None, 30.0), battery_percent=None)
    page = Page(build_page(report(*cells, bare), {}))
    assert "XNNPACK 0.00 0.00 0.00 0.00 – – – – → 30.0 –" in page.tables["latency"]
    many = Page(build_page(report(*cells * 12), {}))
    assert "The first 20 of 24 cells." in many.text
    assert many.tables["latency"].count("phone-1") == 24


def test_lost_matches_are_drawn_first_then_won_ones_then_those_that_changed_nothing(page: Page) -> None:
    text = page.text[page.text.index("Flipped queries") :]
    assert "5 of 200 queries have another first match: 2 lost, 1 won" in text
    places = [
        text.index(part)
        for part in (
            *("Lost: right on the host only", "query/10.png", "query/30.png"),
            *("Won: right on the device only", "query/20.png"),
            *("as right or wrong as before", "query/3.png", "query/40.png"),
        )
    ]
    assert places == sorted(places)
    assert "Query 10 cosine 0.98765 query/10.png" in text
    lost = text[text.index("query/10.png") : text.index("query/30.png")]
    assert "Host ✓ right gallery/10.png" in lost
    assert "Device ✗ wrong gallery/11.png" in lost


def test_pictures_are_embedded_once_and_a_missing_one_leaves_its_name(html: str, page: Page) -> None:
    assert page.drawings == [
        "query query/10.png",
        "found by the host: gallery/10.png",
        "found by the device: gallery/11.png",
    ]
    assert page.text.count("no picture") == 3 * 4
    given = pictures("query/10.png", "gallery/10.png", "gallery/11.png")
    shown = re.findall(r'href="data:image/png;base64,([^"]+)"', html)
    for name, text in zip(given, shown, strict=True):
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(text)))), given[name])
    assert html.count('class="pixels"') == 3  # 28 px are enlarged as they are
    uses = [value for name, value in page.attributes if name == "href" and value.startswith("#")]
    ids = [f"#{value}" for name, value in page.attributes if name == "id" and value.startswith("picture")]
    assert uses == ids == ["#picture-0", "#picture-1", "#picture-2"]
    twice = build_page(report(flipping(), flipping()), given)
    assert twice.count("data:image/png") == 3
    assert len(Page(twice).drawings) == 6
    numbers = [value for name, value in Page(twice).attributes if name == "id" and value.startswith("picture")]
    assert numbers == ["picture-0", "picture-1", "picture-2"]


def test_large_and_grey_pictures_are_drawn_smoothly() -> None:
    given = {"query/10.png": np.zeros((400, 200, 1), np.uint8), "gallery/10.png": np.zeros((100, 90), np.uint8)}
    html = build_page(report(flipping()), given)
    assert 'class="pixels"' not in html
    assert html.count("data:image/png") == 2
    assert 'viewBox="0 0 200 400"' in html


def test_of_many_flips_sixty_are_drawn_and_the_rest_is_counted() -> None:
    flips = [flip(number, host_right=True, device_right=True) for number in range(0, 150, 2)]
    flips += [flip(199, host_right=True, device_right=False)]
    one = cell(measured=measured(flips=tuple(flips), lost=1, won=0))
    names = {name for each in flips for name in (each.query, each.host, each.device)}
    page = Page(build_page(report(one), pictures(*names)))
    assert DRAWN == 60
    assert len(page.drawings) == 3 * 60
    assert "60 are drawn; 16 more are in result.json." in page.text
    assert "query/199.png" in page.text
    assert "query/116.png" in page.text
    assert "query/118.png" not in page.text


def test_won_matches_beyond_the_sixtieth_are_counted_too() -> None:
    flips = [flip(number, host_right=True, device_right=False) for number in range(0, 80, 2)]
    flips += [flip(number, host_right=False, device_right=True) for number in range(100, 180, 2)]
    one = cell(measured=measured(flips=tuple(flips), lost=40, won=40))
    page = Page(build_page(report(one), {}))
    assert page.text.count("no picture") == 3 * 60
    assert "60 are drawn; 20 more are in result.json." in page.text


def test_no_flips_are_said_to_be_none() -> None:
    page = Page(build_page(report(cell()), pictures("query/10.png")))
    assert "None: in every cell that ran, each query finds the same gallery picture first" in page.text
    assert "symbol" not in page.tags


def test_a_check_in_which_nothing_ran_is_still_a_page() -> None:
    cells = [idle("not run", f"no runtime {place}") for place in range(3)]
    page = Page(build_page(report(*cells), {}))
    assert "Failed: none of 3 cells on 1 device failed, but 1 device ran nothing: 3 were not run." in page.text
    assert page.tables["matrix"].count("– not run") == 3
    assert "Why it was not run: no runtime 2" in page.tables["matrix"]
    assert page.text.count("No cell gave embeddings that could be compared") == 2
    assert set(page.tables) == {"matrix", "devices"}
    assert "Not judged: there was no cell to run." in Page(build_page(report(), {})).text


def test_a_cell_with_embeddings_and_no_host_to_compare_with_is_a_failure_with_its_reason() -> None:
    alone = cell(status="failed", reasons=("the same file does not run on the host: no runtime",), measured=None)
    page = Page(build_page(report(alone), {}))
    assert "XNNPACK took 27 of 28 nodes asked: auto – – – – – – Why it failed: the same file" in page.tables["matrix"]
    assert "latency" in page.tables


def test_the_page_loads_nothing_and_runs_nothing(html: str, page: Page) -> None:
    assert "http" not in html
    assert "url(" not in html
    assert "@import" not in html
    assert not {"script", "link", "iframe", "object", "embed", "base", "form"} & set(page.tags)
    for name, value in page.attributes:
        assert not name.startswith("on")
        assert name != "srcset"
        if name == "src":
            assert value.startswith("data:image/svg+xml;base64,")
        if name == "href":
            assert value.startswith(("data:image/png;base64,", "#picture-"))
    assert len(html) < 300_000


def test_hostile_texts_are_escaped_everywhere() -> None:
    hostile = Flip(
        query=ATTACK, number=0, host=ATTACK + "1", device=ATTACK + "2", host_right=True, device_right=False, cosine=0.5
    )
    changes = {"device": ATTACK, "format": ATTACK, "precision": ATTACK, "path": ATTACK, "runtime": ATTACK}
    name = DelegateRecord(asked="auto", name=ATTACK, nodes_taken=1, nodes=None)
    found = measured(flips=(hostile,), lost=1, host_runtime=ATTACK, paragon=None, no_paragon=ATTACK)
    html = build_page(
        report(
            cell(**changes, measured=found, runtime_version=ATTACK, delegate=name, status="failed", reasons=(ATTACK,)),
            devices=(
                device(ATTACK, kind="linux-arm64-emulated", model=ATTACK, system=ATTACK, abi=ATTACK, error=ATTACK),
                device("left", leftovers=(ATTACK,)),
            ),
            bundle=ATTACK,
            gallery=ATTACK,
            data=ATTACK,
            space_id=ATTACK,
            bundle_sha256=ATTACK,
            gallery_model_sha256=ATTACK,
            hetero_version=ATTACK,
            host=ATTACK,
        ),
        pictures(ATTACK, ATTACK + "1"),
    )
    assert "<script" not in html
    assert "<img src=x" not in html
    assert html.count("&lt;script&gt;") > 30
    page = Page(html)
    assert page.tags.count("img") == 1  # the plot of latencies
    assert not any(name.startswith("on") for name, _ in page.attributes)
    assert page.drawings == [f"query {ATTACK}", f"found by the host: {ATTACK}1"]


def test_equal_reports_give_equal_pages_written_in_one_step(html: str, tmp_path: Path) -> None:
    given = pictures("query/10.png", "gallery/10.png", "gallery/11.png")
    written = write_page(mixed(), given, tmp_path / "page.html")
    assert written == tmp_path / "page.html"
    assert written.read_text(encoding="utf-8") == html
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


def test_a_missing_extra_is_named_and_matplotlib_is_needed_for_latencies_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    path = tmp_path / "page.html"
    with pytest.raises(MissingExtraError, match=r"matplotlib.*pip install 'hetero\[report\]'"):
        write_page(report(cell()), {}, path)
    assert not path.exists()
    write_page(report(cell(latency_ms=None)), {}, path)
    assert path.is_file()
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(MissingExtraError, match=r"jinja2.*pip install 'hetero\[report\]'"):
        write_page(report(cell(latency_ms=None)), {}, tmp_path / "other.html")


def test_delegates_in_words() -> None:
    asked: dict[str, Any] = {"asked": "auto"}
    assert delegate_words(None) == "–"
    assert delegate_words(DelegateRecord(**asked, name=None, nodes_taken=0, nodes=5)) == "none"
    assert delegate_words(DelegateRecord(**asked, name="XNNPACK", nodes_taken=27, nodes=28)) == (
        "XNNPACK took 27 of 28 nodes"
    )
    assert delegate_words(DelegateRecord(**asked, name="NNAPI", nodes_taken=3, nodes=None)) == "NNAPI took 3 nodes"
    assert delegate_words(DelegateRecord(**asked, name="GPU", nodes_taken=None, nodes=None)) == "GPU, nodes not known"
