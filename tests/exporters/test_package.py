from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import pytest

import exporters

HEAVY = ("torch", "onnx", "onnxruntime", "onnxscript", "jaxtyping", "tensorflow", "coremltools", "sklearn")


@pytest.mark.parametrize(
    "module", ["exporters", "exporters.bundle", "exporters.verify", "exporters.runtimes", "device_tests"]
)
def test_importing_a_light_module_loads_no_heavy_package(module: str) -> None:
    code = f"import sys, {module}; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def test_verify_stays_the_function_when_the_module_of_that_name_is_imported() -> None:
    module = import_module("exporters.verify")
    assert exporters.verify is module.verify
    assert exporters.open_bundle is import_module("exporters.bundle").open_bundle


def test_export_is_found_lazily_and_a_misspelt_name_is_an_attribute_error() -> None:
    assert exporters.export is import_module("exporters.pipeline").export
    with pytest.raises(AttributeError, match="exprot"):
        exporters.exprot  # noqa: B018
