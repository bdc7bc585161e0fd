"""Networks that another environment converts: what is asked of it, and whatever it may do instead."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from torch import nn

from exporters import Bundle, export, litert, litert_convert, verify
from exporters.fold import fold
from exporters.tflite import parsed, to_tflite
from exporters.trace import trace
from hetero.errors import ConfigError, ExportError, HeteroError, MissingExtraError
from hetero.space import define_space

sys.path.insert(0, str(Path(__file__).parent))
from networks import DIM, SPEC, mixed, transformer, unpadded

SPACE = define_space(weights_sha256="a" * 64, preprocess_fingerprint=SPEC.fingerprint(), dim=DIM)
ANSWER = '{"tools": {"litert-torch": "0.10.0", "torch of litert-torch": "2.13.0"}}'


@pytest.fixture(scope="module", autouse=True)
def tensorflow(needs: Callable[[str], ModuleType]) -> ModuleType:
    return needs("tensorflow")


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary folders are made meanwhile."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def shell(path: Path, commands: str) -> Path:
    """A "Python" that does this instead; ``$3`` is the archive, ``$4`` the folder for files."""
    path.write_text(f"#!/bin/sh\n{commands}\n")
    path.chmod(0o755)
    return path


def convert(python: object, out: Path, network: nn.Module | None = None, **options: Any) -> Bundle:
    arguments = {"preprocess": SPEC, "space": SPACE, "formats": ("tflite",), "litert_torch": python, **options}
    return export(mixed() if network is None else network, out, **arguments)


def test_a_file_from_elsewhere_is_measured_like_any_other(tmp_path: Path) -> None:
    (tmp_path / "right").write_bytes(to_tflite(fold(trace(mixed(), SPEC)), "fp32", {})[0])
    python = shell(
        tmp_path / "python",
        f"test -s $3 && cp {tmp_path}/right $4/fp32.tflite && printf '%s' '{ANSWER}' > $4/answer.json",
    )
    lines: list[str] = []
    network = mixed().train()
    bundle = convert(python, tmp_path / "a.hetero", network, say=lines.append)
    assert all(part.training for part in network)
    assert lines[0] == "litert-torch: converting"
    [file] = bundle.manifest.files
    assert verify(bundle.path).passed
    tools = {tool.name: tool.version for tool in bundle.manifest.provenance.tools}
    assert (tools["litert-torch"], tools["torch of litert-torch"]) == ("0.10.0", "2.13.0")
    model = parsed(bundle.read(file.path))
    [graph], [signature] = model.subgraphs, model.signatureDefs
    assert [graph.tensors[place].name for place in (*graph.inputs, *graph.outputs)] == [b"image", b"embedding"]
    assert (signature.inputs[0].name, signature.outputs[0].name) == (b"image", b"embedding")
    assert max(len(tensor.name) for tensor in graph.tensors) < 10
    (tmp_path / "right").write_bytes(to_tflite(fold(trace(unpadded(), SPEC)), "fp32", {})[0])
    with pytest.raises(ExportError, match="tflite fp32 model does not reproduce the torch model"):
        convert(python, tmp_path / "b.hetero")
    assert not (tmp_path / "b.hetero").exists()


@pytest.mark.parametrize(
    ("commands", "error", "message"),
    [
        ("echo no snakes here", ExportError, "without an answer.*exit code 0; no snakes here.*fix: make an env"),
        ("echo nothing >&2; exit 3", ExportError, "without an answer; got .*exit code 3; nothing"),
        ("kill -9 $$", ExportError, "without an answer; got .*signal 9; nothing printed"),
        ("echo { > $4/answer.json", ExportError, "without an answer"),
        (f"echo '{ANSWER}' > $4/answer.json", ExportError, "gave no TFLite file"),
        (f"echo '{ANSWER}' > $4/answer.json; echo garbage > $4/fp32.tflite", ExportError, "no TFLite file; got b'garb"),
    ],
)
def test_a_program_that_is_no_python_is_an_error(
    tmp_path: Path, temporary: Path, commands: str, error: type[HeteroError], message: str
) -> None:
    python = shell(tmp_path / "python", commands)
    assert_fails(python, tmp_path, temporary, error, message)


def assert_fails(python: object, tmp_path: Path, temporary: Path, error: type[HeteroError], message: str) -> None:
    """With one error, one line of it, and without leaving anything behind."""
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(error, match=message) as caught:
        convert(python, tmp_path / "a.hetero")
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert list(temporary.glob("hetero-*")) == []  # torch may have put a cache there


def test_a_python_that_cannot_be_started_is_an_error(tmp_path: Path, temporary: Path) -> None:
    names_no = "litert_torch= names no Python that can be started"
    assert_fails(tmp_path / "python", tmp_path, temporary, ConfigError, f"{names_no}.*No such file.*fix: make an env")
    (tmp_path / "python").write_text("")
    assert_fails(tmp_path / "python", tmp_path, temporary, ConfigError, f"{names_no}.*Permission denied")
    assert_fails(tmp_path, tmp_path, temporary, ConfigError, f"{names_no}.*Permission denied")


def test_a_conversion_that_hangs_is_killed(tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(litert, "TIMEOUT_S", 0.5)
    (tmp_path / "pid").touch()
    python = shell(tmp_path / "python", f"echo $$ > {tmp_path}/pid; exec sleep 60")
    assert_fails(python, tmp_path, temporary, ExportError, r"did not convert this network in time; expected 0\.5 s")
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


@pytest.fixture
def imitation(tmp_path: Path) -> Callable[[str], Path]:
    """A Python that runs our script, after these commands, with a litert-torch that converts nothing."""
    modules = {
        "litert_torch": "def convert(network, inputs):\n    assert inputs[0].shape == (1, 16, 12, 3)\n"
        "    network(*inputs)\n    raise RuntimeError('no lowering for aten.fft\\nmore of it')\n",
        "ai_edge_quantizer/quantizer": "Quantizer = None\n",
    }
    for name, text in modules.items():
        path = tmp_path / "modules" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    run = f"import runpy, sys; sys.argv = sys.argv[1:]; sys.path.append('{tmp_path}/modules'); "
    run += "runpy.run_path(sys.argv[0], run_name='__main__')"
    return lambda first: shell(tmp_path / "python", f'{first}\nshift; exec {sys.executable} -I -c "{run}" "$@"')


def test_a_python_without_litert_torch_is_an_error_whatever_pythonpath_names(
    tmp_path: Path, temporary: Path, imitation: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "modules"))
    message = r"cannot import litert-torch; got .*ModuleNotFoundError.*litert_torch.*fix: .*hetero\[litert-torch\]"
    assert_fails(sys.executable, tmp_path, temporary, ConfigError, message)


def test_a_torch_that_cannot_read_the_archive_is_an_error(
    tmp_path: Path, temporary: Path, imitation: Callable[[str], Path]
) -> None:
    message = (
        r"torch cannot read the network that ours has saved; got .*; expected torch 2\..*fix: install that version"
    )
    assert_fails(imitation("echo junk > $3"), tmp_path, temporary, ConfigError, message)


def test_a_network_that_litert_torch_cannot_convert_is_an_error(
    tmp_path: Path, temporary: Path, imitation: Callable[[str], Path]
) -> None:
    message = r"cannot convert this network; got 'RuntimeError: no lowering for aten\.fft'; fix: replace"
    assert_fails(imitation(""), tmp_path, temporary, ExportError, message)


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        ({"formats": ("onnx",)}, "onnx fp32"),
        ({"formats": ("tflite", "coreml")}, "coreml fp32"),
        ({"precisions": ("fp32", "int8")}, "tflite int8"),
    ],
)
def test_files_that_litert_torch_is_not_asked_for_are_refused(tmp_path: Path, options: Any, asked: str) -> None:
    with pytest.raises(ConfigError, match=f"cannot be asked for this file; got {asked}; expected tflite fp32, .*fix"):
        convert(tmp_path / "nowhere", tmp_path / "a.hetero", **options)


def test_tensorflow_is_asked_for_before_anything_is_converted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(MissingExtraError, match=r"hetero\[tflite\]"):
        convert(tmp_path / "nowhere", tmp_path / "a.hetero")


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.network = mixed()
        self.register_buffer("seen", next(self.network.parameters()).new_zeros(()))

    def forward(self, x: Any) -> Any:
        self.seen += 1
        return self.network(x)


def test_networks_that_torch_cannot_save_as_one_function_are_refused(tmp_path: Path) -> None:
    class Deciding(nn.Module):
        def forward(self, x: Any) -> Any:
            return x.flatten(1)[:, :DIM] if x.sum() > 0 else -x.flatten(1)[:, :DIM]

    for network, message in (
        (Deciding(), "torch cannot trace this network"),
        (Counting(), "changes its own buffers.*seen"),
    ):
        with pytest.raises(ExportError, match=message):
            convert(tmp_path / "nowhere", tmp_path / "a.hetero", network)


def test_other_formats_refuse_the_module_and_name_the_way_out(tmp_path: Path) -> None:
    for format in ("onnx", "tflite"):
        with pytest.raises(
            ExportError, match=r"cannot be exported; got operation .*fix: .*TFLite alone with litert_torch="
        ):
            export(transformer(), tmp_path / "a.hetero", preprocess=SPEC, space=SPACE, formats=(format,))


def test_recipes_for_the_quantiser() -> None:
    half, dynamic = litert_convert.recipe_of("fp16"), litert_convert.recipe_of("dynamic")
    assert {rule["operation"] for rule in half} == {"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"}
    granularity = {rule["operation"]: rule["op_config"]["weight_tensor_config"]["granularity"] for rule in dynamic}
    assert granularity == {"*": "CHANNELWISE", "FULLY_CONNECTED": "TENSORWISE"}
