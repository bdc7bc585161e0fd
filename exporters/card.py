"""The model card that goes into a bundle: what the model is for, what it takes, and what was measured, as Markdown."""

from __future__ import annotations

import re

from exporters.manifest import Manifest, ModelFile
from exporters.summary import FileRow, file_rows, reference_only
from hetero.preprocess import PreprocessSpec
from hetero.report import words

CARD = "MODEL_CARD.md"
_MARKUP = re.compile(r"[\\`*_{}\[\]<>#|~&!@$]|:(?=/)|(?<=\bwww)\.", re.IGNORECASE)  # the last two: bare addresses
_RESIZE = {
    "squash": "resized to {height} × {width} (height × width) without regard to its aspect ratio",
    "center_crop": "resized so that its shorter side fits {height} × {width} (height × width), and its centre cut out",
    "pad": "resized so that its longer side fits {height} × {width} (height × width), and the rest filled with the "
    "background colour",
}
_TAKES = {
    "uint8": "the bytes as they are, uint8",
    "float32": "the bytes as float32 numbers 0..255, neither divided by 255 nor normalised",
    "int8": "the bytes less 128, int8",
    "image": "a pixel buffer or picture of the platform's (32BGRA; OneComponent8 where there is one channel)",
}


def _taken(file: ModelFile) -> str:
    """How a file takes a picture; a picture of the platform's has no layout of ours."""
    taken = _TAKES[file.input.dtype]
    return taken if file.input.dtype == "image" else f"{taken}, {file.input.layout}"


def model_card(manifest: Manifest) -> str:
    """A bundle's model card, from its manifest alone.

    Every text of the manifest is escaped: none of it can become a heading, a link, HTML or another column. The card
    in a bundle is that of its manifest with no ``documents``: a card cannot hold its own hash.
    """
    parts = [
        f"# {escaped(manifest.name)}",
        *_use(manifest),
        *_input(manifest),
        *_files(manifest),
        *_test(manifest),
        *_limits(manifest),
        *_made(manifest),
    ]
    return "\n\n".join(parts) + "\n"


def escaped(text: str) -> str:
    """``text`` inside a line of Markdown or a cell of a table, standing for nothing but itself."""
    line = "".join(letter for letter in " ".join(text.split()) if letter.isprintable())
    return _MARKUP.sub(r"\\\g<0>", line)


def _use(manifest: Manifest) -> list[str]:
    space = manifest.space
    return [
        "A query model for visual search: it embeds a picture on the device, and its embedding searches a gallery that "
        "a larger model has embedded before.",
        "## Intended use",
        f"- Search galleries of the embedding space `{space.id}`, no others: across spaces similarities mean nothing.\n"
        f"- Compare by {space.metric} similarity, which is the dot product, for embeddings have unit length.\n"
        "- Measure on pictures of your own kind before you rely on it: the numbers below hold for the pictures they "
        "were measured on.",
        f"Licence of the weights: {escaped(manifest.licence)}"
        + (" (nothing was stated)." if manifest.licence == "NOASSERTION" else "."),
    ]


def _input(manifest: Manifest) -> list[str]:
    spec = manifest.preprocess
    colours = "3 channels in the order red, green, blue" if spec.channels == 3 else "1 channel, grey"
    lines = [
        f"Input: one picture of {spec.height} × {spec.width} pixels (height × width), {colours}, 8 bits each. Output: "
        f"an embedding of {manifest.output.dim} numbers. Colour normalisation is inside the files: do not apply mean "
        "and standard deviation yourself.",
        "| File | Takes | Batch | Gives |\n|---|---|---|---|\n"
        + "\n".join(
            f"| `{file.path}` | {_taken(file)} | "
            f"{'any' if file.input.batch == 'free' else 'one picture'} | {_gives(file)} |"
            for file in manifest.files
        ),
        "## Preprocessing",
        preprocessing_words(spec),
    ]
    return ["## Input and output", *lines]


def preprocessing_words(spec: PreprocessSpec) -> str:
    """What happens to a picture before the model sees it, in sentences."""
    background = ", ".join(map(str, spec.background))
    resized = _RESIZE[spec.resize].format(height=spec.height, width=spec.width)
    grey = " It is turned to grey." if spec.channels == 1 else ""
    return (
        f"The picture is decoded, turned upright by its EXIF orientation, put on the background ({background}) where "
        f"it is transparent, {resized}, with the {spec.filter} filter, antialiased when it shrinks, and brought to "
        f"sRGB by its colour profile.{grey} docs/preprocess-spec.md of hetero says it to the bit; fingerprint "
        f"`{spec.fingerprint()}`. The golden pictures in the bundle show whether a port does the same."
    )


def _gives(file: ModelFile) -> str:
    if file.output.dtype == "float32":
        return "float32, unit length"
    return (
        f"int8: dequantise as {file.output.scale:.9g} · (q − {file.output.zero_point}), then divide by its length "
        "(8 bits do not hold a unit length)"
    )


def _files(manifest: Manifest) -> list[str]:
    rows = file_rows(manifest)
    lines = [
        "| File | Size, bytes | Layers in int8 | Max abs | Min cosine | R@1 difference | Right in | Verdict |",
        "|---|---|---|---|---|---|---|---|",
        *(_file_line(row, file) for row, file in zip(rows, manifest.files, strict=False)),
    ]
    parts = [
        "## Files",
        "\n".join(lines),
        "Against the torch model on the same pictures: the largest difference of one component, the cosine of the "
        "picture that is furthest off, and the difference of R@1 (the share of queries whose first match is right) "
        "with its 95 % interval. A file may be run in the runtimes named, and no others.",
    ]
    told = []
    for row in rows:
        if row.verdict == "allowed":
            told.append(f"- {row.name} was allowed to break its limits: {escaped(row.reason)}")
        elif row.verdict == "undecided":
            told.append(f"- {row.name} keeps its limits, but the interval reaches beyond: {escaped(row.reason)}")
        elif row.verdict == "left out":
            told.append(f"- {row.name} (recipe {escaped(row.recipe)}) was left out: {escaped(row.reason)}")
    for file in manifest.files:
        if file.kept_float:
            told.append(
                f"- {file.format} {file.precision} keeps in float, found in {file.attempts} tries: "
                f"{escaped(', '.join(file.kept_float))}"
            )
    return [*parts, "\n".join(told)] if told else parts


def _file_line(row: FileRow, file: ModelFile) -> str:
    right = ", ".join(f"{one.name} {escaped(one.version)}" for one in file.runtimes if one.right)
    delta = "not measured" if row.r_at_1_delta is None else difference_words(row.r_at_1_delta)
    abs_, cosine = ("–" if x is None else form % x for x, form in ((row.max_abs, "%.1e"), (row.min_cosine, "%.5f")))
    return (
        f"| `{file.path}` | {file.size_bytes:,} | {row.int8_layers or '–'} | {abs_} | {cosine} | {delta} | {right} | "
        f"{row.verdict} |"
    )


def difference_words(delta: tuple[float, float, float]) -> str:
    """``−0.0031 [−0.0083, +0.0021]``."""
    value, low, high = map(words.signed, delta)
    return f"{value} [{low}, {high}]"


def _test(manifest: Manifest) -> list[str]:
    test = manifest.retrieval
    if test is None:
        told = "None was given: whether the files still find what the torch model finds was not measured."
    else:
        told = (
            f"Data: {escaped(test.data)}, {test.queries:,} queries in a gallery of {test.gallery:,}. The torch model "
            f"reaches R@1 {words.share(test.torch_r_at_1)}, mAP@R {words.share(test.torch_map_at_r)}."
        )
    parts = ["## Retrieval test", told]
    if manifest.thresholds:
        lines = ["| False accept rate per pair | Similarity at least | True accept rate |", "|---|---|---|"]
        for one in manifest.thresholds:
            rate = one.true_accept_rate
            lines.append(
                f"| {one.far:g} | {one.similarity:.4f} | {words.share(rate.value)} "
                f"[{words.share(rate.low)}, {words.share(rate.high)}] |"
            )
        parts += ["Similarity thresholds, calibrated for the torch model:", "\n".join(lines)]
    return parts


def _limits(manifest: Manifest) -> list[str]:
    formats = {str(file.format) for file in manifest.files}
    lines = [
        "A picture that is preprocessed otherwise gives another embedding: use hetero's preprocessing, or a port that "
        "gives the golden bytes.",
        "The numbers are of the runtimes and versions named, on a CPU. Another runtime, version, accelerator or "
        "delegate may compute something else: embed the golden pixels there and compare.",
    ]
    if "tflite" in formats:
        lines.append("MediaPipe resizes its own way: give it pictures already at the model's size.")
    if any(file.output.dtype == "int8" for file in manifest.files):
        lines.append(
            "The int8 output of int8io files must be dequantised, then normalised to unit length, before a search."
        )
    if manifest.calibration is not None:
        lines.append(
            f"Int8 files were calibrated on {manifest.calibration.pictures:,} pictures; pictures of another kind may "
            "lose more than was measured."
        )
    if reference_only(manifest):
        lines.append("Core ML files are checked by a reference that reads the file, not by Apple's runtime.")
    return ["## Limits", "\n".join(f"- {line}" for line in lines)]


def _made(manifest: Manifest) -> list[str]:
    made = manifest.provenance
    tools = ", ".join(f"{escaped(tool.name)} {escaped(tool.version)}" for tool in made.tools)
    return [
        "## Provenance",
        f"- Weights, SHA-256: `{manifest.model.weights_sha256}`\n"
        f"- Made by {escaped(made.created_by)}, hetero {escaped(made.hetero_version)}, with {tools}\n"
        f"- Golden pictures: {escaped(manifest.golden.source)}",
    ]
