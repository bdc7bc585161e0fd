"""The bundle: a directory that says what it holds, verified before anything in it reaches a runtime.

Specified in docs/bundle-spec.md. Longer than most files here because the records, the reader and the writer
are one contract and must change together. Imports no torch, onnx or onnxruntime: phone labs read bundles, too.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

from hetero import atomic
from hetero.errors import BundleError, ConfigError
from hetero.preprocess import PreprocessSpec
from hetero.retrieval.verification import Threshold
from hetero.space import EmbeddingSpace, require_same_space

BUNDLE_SCHEMA = 1
SUFFIX = ".hetero"
MANIFEST, SEAL = "manifest.json", "bundle.sha256"
MAX_MANIFEST_BYTES = 1 << 20  # a real one has some 10 kB; parsing is not asked to survive more
MAX_FILE_BYTES = (1 << 31) - 1  # the limit of a protobuf message, so of a one-file ONNX model
_CHUNK_BYTES = 1 << 20
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_MAX_PATH_CHARS = 200
_COPY_AGAIN = "copy the bundle again, or export it again"


def _safe_path(path: str) -> str:
    """Accept a relative POSIX path that means the same inside the bundle on every file system."""
    if len(path) > _MAX_PATH_CHARS or not all(_PART.fullmatch(part) for part in path.split("/")):
        raise ValueError("must be a relative path of plain names joined by '/', inside the bundle")
    return path


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
SafePath = Annotated[str, AfterValidator(_safe_path)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,99}$")]


class FileEntry(_Record):
    """One file by its path in the bundle, hash and size."""

    path: SafePath
    sha256: Sha256
    size_bytes: int = Field(gt=0, le=MAX_FILE_BYTES)


class Tool(_Record):
    """A program and its version."""

    name: str
    version: str


class Parity(_Record):
    """How far an exported file's embeddings lay from the torch model's on the same pixels, at export.

    ``max_abs`` is the largest difference of two components; the cosines are per image; ``tolerance`` bounds
    ``max_abs``.
    """

    max_abs: float = Field(ge=0)
    min_cosine: float
    mean_cosine: float
    tolerance: float = Field(gt=0)
    images: int = Field(gt=0)


class Retrieval(_Record):
    """What an exported file scored as query model on ``data``: metrics such as ``heterogeneous.r_at_1``."""

    data: str
    metrics: dict[str, float]


class ModelFile(FileEntry):
    """One exported model: ``retrieval`` None means not measured; ``runtimes`` were seen to run the file."""

    format: Literal["onnx"]
    precision: Literal["fp32"]
    recipe: str
    opset: int = Field(gt=0)
    ops: dict[str, int]
    parity: Parity
    retrieval: Retrieval | None
    runtimes: tuple[Tool, ...]


class InputSpec(_Record):
    """What the graph takes: ``uint8 [batch, height, width, channels]``, decoded and resized, nothing more."""

    name: Literal["image"] = "image"
    layout: Literal["NHWC"] = "NHWC"
    dtype: Literal["uint8"] = "uint8"
    height: int = Field(gt=0)
    width: int = Field(gt=0)
    channels: Literal[1, 3]

    @property
    def shape(self) -> tuple[int, int, int]:
        """One picture's shape, ``(height, width, channels)``."""
        return self.height, self.width, self.channels


class OutputSpec(_Record):
    """What the graph returns: ``float32 [batch, dim]``, rows of unit length."""

    name: Literal["embedding"] = "embedding"
    dtype: Literal["float32"] = "float32"
    dim: int = Field(gt=0)
    normalised: Literal[True] = True


class Model(_Record):
    """Which weights the files were made from; ``arch`` is the ArchSpec's JSON, None for a foreign network."""

    weights_sha256: Sha256
    arch: dict[str, JsonValue] | None


class Golden(_Record):
    """Pictures with the bytes and embeddings they must give; ``source`` says where the pictures come from."""

    source: str
    images: tuple[FileEntry, ...] = Field(min_length=1)
    pixels: FileEntry
    embeddings: FileEntry


class Provenance(_Record):
    """How the bundle was made. Deliberately without a clock, so that equal inputs give equal bundles."""

    created_by: str
    hetero_version: str
    tools: tuple[Tool, ...]


class Manifest(_Record):
    """``manifest.json``: everything a bundle says about itself."""

    schema_version: Literal[1] = 1
    name: Name
    licence: str = Field(min_length=1)
    space: EmbeddingSpace
    model: Model
    input: InputSpec
    output: OutputSpec
    preprocess: PreprocessSpec
    files: tuple[ModelFile, ...] = Field(min_length=1)
    thresholds: tuple[Threshold, ...]
    golden: Golden
    provenance: Provenance

    @model_validator(mode="after")
    def _agrees(self) -> Manifest:
        spec = self.preprocess
        if self.input.shape != (spec.height, spec.width, spec.channels):
            raise ValueError("input and preprocess name different picture sizes")
        if self.output.dim != self.space.dim:
            raise ValueError(f"output dim {self.output.dim} is not the space's dim {self.space.dim}")
        seen = {MANIFEST, SEAL}
        for entry in self.entries():
            key = entry.path.casefold()  # one file on a phone's or a Mac's file system
            if key in seen:
                raise ValueError(f"the path {entry.path!r} is listed twice or reserved")
            seen.add(key)
        kinds = [(file.format, file.precision) for file in self.files]
        if len(set(kinds)) != len(kinds):
            raise ValueError("two files have the same format and precision")
        return self

    def entries(self) -> Iterator[FileEntry]:
        """Every file of the bundle but ``manifest.json`` and ``bundle.sha256``."""
        yield from self.files
        yield from self.golden.images
        yield self.golden.pixels
        yield self.golden.embeddings


@dataclass(frozen=True)
class Bundle:
    """A bundle whose files had the listed hashes when it was opened."""

    path: Path
    manifest: Manifest

    @property
    def space(self) -> EmbeddingSpace:
        """The space the bundle's models embed into."""
        return self.manifest.space

    def model_file(self, *, format: str = "onnx", precision: str = "fp32") -> ModelFile:
        """The exported model of this format and precision.

        Raises:
            BundleError: the bundle has none.
        """
        for file in self.manifest.files:
            if (file.format, file.precision) == (format, precision):
                return file
        raise BundleError(
            f"{self.path} has no {format} file of precision {precision}",
            expected="one of " + ", ".join(f"{file.format} {file.precision}" for file in self.manifest.files),
            fix="name one of these, or export again with this format",
        )

    def read(self, path: str) -> bytes:
        """The bytes of a listed file, hashed again now: hand these on, never the path, which others may change.

        Raises:
            BundleError: the file is not listed, or changed since the bundle was opened.
        """
        for entry in self.manifest.entries():
            if entry.path == path:
                return _read_entry(self.path, entry)
        raise BundleError(
            f"{self.path} lists no file {path!r}",
            expected=", ".join(entry.path for entry in self.manifest.entries()),
        )


def open_bundle(path: Path | str, *, expected_space: EmbeddingSpace | str | None = None) -> Bundle:
    """Verify a whole bundle: hashes, sizes, paths, schema and that nothing else lies in the folder.

    Args:
        path: the ``NAME.hetero`` directory.
        expected_space: the space (or its id) of the gallery to be searched.

    Raises:
        BundleError: anything that is not exactly as the manifest and ``bundle.sha256`` say; names the file.
        SpaceMismatchError: the bundle is sound but belongs to another space.
    """
    path = Path(path)
    atomic.recover(path)
    if not path.is_dir():
        raise BundleError(f"{path} is no bundle", expected=f"a directory NAME{SUFFIX}", fix="check the path")
    raw = _read_regular(path, MANIFEST, MAX_MANIFEST_BYTES)
    seal = _read_regular(path, SEAL, 200)
    if seal != seal_of(raw):
        raise BundleError(
            f"{path / MANIFEST} does not have the hash in {SEAL}, so one of the two was changed",
            expected=f"sha256 {hashlib.sha256(raw).hexdigest()} in {SEAL}, in the format of sha256sum",
            fix=_COPY_AGAIN,
        )
    manifest = parse_manifest(raw, where=str(path / MANIFEST))
    _check_listing(path, {MANIFEST, SEAL} | {entry.path for entry in manifest.entries()})
    for entry in manifest.entries():
        _hash_entry(path, entry)
    bundle = Bundle(path=path, manifest=manifest)
    if expected_space is not None:
        require_space(bundle, expected_space)
    return bundle


def require_space(bundle: Bundle, expected: EmbeddingSpace | str) -> None:
    """Refuse a bundle whose vectors cannot be searched in a gallery of the space ``expected`` (or its id).

    Raises:
        SpaceMismatchError: naming both ids.
    """
    gallery_space = expected if isinstance(expected, str) else expected.id
    require_same_space(bundle.space.id, gallery_space, query=f"bundle {bundle.path}", gallery="the gallery")


def seal_of(manifest: bytes) -> bytes:
    """The content of ``bundle.sha256``: one line that ``sha256sum --check`` understands."""
    return f"{hashlib.sha256(manifest).hexdigest()}  {MANIFEST}\n".encode("ascii")


def parse_manifest(raw: bytes, *, where: str = MANIFEST) -> Manifest:
    """Read a manifest from its bytes.

    Raises:
        BundleError: not UTF-8 JSON, a key twice, NaN, another schema version, unknown, missing or wrong keys.
    """
    try:
        content = json.loads(
            raw.decode("utf-8"),
            object_pairs_hook=_unique_keys,
            parse_constant=_finite,
            parse_float=_finite,
        )
    except (ValueError, RecursionError) as error:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
        raise BundleError(f"{where} is not valid JSON", got=ascii(str(error)), fix=_COPY_AGAIN) from error
    version = content.get("schema_version") if isinstance(content, dict) else None
    if type(version) is not int or version != BUNDLE_SCHEMA:
        raise BundleError(
            f"{where} has an unknown schema",
            got=f"schema_version {ascii(version)[:80]}",
            expected=f"schema_version {BUNDLE_SCHEMA}",
            fix="use a hetero release that knows this schema, or export again with this one",
        )
    try:
        manifest = Manifest.model_validate_json(raw)
    except ValidationError as error:
        raise BundleError(f"{where} does not fit the schema", got=_lines(error), fix=_COPY_AGAIN) from error
    plain = manifest.model_dump(mode="json")
    if plain != content:  # a default left out, a number as text: other languages' readers would differ
        raise BundleError(
            f"{where} leaves keys out or writes values in another form",
            got=", ".join(key for key in plain if plain[key] != content.get(key)),
            expected="every key of the schema, numbers as numbers",
            fix=_COPY_AGAIN,
        )
    return manifest


def entry_of(path: str, data: bytes) -> FileEntry:
    """The manifest's entry for a file with this content."""
    return FileEntry(path=path, sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))


def write_bundle(path: Path | str, manifest: Manifest, contents: Mapping[str, bytes]) -> Bundle:
    """Write a bundle in one step, then open it as any reader would.

    Args:
        path: ``NAME.hetero``; an older bundle there is replaced.
        contents: the bytes of each listed file.

    Raises:
        ConfigError: the path has another suffix or holds something that is no bundle.
        BundleError: ``contents`` and the manifest do not agree.
        StorageError: the disk refused; an older bundle at ``path`` is untouched.
    """
    path = checked_destination(path)
    entries = {entry.path: entry for entry in manifest.entries()}
    wrong = sorted(entries.keys() ^ contents.keys())
    for name, data in contents.items():
        if name in entries and _identity(entry_of(name, data)) != _identity(entries[name]):
            wrong.append(name)
    if wrong:
        raise BundleError(
            "the manifest does not describe the files to be written",
            got=f"no or another content for {', '.join(wrong)}",
            fix="make each file's entry from the bytes that are written",
        )
    raw = (json.dumps(manifest.model_dump(mode="json"), indent=2, allow_nan=False) + "\n").encode("ascii")
    parse_manifest(raw)  # what cannot be read back is not written
    with atomic.directory(path, marker=MANIFEST) as folder:
        for name, data in {**contents, MANIFEST: raw, SEAL: seal_of(raw)}.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
    return open_bundle(path)


def checked_destination(path: Path | str) -> Path:
    """The path a bundle may be written to: ``NAME.hetero`` that does not exist or is a bundle.

    Raises:
        ConfigError: another suffix, a name with odd characters, or something there that is no bundle.
    """
    path = Path(path)
    if path.suffix != SUFFIX or not _PART.fullmatch(path.stem):
        raise ConfigError(
            "a bundle's directory has a plain name and the suffix .hetero",
            got=repr(path.name),
            expected=f"letters, digits, '_', '-' and '.', then {SUFFIX}",
            fix=f"write to e.g. {path.with_name('student' + SUFFIX)}",
        )
    if (path.exists() or path.is_symlink()) and (path.is_symlink() or not (path / SEAL).is_file()):
        raise ConfigError(
            f"{path} exists and is no bundle, so it is not replaced",
            fix="move it away or choose another name",
        )
    return path


def _identity(entry: FileEntry) -> tuple[str, int]:
    return entry.sha256, entry.size_bytes


def _check_listing(root: Path, listed: set[str]) -> None:
    """Refuse links, devices and whatever the manifest does not name, in the whole tree under ``root``."""
    folders = {parent.as_posix() for name in listed for parent in Path(name).parents} - {"."}
    pending = [""]
    while pending:
        folder = pending.pop()
        for item in os.scandir(root / folder):
            name = f"{folder}{item.name}"
            if item.is_symlink():
                raise BundleError(f"{root / name} is a link", expected="files only", fix=_COPY_AGAIN)
            if item.is_dir(follow_symlinks=False) and name in folders:
                pending.append(f"{name}/")
            elif name not in listed:
                raise BundleError(
                    f"{str(root / name)!a} is not listed in {MANIFEST}",
                    expected="the listed files and nothing else",
                    fix="remove it from the bundle",
                )


def _open_regular(root: Path, name: str) -> int:
    """A descriptor of a regular file, never through a link and never waiting for a pipe."""
    flags = os.O_RDONLY
    for flag in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"):  # each is missing on some system
        flags |= getattr(os, flag, 0)
    try:
        descriptor = os.open(root / name, flags)
    except FileNotFoundError:
        raise BundleError(f"{root / name} is missing", fix=_COPY_AGAIN) from None
    except OSError as error:  # ELOOP for a link, EACCES, ENOTDIR, ENXIO for a socket
        raise BundleError(
            f"{root / name} cannot be opened as a regular file", got=error.strerror, fix=_COPY_AGAIN
        ) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise BundleError(f"{root / name} is not a regular file", fix=_COPY_AGAIN)
    return descriptor


def _read_regular(root: Path, name: str, limit_bytes: int) -> bytes:
    with open(_open_regular(root, name), "rb") as stream:
        data = stream.read(limit_bytes + 1)
    if len(data) > limit_bytes:
        raise BundleError(f"{root / name} is too large", expected=f"at most {limit_bytes} bytes", fix=_COPY_AGAIN)
    return data


def _read_entry(root: Path, entry: FileEntry) -> bytes:
    data = _read_regular(root, entry.path, entry.size_bytes)
    _require_content(root, entry, hashlib.sha256(data).hexdigest(), len(data))
    return data


def _hash_entry(root: Path, entry: FileEntry) -> None:
    digest, size_bytes = hashlib.sha256(), 0
    with open(_open_regular(root, entry.path), "rb") as stream:
        while size_bytes <= entry.size_bytes and (chunk := stream.read(_CHUNK_BYTES)):
            digest.update(chunk)
            size_bytes += len(chunk)
    _require_content(root, entry, digest.hexdigest(), size_bytes)


def _require_content(root: Path, entry: FileEntry, sha256: str, size_bytes: int) -> None:
    if (sha256, size_bytes) != _identity(entry):
        raise BundleError(
            f"{root / entry.path} is not the file that {MANIFEST} lists",
            got=f"{size_bytes} bytes, sha256 {sha256[:16]}…",
            expected=f"{entry.size_bytes} bytes, sha256 {entry.sha256[:16]}…",
            fix=_COPY_AGAIN,
        )


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ValueError("an object names a key twice")
    return content


def _finite(number: str) -> float:
    value = float(number)
    if not math.isfinite(value):
        raise ValueError(f"{number} is not a finite number")
    return value


def _lines(error: ValidationError) -> str:
    found = [f"{'.'.join(map(str, item['loc'])) or 'manifest'}: {item['msg']}" for item in error.errors()]
    return ascii("; ".join(found[:5]))
