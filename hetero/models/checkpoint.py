"""Checkpoint directories: safetensors and JSON, no pickle. Specified in docs/checkpoint-spec.md."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from hetero import atomic
from hetero.errors import CheckpointError
from hetero.models.arch import ArchSpec
from hetero.models.network import EmbeddingNetwork
from hetero.preprocess import PreprocessSpec
from hetero.record import read_record
from hetero.space import EmbeddingSpace, space_id, weights_digest

CHECKPOINT_SCHEMA: Final = 1


class ModelCard(BaseModel):
    """Everything about a model but its weights: ``model.json``.

    Attributes:
        role: ``gallery`` (defines the space), ``compatible`` (a student in it) or ``control`` (defines its own).
        space_size: side of the gallery model's pictures, where this student takes smaller ones.
        weights_sha256: digest of the weights beside it, see :func:`hetero.space.weights_digest`.
        classes: class names in the order of the prototypes' rows; empty without prototypes.
        provenance: how it was made. metrics: what was measured. thresholds: calibrated similarity thresholds.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = CHECKPOINT_SCHEMA
    name: str
    role: Literal["gallery", "compatible", "control"]
    arch: ArchSpec
    preprocess: PreprocessSpec
    space: EmbeddingSpace
    space_size: int | None = None
    weights_sha256: str
    prototypes_sha256: str | None = None
    classes: tuple[str, ...] = ()
    provenance: dict[str, Any] = {}
    metrics: dict[str, Any] = {}
    thresholds: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True)
class LoadedModel:
    """A checkpoint in memory; ``network`` is in evaluation mode on the CPU.

    Attributes:
        prototypes: ``float32 [num_prototypes, dim]`` of unit rows for a model trained with a classifier, else None.
    """

    network: EmbeddingNetwork
    card: ModelCard
    prototypes: Tensor | None

    @property
    def arch(self) -> ArchSpec:
        """The architecture."""
        return self.card.arch

    @property
    def preprocess(self) -> PreprocessSpec:
        """How a picture becomes the network's input."""
        return self.card.preprocess

    @property
    def space(self) -> EmbeddingSpace:
        """The space the model embeds into."""
        return self.card.space


def network_digest(state: Mapping[str, Tensor]) -> str:
    """:func:`hetero.space.weights_digest` of a torch state dict."""
    return weights_digest({name: tensor.detach().cpu().numpy() for name, tensor in state.items()})


def save_model(path: Path | str, network: EmbeddingNetwork, card: ModelCard, prototypes: Tensor | None = None) -> None:
    """Write a checkpoint directory in one step (the digests in ``card`` are set here).

    Raises:
        StorageError: the disk refused; an older checkpoint at ``path`` is untouched.
    """
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    update: dict[str, Any] = {"weights_sha256": network_digest(state)}
    if prototypes is not None:
        prototypes = prototypes.detach().cpu().contiguous()
        update["prototypes_sha256"] = network_digest({"prototypes": prototypes})
    with atomic.directory(path, marker="model.json") as folder:
        save_file(state, folder / "model.safetensors")
        if prototypes is not None:
            save_file({"prototypes": prototypes}, folder / "prototypes.safetensors")
        (folder / "model.json").write_text(
            card.model_copy(update=update).model_dump_json(indent=2) + "\n", encoding="utf-8"
        )


def copy_model(source: Path, path: Path) -> None:
    """Copy a checkpoint directory in one step, byte by byte.

    Raises:
        StorageError: the disk refused; an older checkpoint at ``path`` is untouched.
    """
    with atomic.directory(path, marker="model.json") as folder:
        for name in ("model.safetensors", "prototypes.safetensors", "model.json"):
            if (source / name).exists():
                (folder / name).write_bytes((source / name).read_bytes())


def update_card(path: Path | str, **changes: Any) -> ModelCard:
    """Replace fields of ``model.json`` (metrics, thresholds, space) in one step; the weights stay as they are."""
    card = read_card(path).model_copy(update=changes)
    atomic.write_text(Path(path) / "model.json", card.model_dump_json(indent=2) + "\n")
    return card


def read_card(path: Path | str) -> ModelCard:
    """Read ``model.json`` of a checkpoint directory.

    Raises:
        CheckpointError: no such file, not JSON, another schema version, unknown or missing keys.
    """
    path = Path(path)
    atomic.recover(path)
    file = path / "model.json"
    absent = CheckpointError(
        f"{path} is no checkpoint",
        expected="a directory with model.json and model.safetensors",
        fix="name a checkpoint such as runs/NAME/gallery or runs/NAME/students/STUDENT",
    )
    card = read_record(
        file,
        ModelCard,
        schema=CHECKPOINT_SCHEMA,
        absent=absent,
        instead="use the hetero release that wrote it, or train again",
    )
    _require_own_space(card, file)
    return card


def load_model(path: Path | str) -> LoadedModel:
    """Open a checkpoint, checking the weights against their recorded digest.

    Raises:
        CheckpointError: missing or damaged files, weights that do not fit the architecture or the digest.
    """
    path = Path(path)
    card = read_card(path)
    state = _load_tensors(path / "model.safetensors", card.weights_sha256)
    network = EmbeddingNetwork(card.arch)
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise CheckpointError(
            f"{path / 'model.safetensors'} does not fit the architecture in model.json",
            got=str(error).splitlines()[0],
            fix="restore both files from the same run",
        ) from error
    prototypes = None
    if card.prototypes_sha256 is not None:
        prototypes = _load_tensors(path / "prototypes.safetensors", card.prototypes_sha256)["prototypes"]
    network.eval()
    return LoadedModel(network=network, card=card, prototypes=prototypes)


def _require_own_space(card: ModelCard, file: Path) -> None:
    """The space must follow from what the card says: a changed mean or dimension would be another space."""
    space, spec = card.space, card.preprocess
    if card.space_size is not None and card.role == "compatible":
        spec = spec.model_copy(update={"height": card.space_size, "width": card.space_size})
    fingerprint = spec.fingerprint()
    expected = space_id(
        weights_sha256=space.origin_weights_sha256, preprocess_fingerprint=fingerprint, dim=card.arch.dim
    )
    own = card.role == "compatible" or space.origin_weights_sha256 == card.weights_sha256
    if space.id != expected or space.dim != card.arch.dim or space.preprocess_fingerprint != fingerprint or not own:
        raise CheckpointError(
            f"{file} names a space that its weights, preprocessing and dimension do not make",
            got=space.id,
            expected=expected,
            fix="restore the file: preprocessing cannot be changed after training",
        )


def _load_tensors(file: Path, sha256: str) -> dict[str, Tensor]:
    try:
        state = load_file(file)
    except FileNotFoundError:
        raise CheckpointError(f"{file} is missing", fix="restore it or train again") from None
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise CheckpointError(f"{file} is damaged", got=error, fix="restore it from a copy") from error
    found = network_digest(state)
    if found != sha256:
        raise CheckpointError(
            f"{file} is not the file that model.json describes",
            got=f"digest {found[:16]}…",
            expected=f"{sha256[:16]}…",
            fix="restore both from the same run",
        )
    return state
