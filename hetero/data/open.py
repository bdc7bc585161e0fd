"""One entry for every kind of data: the ``data`` section of a config in, a checked :class:`Dataset` out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError

from hetero.data.csv import CsvConfig, read_csv
from hetero.data.cub200 import Cub200Config, read_cub200
from hetero.data.dataset import Dataset
from hetero.data.deepfashion2 import DeepFashion2Config, read_deepfashion2
from hetero.data.folder import FolderConfig, read_folder
from hetero.data.glyphs import GlyphsConfig, read_glyphs
from hetero.data.inshop import InshopConfig, read_inshop
from hetero.data.npz import NpzConfig, read_npz
from hetero.data.omniglot import OmniglotConfig, read_omniglot
from hetero.data.sop import SopConfig, read_sop
from hetero.errors import ConfigError
from hetero.validation import validation_lines

DataConfig = (
    FolderConfig
    | CsvConfig
    | NpzConfig
    | GlyphsConfig
    | OmniglotConfig
    | Cub200Config
    | SopConfig
    | InshopConfig
    | DeepFashion2Config
)
"""The ``data`` section of a run config; ``format`` tells which."""

_ADAPTER: TypeAdapter[DataConfig] = TypeAdapter(Annotated[DataConfig, Field(discriminator="format")])


def open_dataset(config: DataConfig) -> Dataset:
    """Read the data that the config describes.

    Raises:
        DataError, ImageError, ConfigError: as the readers say; each names the file, line,
            class or key and the fix.
    """
    match config:
        case FolderConfig():
            return read_folder(config)
        case CsvConfig():
            return read_csv(config)
        case NpzConfig():
            return read_npz(config)
        case GlyphsConfig():
            return read_glyphs(config)
        case OmniglotConfig():
            return read_omniglot(config)
        case Cub200Config():
            return read_cub200(config)
        case SopConfig():
            return read_sop(config)
        case InshopConfig():
            return read_inshop(config)
        case DeepFashion2Config():
            return read_deepfashion2(config)


def parse_data_config(section: Mapping[str, object]) -> DataConfig:
    """Validate the ``data`` section on its own, for instance ``{"format": "folder", "path": "photos"}``.

    Raises:
        ConfigError: an unknown format or key, a missing key, a value of a wrong type; each is named.
    """
    try:
        return _ADAPTER.validate_python(dict(section))
    except ValidationError as error:
        raise ConfigError(
            "the data section of the config cannot be used",
            got=validation_lines(error, DataConfig, under="data"),
            expected="the keys listed in docs/data.md for this format",
            fix="correct or remove the keys named",
        ) from error
