"""Reader for Stanford Online Products as published: photographs of things for sale, one list a split."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Literal

from hetero.data.dataset import Dataset
from hetero.data.lists import by_number, existing, read_list
from hetero.data.published import Picture, PublishedConfig, assemble
from hetero.errors import DataError

_LISTS = {"train": "Ebay_train.txt", "test": "Ebay_test.txt"}
_COLUMNS = ("image_id", "class_id", "super_class_id", "path")
_ORIGIN = "Stanford_Online_Products.zip"


class SopConfig(PublishedConfig):
    """The folder ``Stanford_Online_Products``; see docs/data.md."""

    format: Literal["sop"] = "sop"


def read_sop(config: SopConfig) -> Dataset:
    """Read both lists; a class is called by its kind and number, such as ``bicycle/1``.

    Source: Song et al., Deep metric learning via lifted structured feature embedding, CVPR 2016.

    Raises:
        DataError: a list missing, a line that does not parse, an image id twice in a list or in both, a class in both
            lists, a picture that is listed but absent.
    """
    pictures: list[Picture] = []
    names: dict[int, str] = {}
    seen: dict[int, str] = {}
    for split, file in _LISTS.items():
        rows = by_number(read_list(existing(config.path, file, _ORIGIN), _COLUMNS, header=True), "image_id")
        for image, row in rows.items():
            if image in seen:
                raise DataError(
                    f"the image_id {image} is given twice",
                    got=f"{seen[image]} and {row.place}",
                    expected="ids that go on in the second list",
                    fix="download both files again",
                )
            seen[image] = row.place
            row.number("super_class_id")
            key, path = row.number("class_id"), row.values["path"]
            name = names.setdefault(key, f"{PurePosixPath(path).parts[0].removesuffix('_final')}/{key}")
            pictures.append(Picture(config.path / path, key, name, split, row.place))
    return assemble("sop", pictures, config)
