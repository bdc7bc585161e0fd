"""IJB-C, a face benchmark whose unit is the template: from the release's protocols, or from the lists in common use.

Source: Maze et al., IARPA Janus Benchmark – C: face dataset and protocol, ICB 2018. NIST licenses the data; it is read
from where the user put it, never downloaded. docs/data.md shows the folders.
"""

from __future__ import annotations

from hetero.data.ijbc_derived import read_derived
from hetero.data.ijbc_record import Ijbc, IjbcConfig
from hetero.data.ijbc_release import read_release
from hetero.errors import DataError

__all__ = ["Ijbc", "IjbcConfig", "read_ijbc"]


def read_ijbc(config: IjbcConfig) -> Ijbc:
    """Read template lists, pairs and galleries, and look whether each image file exists.

    Raises:
        DataError: a missing file or folder, a line that cannot be read (with its number), a template that no list
            has, a template with two subjects or two contents, an image that is missing (unless ``skip_bad``).
        ImageError: a picture of an unsupported type, unless ``skip_bad``.
    """
    here = [name for name in ("protocols", "meta") if (config.path / name).is_dir()]
    layout = config.layout or (here[0] if len(here) == 1 else None)
    if layout not in here:
        raise DataError(
            f"{config.path} holds no IJB-C" if not here else f"{config.path} holds IJB-C in another way or in two",
            got=f"folders {', '.join(here) or 'neither protocols nor meta'}, layout {config.layout}",
            expected="protocols/ and images/ of the release, or meta/ and loose_crop/",
            fix="correct path, or say layout: protocols or layout: meta",
        )
    return read_release(config) if layout == "protocols" else read_derived(config)
