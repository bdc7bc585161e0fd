"""Pictures, a gallery and a bundle that a device check of seconds needs, and a fake adb server."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import exporters
from exporters import Bundle
from hetero.retrieval.gallery import Gallery, Item, open_gallery, write_gallery

sys.path.insert(0, str(Path(__file__).parent))

GOLDEN = Path(__file__).parent.parent / "golden" / "omniglot"


@dataclass(frozen=True)
class Toy:
    """A trained student's bundle, 48 pictures of 12 classes, and a gallery of their embeddings."""

    bundle: Bundle
    pictures: Path
    gallery: Gallery


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    """Strokes on a bright ground, alike within a class; the gallery is embedded by the student itself."""
    folder = tmp_path_factory.mktemp("toy")
    rng = np.random.default_rng(0)
    for label in range(12):
        strokes = np.kron(rng.random((7, 7)) > 0.6, np.ones((4, 4)))
        (folder / "pictures" / f"class {label:02d}").mkdir(parents=True)
        for number in range(4):
            picture = np.clip(strokes * 220 + rng.normal(0, 40, (28, 28)), 0, 255).astype(np.uint8)
            Image.fromarray(picture).save(folder / "pictures" / f"class {label:02d}" / f"{number}.png")
    bundle = exporters.open_bundle(GOLDEN / "small.hetero")
    files = sorted((folder / "pictures").rglob("*.png"))
    vectors, _ = exporters.embed_files(bundle, files)
    names = sorted({file.parent.name for file in files})
    write_gallery(
        folder / "gallery",
        vectors,
        [Item(str(file), names.index(file.parent.name), file.parent.name) for file in files],
        space_id=bundle.space.id,
        model_weights_sha256="0" * 64,
        dataset="toy",
    )
    return Toy(bundle, folder / "pictures", open_gallery(folder / "gallery"))


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test writes to the user's cache, or reads what another left there."""
    monkeypatch.setenv("HETERO_CACHE", str(tmp_path / "cache"))
    for name in ("ANDROID_SERIAL", "ANDROID_ADB_SERVER_PORT", "ANDROID_ADB_SERVER_HOST"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def adb(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., object]]:
    """Starts a fake adb server with these devices, which adbutils then finds."""
    from contextlib import ExitStack

    from fake_adb import FakeAdbServer

    with ExitStack() as stack:

        def start(*devices: object) -> FakeAdbServer:
            server = stack.enter_context(FakeAdbServer(*devices))  # type: ignore[arg-type]
            monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(server.port))
            return server

        yield start
