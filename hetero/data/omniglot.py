"""Reader for Omniglot as published: handwritten characters, a folder each, in alphabets for train and for test."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from hetero.data.dataset import Dataset
from hetero.data.files import is_picture
from hetero.data.lists import existing
from hetero.data.published import Picture, PublishedConfig, assemble
from hetero.errors import DataError

_SPLITS = {"train": "images_background/", "test": "images_evaluation/"}
_FILE = re.compile(r"\d{4}_(\d{2})\.png")
_ORIGIN = "the archives images_background.zip and images_evaluation.zip of github.com/brendenlake/omniglot"


class OmniglotConfig(PublishedConfig):
    """``images_background`` and ``images_evaluation``; see docs/data.md.

    Attributes:
        invert: read the published black ink on white as bright ink on dark.
        groups_key: ``drawer``: characters of one alphabet drawn by one hand never match each other.
    """

    format: Literal["omniglot"] = "omniglot"
    invert: bool = True
    groups_key: Literal["drawer"] | None = None


def read_omniglot(config: OmniglotConfig) -> Dataset:
    """List the pictures: class ``ALPHABET/characterNN``, the background alphabets ``train``, the others ``test``.

    Source: Lake et al., Human-level concept learning through probabilistic program induction, Science 2015.

    Raises:
        DataError: a folder that is missing or empty, a file name without a drawer, an alphabet in both sets.
    """
    pictures: list[Picture] = []
    for split, name in _SPLITS.items():
        top = existing(config.path, name, _ORIGIN)
        for alphabet in _folders(top, "an alphabet"):
            for character in _folders(alphabet, "a character"):
                pictures += _drawings(character, split, config.groups_key is not None)
    return assemble("omniglot", pictures, config, inverted=config.invert)


def _folders(parent: Path, what: str) -> list[Path]:
    found = sorted(entry for entry in parent.iterdir() if entry.is_dir() and not entry.name.startswith((".", "__")))
    if not found:
        raise DataError(
            f"the folder {parent} is empty",
            expected=f"a folder for each {what.split()[1]}",
            fix=f"unpack the whole of {_ORIGIN}",
        )
    return found


def _drawings(character: Path, split: str, grouped: bool) -> Iterator[Picture]:
    files = sorted(entry for entry in character.iterdir() if is_picture(entry))
    if not files:
        raise DataError(
            f"the folder {character} has no picture", expected="20 drawings", fix=f"unpack the whole of {_ORIGIN}"
        )
    name = f"{character.parent.name}/{character.name}"
    for file in files:
        drawer = _FILE.fullmatch(file.name)
        if drawer is None:
            raise DataError(
                f"the file name of {file} does not tell its drawer",
                got=repr(file.name),
                expected="four digits of the character, _, two of the drawer, .png, such as 0709_01.png",
                fix="move other files out of the way",
            )
        # drawers are numbered anew in each alphabet: 03 of Greek need not be 03 of Latin
        group = f"{character.parent.name}/{drawer[1]}" if grouped else None
        yield Picture(file, name, name, split, f"folder {character}", group=group)
