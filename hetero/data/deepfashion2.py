"""Reader for DeepFashion2 as published: garments in boxes, photographed by consumers and by shops."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from hetero.data.dataset import ROLE_GALLERY, ROLE_QUERY, Dataset
from hetero.data.lists import existing
from hetero.data.published import Picture, PublishedConfig, assemble
from hetero.errors import DataError

_SPLITS = {"train": "train", "validation": "test"}  # the published test set has no annotations
_ROLES = {"user": ROLE_QUERY, "shop": ROLE_GALLERY}
_ORIGIN = "train.zip and validation.zip of DeepFashion2"


class DeepFashion2Config(PublishedConfig):
    """The folder that holds ``train`` and ``validation``; see docs/data.md.

    Attributes:
        distractors: garments of shop photographs in ``validation`` that belong to no pair are in the gallery, too.
        min_images_per_class: 1, unlike elsewhere: who matches whom is a matter of roles, and the gallery stays whole.
    """

    format: Literal["deepfashion2"] = "deepfashion2"
    distractors: bool = True
    min_images_per_class: int = Field(default=1, ge=1)


def read_deepfashion2(config: DeepFashion2Config) -> Dataset:
    """Read every annotation: an item is one garment, cut out by its box; its class is its pair id and style (above 0).

    Categories are not asked to agree, as in the makers' own evaluation: annotators differ about 95 of the 3,043
    identities of validation, by sleeves or layers.

    Source: Ge et al., DeepFashion2: a versatile benchmark for detection, pose estimation, segmentation and
    re-identification of clothing images, CVPR 2019, section 4 (consumer-to-shop retrieval, with true boxes).

    Raises:
        DataError: a folder missing, an annotation that does not parse, a picture without its annotation or the other
            way round, a garment annotated twice.
    """
    pictures: list[Picture] = []
    for folder, split in _SPLITS.items():
        images = existing(config.path, f"{folder}/image/", _ORIGIN)
        annotations = existing(config.path, f"{folder}/annos/", _ORIGIN)
        files = sorted(annotations.glob("[!.]*.json"))
        _require_annotations(images, annotations, {file.stem for file in files})
        for file in files:
            pictures += _garments(file, images, folder, split, config.distractors)
    return assemble("deepfashion2", pictures, config)


def _require_annotations(images: Path, annotations: Path, annotated: set[str]) -> None:
    bare = sorted(path.name for path in images.glob("[!.]*.jpg") if path.stem not in annotated)
    if bare:
        raise DataError(
            f"{images / bare[0]} has no annotation",
            got=f"{len(bare)} such pictures",
            expected=f"a .json file of the same name in the folder {annotations}",
            fix=f"unpack the whole of {_ORIGIN}",
        )


def _garments(file: Path, images: Path, folder: str, split: str, distractors: bool) -> Iterator[Picture]:
    content = _read(file)
    source = _value(file, content, "source", "user or shop", lambda value: value in list(_ROLES))
    pair = _value(file, content, "pair_id", "a whole number", _whole)
    items = [(name, *_item(file, content, name)) for name in sorted(key for key in content if key.startswith("item"))]
    known = {box for _, style, box in items if style > 0}  # some boxes are annotated twice, once with style 0
    for name, style, box in items:
        listed = f"{file} {name}"
        # nothing says that pair ids differ between the folders: pair 1 of train is not pair 1 of validation
        key, class_name = (folder, pair, style), f"{folder} pair {pair} style {style}"
        if style == 0:
            if not (distractors and split == "test" and source == "shop") or box in known:
                continue
            known.add(box)
            # one class for all of them: no query has it, so they only stand in the way
            key, class_name = (folder, 0, 0), f"{folder} without pair"
        path = images / f"{file.stem}.jpg"
        yield Picture(path, key, class_name, split, listed, role=_ROLES[source], box=box)


def _item(file: Path, content: dict[str, Any], name: str) -> tuple[int, tuple[int, int, int, int]]:
    """Style and box of one garment."""
    item, listed = _value(file, content, name, "an object", lambda value: isinstance(value, dict)), f"{file} {name}"
    style = _value(listed, item, "style", "a whole number from 0", lambda value: _whole(value) and value >= 0)
    return style, _edges(_value(listed, item, "bounding_box", "[x1, y1, x2, y2]", _is_box))


def _read(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_bytes().decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file} is not JSON", got=error, fix="unpack the file again") from error
    if not isinstance(content, dict):
        raise DataError(f"{file} is no annotation", got=type(content).__name__, expected="a JSON object")
    return content


def _value(place: object, content: dict[str, Any], key: str, expected: str, fits: Any) -> Any:
    value = content.get(key)
    if value is None or isinstance(value, bool) or not fits(value):
        raise DataError(
            f"{place}: no usable {key!r}",
            got="nothing" if value is None else repr(value)[:80],
            expected=expected,
            fix="unpack the file again, or correct it",
        )
    return value


def _whole(value: object) -> bool:
    return isinstance(value, int)


def _is_box(value: object) -> bool:
    if not (isinstance(value, list) and len(value) == 4):
        return False
    return all(isinstance(edge, (int, float)) and abs(edge) < 2**30 for edge in value)


def _edges(box: list[int | float]) -> tuple[int, int, int, int]:
    """The whole pixels that a box touches: left, top, right, bottom; it may be empty."""
    left, top, right, bottom = box
    return max(math.floor(left), 0), max(math.floor(top), 0), math.ceil(right), math.ceil(bottom)
