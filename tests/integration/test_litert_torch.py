"""litert-torch, in an environment of its own, converts a network that no graph here can express."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from exporters import export, verify
from exporters.recipes import FP32_MAX_ABS
from hetero.errors import ExportError
from hetero.space import define_space

sys.path.insert(0, str(Path(__file__).parent.parent / "exporters"))
from networks import DIM, SPEC, transformer

SPACE = define_space(weights_sha256="a" * 64, preprocess_fingerprint=SPEC.fingerprint(), dim=DIM)
# Not under constraints.txt: litert-torch wants a newer numpy than the runtime of older devices does.
PACKAGES = ("torch==2.13.0", "litert-torch==0.10.0")


@pytest.fixture(scope="module")
def litert_torch(needs: Callable[[str], ModuleType], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A Python with litert-torch: the one that ``HETERO_LITERT_TORCH`` names, else a new one of 2 GB, then removed."""
    needs("tensorflow")
    given = os.environ.get("HETERO_LITERT_TORCH")
    if given:
        yield Path(given)
        return
    folder = tmp_path_factory.mktemp("litert") / "environment"
    python = folder / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True, timeout=120)
    command = [python, "-m", "pip", "install", "--quiet", *PACKAGES]
    result = subprocess.run(command, capture_output=True, text=True, timeout=1200)
    assert result.returncode == 0, result.stderr[-2000:]
    yield python
    shutil.rmtree(folder)


def test_litert_torch_makes_files_of_a_network_with_attention(litert_torch: Path, tmp_path: Path) -> None:
    network, precisions = transformer(), ("fp32", "fp16", "dynamic")
    bundle = export(
        network,
        tmp_path / "a.hetero",
        preprocess=SPEC,
        space=SPACE,
        formats=("tflite",),
        precisions=precisions,
        litert_torch=litert_torch,
    )
    files = {file.precision: file for file in bundle.manifest.files}
    assert tuple(files) == precisions
    assert files["fp32"].measured("max_abs") <= FP32_MAX_ABS
    assert files["fp16"].measured("min_cosine") > 0.999
    assert files["dynamic"].measured("mean_cosine") > 0.999
    for file in files.values():
        print({result.name: (result.right, result.parity) for result in file.runtimes})
        assert all(result.right for result in file.runtimes), "also the runtime of older devices, where there is one"
        assert b"torch.nn" not in bundle.read(file.path)
    assert files["fp16"].content.weight_bytes["float16"] > 0.9 * files["fp32"].content.weight_bytes["float32"] / 2
    assert files["dynamic"].content.int8_layers > 0
    assert files["fp32"].size_bytes > 1.5 * files["fp16"].size_bytes > 2 * files["dynamic"].size_bytes
    assert "GELU" in files["fp32"].ops
    tools = {tool.name: tool.version for tool in bundle.manifest.provenance.tools}
    assert {"litert-torch", "ai-edge-quantizer", "torch of litert-torch"} <= tools.keys()
    assert verify(bundle.path).passed
    with pytest.raises(ExportError, match=r"cannot be exported; got operation .*litert_torch="):
        export(network, tmp_path / "b.hetero", preprocess=SPEC, space=SPACE, formats=("onnx",))
