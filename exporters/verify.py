"""Measures a bundle again: is it undamaged, do its pictures give its pixels, and its pixels its embeddings?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from exporters.bundle import Bundle, open_bundle, require_space
from exporters.ladder import limits_words
from exporters.manifest import ModelFile, exceeded
from exporters.npy import parse_npy
from exporters.parity import UNIT_LENGTH_TOLERANCE, compare, length_error
from exporters.recipes import RUNTIMES
from exporters.runtimes import open_model, require_named
from exporters.signature import require_signature, signature_of
from exporters.signing import verify_signature
from exporters.workers import RuntimeWorker, is_installed, package_of
from hetero.errors import (
    BundleError,
    ConfigError,
    ExportError,
    ImageError,
    MissingExtraError,
    RuntimeFailedError,
    SpaceMismatchError,
)
from hetero.preprocess import load_image
from hetero.space import EmbeddingSpace

_ALONE = 8  # pictures that are embedded in one batch, and alone, too


@dataclass(frozen=True)
class Check:
    """One thing that was measured again; ``detail`` has the numbers or the error.

    ``file`` is the exported file that it is about, such as ``onnx fp32``; None: the whole bundle. What could not be
    measured here has not failed, and ``measured`` is False.
    """

    name: str
    passed: bool
    detail: str
    file: str | None = None
    measured: bool = True


@dataclass(frozen=True)
class VerifyReport:
    """What :func:`verify` found. ``space_id`` is None where the bundle could not be read."""

    path: Path
    space_id: str | None
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return all(check.passed for check in self.checks)

    def summary(self) -> str:
        """``26 checks passed, 4 not measured here``, or which failed."""
        failed = [" ".join(filter(None, (check.name, check.file))) for check in self.checks if not check.passed]
        if failed:
            return f"{len(failed)} of {len(self.checks)} checks failed: {', '.join(failed)}"
        measured = sum(check.measured for check in self.checks)
        rest = len(self.checks) - measured
        return f"{measured} checks passed" + (f", {rest} not measured here" if rest else "")

    def to_json(self) -> dict[str, Any]:
        """The report as JSON data."""
        return {
            **asdict(self),
            "path": str(self.path),
            "passed": self.passed,
            "checks": [asdict(c) for c in self.checks],
        }


@dataclass(frozen=True)
class Skipped:
    """A picture left out with ``skip_bad``: its place in the list given, its path, and why."""

    index: int
    path: Path
    reason: str


def verify(
    path: Path | str,
    *,
    expected_space: EmbeddingSpace | str | None = None,
    public_key: Path | str | None = None,
    signature: Path | str | None = None,
    threads: int = 1,
) -> VerifyReport:
    """Measure a bundle again. A damaged bundle is a failed check; what depends on it is then not tried.

    The checks, in order: ``integrity``; ``signature`` (only with ``public_key``; a bundle that is not signed with it is
    run in nothing); ``space`` (only with ``expected_space``); ``golden`` (only where the
    golden arrays cannot be read); ``preprocessing`` (golden pictures give the golden bytes exactly). Then for each
    file ``parity`` (its golden embeddings keep its limits against the torch model's), and in each runtime that the
    manifest calls right for it: ``runtime`` (the file loads and has the declared signature, or the runtime is not
    installed here); ``embeddings`` (golden pixels give the file's golden embeddings within its tolerance); ``limits``
    (and keep its limits against the torch model's, too); ``unit_length``; ``batching`` (a picture alone gives what it
    gives in a batch; ONNX only).

    Args:
        public_key: PEM file of the key that must have signed the bundle.
        signature: its signature; with None, ``NAME.hetero.sig`` beside it.

    Raises:
        BundleError: there is no directory at ``path``.
        ConfigError: the public key cannot be read or used, or a signature is given without one.
        MissingExtraError: no runtime of any of the files is installed, so that nothing could be run.
    """
    path = Path(path)
    if signature is not None and public_key is None:
        raise ConfigError("a signature is verified with a public key, and none is given", fix="name one")
    if not path.is_dir():
        open_bundle(path)  # raises, saying so
    try:
        bundle = open_bundle(path)
    except BundleError as error:
        return VerifyReport(path, None, (Check("integrity", False, str(error)),))
    count = len(list(bundle.manifest.entries())) + 2
    checks = [Check("integrity", True, f"{count} files have the recorded size and SHA-256")]
    if public_key is not None:
        checks.append(_check_signature(bundle, public_key, signature))
        if not checks[-1].passed:
            return VerifyReport(path, bundle.space.id, tuple(checks))
    if expected_space is not None:
        checks.append(_check_space(bundle, expected_space))
    try:
        pixels, torch_vectors = golden_arrays(bundle)
        golden = {file.path: file_golden(bundle, file) for file in bundle.manifest.files}
    except BundleError as error:
        return VerifyReport(path, bundle.space.id, (*checks, Check("golden", False, str(error))))
    checks.append(_check_preprocessing(bundle, pixels))
    claimed = list(dict.fromkeys(one.name for file in bundle.manifest.files for one in file.runtimes if one.right))
    with ThreadPoolExecutor(max(len(claimed), 1)) as pool:  # each runtime beside the others
        found = dict(
            zip(
                claimed,
                pool.map(lambda name: _check_runtime(bundle, name, pixels, torch_vectors, golden, threads), claimed),
                strict=True,
            )
        )
    for file in bundle.manifest.files:
        checks.append(
            _within_limits("parity", f"{file.format} {file.precision}", file, torch_vectors, golden[file.path])
        )
        for result in file.runtimes:
            if result.right:
                checks.extend(found[result.name][file.path])
    report = VerifyReport(path, bundle.space.id, tuple(checks))
    if report.passed and not any(check.name == "embeddings" for check in checks):
        there = {file.format for file in bundle.manifest.files}
        first = next(format for format in RUNTIMES if format in there)
        raise MissingExtraError("running any file of this bundle", package_of(RUNTIMES[first][0]), first)
    return report


def golden_arrays(bundle: Bundle) -> tuple[np.ndarray, np.ndarray]:
    """The golden pixels ``uint8 [n, h, w, c]`` and embeddings ``float32 [n, dim]`` of a bundle.

    Raises:
        BundleError: an array that is not readable or of another type or shape than the manifest implies.
    """
    manifest = bundle.manifest
    count = len(manifest.golden.images)
    pixels = _array(bundle, manifest.golden.pixels.path, "uint8", (count, *manifest.input.shape))
    return pixels, _array(bundle, manifest.golden.embeddings.path, "float32", (count, manifest.output.dim))


def file_golden(bundle: Bundle, file: ModelFile) -> np.ndarray:
    """What this file gave for the golden pixels when it was exported, ``float32 [n, dim]``.

    Raises:
        BundleError: as :func:`golden_arrays`.
    """
    shape = (len(bundle.manifest.golden.images), bundle.manifest.output.dim)
    return _array(bundle, file.golden.path, "float32", shape)


def embed_pixels(bundle: Bundle, pixels: np.ndarray, *, batch_size: int = 8, threads: int = 1) -> np.ndarray:
    """Embed preprocessed pictures ``uint8 [n, h, w, c]`` with a bundle's ONNX model: ``float32 [n, dim]``.

    Raises:
        BundleError, ConfigError, MissingExtraError: as :func:`exporters.runtimes.open_model`, and ``embed``.
    """
    return open_model(bundle, threads=threads).embed(pixels, batch_size=batch_size)


def embed_files(
    bundle: Bundle,
    paths: Sequence[Path | str],
    *,
    skip_bad: bool = False,
    batch_size: int = 8,
    threads: int = 1,
) -> tuple[np.ndarray, tuple[Skipped, ...]]:
    """Embed image files with a bundle's preprocessing and ONNX model.

    Returns:
        ``float32 [n, dim]`` of the readable files in order, and those left out (none without ``skip_bad``).

    Raises:
        ImageError: a file cannot be used, without ``skip_bad``; names the file.
        BundleError, ConfigError, MissingExtraError: as :func:`embed_pixels`.
    """
    model = open_model(bundle, threads=threads)
    spec = bundle.manifest.preprocess
    parts = [np.empty((0, bundle.manifest.output.dim), np.float32)]
    skipped: list[Skipped] = []
    batch: list[np.ndarray] = []
    for index, path in enumerate(paths):
        try:
            batch.append(load_image(path, spec))
        except ImageError as error:
            if not skip_bad:
                raise
            skipped.append(Skipped(index, Path(path), str(error)))
        if batch and (len(batch) == batch_size or index == len(paths) - 1):
            parts.append(model.embed(np.stack(batch), batch_size=batch_size))
            batch = []
    return np.concatenate(parts), tuple(skipped)


def _array(bundle: Bundle, path: str, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    try:
        return parse_npy(bundle.read(path), dtype, shape)
    except ValueError as error:
        raise BundleError(
            f"{bundle.path / path} is not the .npy array that the manifest implies",
            got=error,
            fix="export the bundle again",
        ) from error


def _check_runtime(
    bundle: Bundle,
    runtime: str,
    pixels: np.ndarray,
    torch_vectors: np.ndarray,
    golden: dict[str, np.ndarray],
    threads: int,
) -> dict[str, list[Check]]:
    """What one runtime makes of the files that it is claimed for, by their paths."""
    found: dict[str, list[Check]] = {}
    files = [file for file in bundle.manifest.files if any(one.right and one.name == runtime for one in file.runtimes)]
    with ExitStack() as stack:
        worker: RuntimeWorker | None = None
        for file in files:
            name, expected = f"{file.format} {file.precision}, {runtime}", (torch_vectors, golden[file.path])
            if not is_installed(runtime):
                found[file.path] = [Check("runtime", True, "this runtime is not installed here", name, measured=False)]
            elif file.format == "onnx":
                found[file.path] = list(_check_onnx(bundle, file, name, pixels, expected, threads))
            else:
                worker = worker or stack.enter_context(RuntimeWorker(runtime))
                found[file.path] = list(_check_in_worker(bundle, file, name, pixels, expected, worker, threads))
    return found


def _check_signature(bundle: Bundle, public_key: Path | str, signature: Path | str | None) -> Check:
    try:
        verify_signature(bundle, public_key, signature=signature)
    except BundleError as error:
        return Check("signature", False, str(error))
    return Check("signature", True, f"the manifest is signed with the key of {public_key}")


def _check_space(bundle: Bundle, expected: EmbeddingSpace | str) -> Check:
    try:
        require_space(bundle, expected)
    except SpaceMismatchError as error:
        return Check("space", False, str(error))
    return Check("space", True, bundle.space.id)


def _check_preprocessing(bundle: Bundle, pixels: np.ndarray) -> Check:
    wrong = []
    for entry, expected in zip(bundle.manifest.golden.images, pixels, strict=True):
        try:
            found = load_image(bundle.read(entry.path), bundle.manifest.preprocess)
        except ImageError as error:
            wrong.append(f"{entry.path}: {error}")
            continue
        if not np.array_equal(found, expected):
            different = int((found != expected).sum())
            wrong.append(f"{entry.path}: {different} of {expected.size} bytes differ")
    if wrong:
        return Check("preprocessing", False, "; ".join(wrong))
    return Check("preprocessing", True, f"{len(pixels)} golden pictures give the recorded bytes")


def _within_limits(check: str, name: str, file: ModelFile, expected: np.ndarray, found: np.ndarray) -> Check:
    """Whether embeddings keep the file's limits against the torch model's."""
    try:
        parity = compare(expected, found)
    except ExportError as error:
        return Check(check, False, str(error), name)
    measured = parity.model_dump()
    limits = {key: limit for key, limit in file.limits.items() if key in measured}
    detail = (
        f"max_abs {parity.max_abs:.3g}, mean cosine {parity.mean_cosine:.7f} to the torch model"
        f" ({limits_words(limits) or 'no limit'})"
    )
    return Check(check, not exceeded(measured, limits), detail, name)


def _check_onnx(
    bundle: Bundle,
    file: ModelFile,
    name: str,
    pixels: np.ndarray,
    expected: tuple[np.ndarray, np.ndarray],
    threads: int,
) -> Iterator[Check]:
    try:
        model = open_model(bundle, precision=file.precision, threads=threads)
    except BundleError as error:
        yield Check("runtime", False, str(error), name)
        return
    yield _runs(file, "onnxruntime", import_module("onnxruntime").__version__, name)
    together = model.embed(pixels, batch_size=_ALONE)
    alone = model.embed(pixels[:_ALONE], batch_size=1)
    yield from _embedded(file, name, expected, together)
    yield _compared("batching", name, together[:_ALONE], alone, file.golden.max_abs)


def _check_in_worker(
    bundle: Bundle,
    file: ModelFile,
    name: str,
    pixels: np.ndarray,
    expected: tuple[np.ndarray, np.ndarray],
    worker: RuntimeWorker,
    threads: int,
) -> Iterator[Check]:
    manifest, where = bundle.manifest, str(bundle.path / file.path)
    try:
        data = bundle.read(file.path)
        require_named(data, file.format, manifest.space.id, manifest.preprocess.fingerprint(), where=where)
        found = worker.open(data, threads=threads)
        require_signature(found, signature_of(file.input, file.output, manifest.input, manifest.output), where=where)
        vectors = worker.run(pixels)
    except (BundleError, RuntimeFailedError) as error:
        yield Check("runtime", False, str(error), name)
        return
    yield _runs(file, worker.runtime, worker.version, name)
    yield from _embedded(file, name, expected, vectors)


def _runs(file: ModelFile, runtime: str, version: str, name: str) -> Check:
    """That a runtime takes the file, and in which version; the manifest's claim is for the one it was measured in."""
    claimed = next(one.version for one in file.runtimes if one.name == runtime)
    other = "" if claimed == version else f", not the {claimed} that the bundle was measured with,"
    return Check("runtime", True, f"version {version}{other} runs the model; input and output are as declared", name)


def _embedded(
    file: ModelFile, name: str, expected: tuple[np.ndarray, np.ndarray], found: np.ndarray
) -> Iterator[Check]:
    """What golden pixels gave here, against the torch model's embeddings and the file's own, in this order given."""
    torch_vectors, own = expected
    yield _compared("embeddings", name, own, found, file.golden.max_abs)
    yield _within_limits("limits", name, file, torch_vectors, found)
    off = length_error(found)
    yield Check("unit_length", off <= UNIT_LENGTH_TOLERANCE, f"lengths differ from 1 by at most {off:.3g}", name)


def _compared(check: str, name: str, expected: np.ndarray, found: np.ndarray, tolerance: float) -> Check:
    try:
        parity = compare(expected, found)
    except ExportError as error:
        return Check(check, False, str(error), name)
    detail = f"max_abs {parity.max_abs:.3g} (at most {tolerance:g}), min cosine {parity.min_cosine:.7f}"
    return Check(check, parity.max_abs <= tolerance, detail, name)
