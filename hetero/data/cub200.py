"""Reader for CUB-200-2011 as published: bird species, lists that join on image ids, a box around each bird."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

from pydantic import Field

from hetero.data.dataset import Dataset
from hetero.data.lists import Row, by_number, existing, matching, read_list
from hetero.data.published import Picture, PublishedConfig, assemble
from hetero.errors import DataError

_ORIGIN = "CUB_200_2011.tgz"


class Cub200Config(PublishedConfig):
    """The folder ``CUB_200_2011``; see docs/data.md.

    Attributes:
        train_classes: so many classes from the first are trained on, the others tested.
        crop: cut each picture to the box around its bird.
    """

    format: Literal["cub200"] = "cub200"
    train_classes: int = Field(default=100, ge=1)
    crop: bool = False


def read_cub200(config: Cub200Config) -> Dataset:
    """Join the lists; classes 1 to 100 are ``train``, 101 to 200 ``test``.

    ``train_test_split.txt`` divides the pictures of each class, for classification; it is not read.

    Source: Wah et al., The Caltech-UCSD Birds-200-2011 dataset, 2011; classes divided as by Song et al., Deep metric
    learning via lifted structured feature embedding, CVPR 2016.

    Raises:
        DataError: a list missing, a line that does not parse, an id twice or without its counterpart, no class to
            test on, a picture that is listed but absent.
    """
    root = config.path
    files = {name: existing(root, f"{name}.txt", _ORIGIN) for name in ("images", "image_class_labels", "classes")}
    images = by_number(read_list(files["images"], ("image_id", "image_name")), "image_id")
    labels = by_number(read_list(files["image_class_labels"], ("image_id", "class_id")), "image_id")
    classes = by_number(read_list(files["classes"], ("class_id", "class_name")), "class_id")
    boxes = _boxes(root) if config.crop else None
    for row in labels.values():
        matching(row, "image_id", images, files["images"])
    if config.train_classes >= len(classes):
        raise DataError(
            f"{files['classes']} leaves no class to test on",
            got=f"{len(classes)} classes and train_classes {config.train_classes}",
            fix="lower train_classes; published results use 100 of 200",
        )
    train = sorted(classes)[: config.train_classes]
    last = train[-1]
    pictures = []
    for row in images.values():
        label = matching(row, "image_id", labels, files["image_class_labels"])
        name = matching(label, "class_id", classes, files["classes"]).values["class_name"]
        key = label.number("class_id")
        picture = root / "images" / row.values["image_name"]
        box = None if boxes is None else _edges(matching(row, "image_id", boxes, root / "bounding_boxes.txt"))
        pictures.append(Picture(picture, key, name, "train" if key <= last else "test", row.place, box=box))
    return assemble("cub200", pictures, config)


def _boxes(root: Path) -> dict[int, Row]:
    file = existing(root, "bounding_boxes.txt", _ORIGIN)
    return by_number(read_list(file, ("image_id", "x", "y", "width", "height")), "image_id")


def _edges(row: Row) -> tuple[int, int, int, int]:
    """The whole pixels that a box touches: left, top, right, bottom."""
    numbers = []
    for column in ("x", "y", "width", "height"):
        try:
            number = float(row.values[column])
        except ValueError:
            number = math.nan
        if not (math.isfinite(number) and number >= 0):
            raise row.refused(column, "pixels, at least 0")
        numbers.append(number)
    x, y, width, height = numbers
    left, top = math.floor(x), math.floor(y)
    return left, top, math.ceil(x + width) if width else left, math.ceil(y + height) if height else top
