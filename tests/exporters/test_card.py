"""The model card: what a reader needs, the measured numbers, no markup from a hostile manifest; in every bundle."""

from __future__ import annotations

import json
from typing import Any

import pytest

from exporters import Bundle, verify
from exporters.card import CARD, difference_words, escaped, model_card, preprocessing_words
from exporters.manifest import Manifest, entry_of
from hetero.preprocess import PreprocessSpec


@pytest.fixture(scope="module")
def card(measured: Bundle) -> str:
    return model_card(measured.manifest)


def test_the_bundle_holds_the_card_of_its_manifest(measured: Bundle) -> None:
    [entry] = measured.manifest.documents
    data = measured.read(CARD)
    assert entry == entry_of(CARD, data)
    assert data.decode("utf-8") == model_card(measured.manifest.model_copy(update={"documents": ()}))
    assert data.decode("utf-8") == model_card(measured.manifest)
    assert verify(measured.path).passed


def test_the_card_has_every_file_with_its_numbers(measured: Bundle, card: str) -> None:
    table = card[card.index("## Files") : card.index("## Retrieval test")]
    for file in measured.manifest.files:
        delta = tuple(file.measured(f"r_at_1_{end}") for end in ("delta", "low", "high"))
        [line] = [line for line in table.splitlines() if f"`{file.path}`" in line]
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert cells == [
            f"`{file.path}`",
            f"{file.size_bytes:,}",
            f"{file.content.int8_layers} of {file.content.layers}" if file.precision == "int8" else "–",
            f"{file.measured('max_abs'):.1e}",
            f"{file.measured('min_cosine'):.5f}",
            difference_words(delta),  # type: ignore[arg-type]
            ", ".join(f"{result.name} {result.version}" for result in file.runtimes if result.right),
            "undecided" if file.precision == "int8" else "passed",
        ]
    assert "more queries would tell" in table


def test_the_card_says_what_a_user_must_know(measured: Bundle, card: str) -> None:
    manifest = measured.manifest
    for text in (
        "# shown\n",
        "## Intended use",
        f"`{manifest.space.id}`, no others",
        "Licence of the weights: CC-BY-4.0.",
        "one picture of 16 × 12 pixels (height × width), 3 channels in the order red, green, blue",
        "an embedding of 12 numbers",
        "| `onnx/model.fp32.onnx` | the bytes as they are, uint8, NHWC | any | float32, unit length |",
        "| `tflite/model.int8.tflite` | the bytes as float32 numbers 0..255,",
        "Data: synthetic/test, 48 queries in a gallery of 48. The torch model reaches R@1 ",
        "MediaPipe resizes its own way: give it pictures already at the model's size",
        "calibrated on 56 pictures",
        manifest.model.weights_sha256,
        manifest.preprocess.fingerprint(),
    ):
        assert text in card
    for threshold in manifest.thresholds:
        assert f"| {threshold.far:g} | {threshold.similarity:.4f} |" in card
    assert "dequantise" not in card
    assert "Core ML" not in card


def test_the_card_tells_what_was_allowed_left_out_or_kept_in_float(varied: Manifest) -> None:
    card = model_card(varied)
    assert "- onnx int8 was allowed to break its limits: flips: lost 0.0625 (limit: at most 0.03)" in card
    assert r"- tflite int8 (recipe static\_wi8\_ai8) was left out: retrieval: r\_at\_1\_delta -0.0417: cal" in card
    kept = ", ".join(varied.files[1].kept_float).replace("_", r"\_")
    assert f"- onnx int8 keeps in float, found in 1 tries: {kept}" in card
    [line] = [line for line in card.splitlines() if "| `tflite/model.fp32.tflite` | 3" in line]
    wrong = varied.files[2].runtimes[-1]
    assert not wrong.right
    assert wrong.name not in line


def test_an_int8_output_is_to_be_dequantised_and_normalised(measured: Bundle) -> None:
    content = json.loads(measured.raw)
    file = content["files"][3]
    file |= {"precision": "int8io", "recipe": "static_wi8_ai8_ioi8"}
    file |= {"output": {"dtype": "int8", "scale": 0.0078125, "zero_point": -3}}
    file["input"] |= {"dtype": "int8"}
    card = model_card(Manifest.model_validate_json(json.dumps(content)))
    assert "| the bytes less 128, int8, NHWC | one picture | int8: dequantise as 0.0078125 · (q − -3), then" in card
    assert "must be dequantised, then normalised to unit length" in card


def test_without_a_retrieval_test_nothing_is_claimed(measured: Bundle) -> None:
    content = json.loads(measured.raw)
    content |= {"retrieval": None, "thresholds": [], "calibration": None, "licence": "NOASSERTION"}
    for file in content["files"]:
        for rung in file["ladder"][2:]:
            rung |= {"status": "not measured", "measured": {}, "limits": {}}
    card = model_card(Manifest.model_validate_json(json.dumps(content)))
    assert "whether the files still find what the torch model finds was not measured" in card
    assert card.count("| not measured |") == 4
    assert "NOASSERTION (nothing was stated)" in card
    assert "thresholds" not in card
    assert "calibrated on" not in card


def test_hostile_texts_stay_text(varied: Manifest) -> None:
    attack = "x\n\n# Heading\n| a | b |\n<script>y</script> [l](http://h) ![i](//h) `c` **b** $m$ www.h.org"
    content: dict[str, Any] = json.loads(varied.model_dump_json())
    content |= {"licence": attack}
    content["golden"]["source"] = attack
    content["retrieval"]["data"] = attack
    content["provenance"] = {
        "created_by": attack,
        "hetero_version": attack,
        "tools": [{"name": attack, "version": attack}],
    }
    for file in content["files"]:
        file["kept_float"] = [attack]
        for result in file["runtimes"]:
            result["version"] = attack
    content["blocked"][0] |= {"reason": attack, "recipe": attack}
    hostile, plain = model_card(Manifest.model_validate_json(json.dumps(content))), model_card(varied)
    for start in ("#", "|", "- "):
        lines = [[line for line in text.splitlines() if line.startswith(start)] for text in (hostile, plain)]
        more = 2 if start == "- " else 0  # each file keeps something in float now
        assert len(lines[0]) == len(lines[1]) + more
    bare = hostile
    for letter in "<>[]`*|$!#:.":
        bare = bare.replace("\\" + letter, "")
    for markup in ("<script", "[l]", "](", "`c`", "**", "$m", "://", "![", "www.", "# Heading"):
        assert markup not in bare
    assert hostile.count(r"\<script\>y\</script\>") >= 10
    columns = {line.replace(r"\|", "").count("|") for line in hostile.splitlines() if line.startswith("| `tflite")}
    assert columns == {9, 5}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain text-1.0", "plain text-1.0"),
        ("a_b|c", r"a\_b\|c"),
        ("back\\slash", "back\\\\slash"),
        ("two\nlines\tone\u202e", "two lines one"),
        ("&lt;", r"\&lt;"),
        ("https://h", r"https\://h"),
        ("WWW.h", r"WWW\.h"),
    ],
)
def test_escaping(text: str, expected: str) -> None:
    assert escaped(text) == expected


def test_preprocessing_in_words_follows_the_spec() -> None:
    told = preprocessing_words(
        PreprocessSpec(height=24, width=32, channels=1, resize="pad", filter="lanczos", background=(9, 8, 7))
    )
    assert "put on the background (9, 8, 7)" in told
    assert "its longer side fits 24 × 32 (height × width), and the rest filled" in told
    assert "with the lanczos filter" in told
    assert "turned to grey" in told
    cropped = preprocessing_words(PreprocessSpec(height=24, width=32, resize="center_crop"))
    assert "shorter side fits 24 × 32" in cropped
    assert "grey" not in cropped
