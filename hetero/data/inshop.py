"""Reader for the In-shop Clothes Retrieval Benchmark of DeepFashion: train items, and queries against a gallery."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from hetero.data.dataset import ROLE_BOTH, ROLE_GALLERY, ROLE_QUERY, Dataset
from hetero.data.lists import existing, read_list
from hetero.data.published import Picture, PublishedConfig, assemble
from hetero.errors import nearest

_PARTITION = "Eval/list_eval_partition.txt"
_COLUMNS = ("image_name", "item_id", "evaluation_status")
_STATUS = {"train": ("train", ROLE_BOTH), "query": ("test", ROLE_QUERY), "gallery": ("test", ROLE_GALLERY)}


class InshopConfig(PublishedConfig):
    """The folder ``In-shop Clothes Retrieval Benchmark``; see docs/data.md.

    Attributes:
        images: the folder, from ``path``, in which the listed names begin (``img/WOMEN/…``).
        min_images_per_class: 1, unlike elsewhere: who matches whom is a matter of roles, and the gallery stays whole.
    """

    format: Literal["inshop"] = "inshop"
    images: Path = Path("Img")
    min_images_per_class: int = Field(default=1, ge=1)


def read_inshop(config: InshopConfig) -> Dataset:
    """Read the partition: ``query`` and ``gallery`` are roles in the split ``test``.

    Source: Liu et al., DeepFashion: powering robust clothes recognition and retrieval with rich annotations, CVPR 2016.

    Raises:
        DataError: the list missing, a line that does not parse, another count than its first line says, an image
            twice, an item in train and elsewhere, a picture that is listed but absent.
    """
    file = existing(config.path, _PARTITION, "the In-shop Clothes Retrieval Benchmark of DeepFashion")
    pictures = []
    for row in read_list(file, _COLUMNS, header=True, counted=True):
        status = row.values["evaluation_status"]
        if status not in _STATUS:
            raise row.refused("evaluation_status", nearest(status, _STATUS))
        split, role = _STATUS[status]
        item = row.values["item_id"]
        path = config.path / config.images / row.values["image_name"]
        pictures.append(Picture(path, item, item, split, row.place, role=role))
    return assemble("inshop", pictures, config)
