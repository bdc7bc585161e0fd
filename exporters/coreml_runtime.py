"""Run a Core ML file in Apple's own runtime: macOS only.

Where the tests run on another system, as they have so far, nothing has run this.
"""

from __future__ import annotations

import platform
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from exporters.mil_file import EMBEDDING, IMAGE, read_program
from exporters.mlpackage import NAMES, ROOT, contents_of, read_archive


class CoreMLModel:
    """A Core ML file, on whichever of CPU, GPU and Neural Engine the system chooses, as in an app.

    Raises:
        BundleError: the archive or the model in it is not as hetero writes it.
        Exception: what coremltools raises where the system refuses to compile or load the model.
    """

    def __init__(self, data: bytes) -> None:
        from coremltools.models import MLModel

        self.signature = read_program(data, where="this file").signature
        self.version = f"macOS {platform.mac_ver()[0]}"
        contents = contents_of(read_archive(data, where="this file"))
        self.folder = tempfile.TemporaryDirectory()  # until the process ends: Core ML may read the weights late
        for name in NAMES:
            path = Path(self.folder.name) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(contents[name])
        self.model = MLModel(str(Path(self.folder.name) / ROOT))

    def run(self, pixels: np.ndarray, batch_size: int = 1) -> np.ndarray:
        """Embed ``uint8 [n, h, w, c]`` picture by picture, whatever ``batch_size``: ``float32 [n, dim]``."""
        rows = []
        for picture in pixels:
            image = Image.fromarray(picture[..., 0] if picture.shape[2] == 1 else picture)  # L or RGB
            rows.append(np.asarray(self.model.predict({IMAGE: image})[EMBEDDING], np.float32).reshape(1, -1))
        return np.concatenate(rows)
