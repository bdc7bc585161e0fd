"""One network in training with its loss, optimizer and moving average, and its state as flat named tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from hetero.errors import CheckpointError
from hetero.losses.compatibility import CompatibilityLoss
from hetero.losses.config import LossConfig
from hetero.losses.reference import GalleryReference
from hetero.models.arch import ArchSpec
from hetero.models.network import EmbeddingNetwork, build_network, channels_last
from hetero.training.config import TrainConfig
from hetero.training.device import autocast_dtype
from hetero.training.schedule import learning_rate


class Trainee:
    """What a training step updates: the gallery model in its phase, each student in theirs.

    Args:
        train: its own, a student's overrides applied.
        steps: after how many its schedule ends; it rests while others go on.
        reference: what its loss needs of the gallery model; None for the gallery model.
        num_classes: of the training split.
        seed: of the weights. device: where everything lives.
    """

    def __init__(
        self,
        name: str,
        arch: ArchSpec,
        loss: LossConfig,
        train: TrainConfig,
        *,
        steps: int,
        num_classes: int,
        reference: GalleryReference | None = None,
        seed: int,
        device: torch.device,
    ) -> None:
        self.name, self.side, self.steps = name, arch.size, steps
        self.network = channels_last(build_network(arch, seed=seed).to(device))
        self.loss = CompatibilityLoss(loss, num_classes=num_classes, dim=arch.dim, reference=reference, seed=seed).to(
            device
        )
        self.optimizer = _optimizer([self.network, self.loss], train)
        self.average: AveragedModel | None = None
        if train.ema_decay is not None:
            self.average = AveragedModel(
                self.network,
                multi_avg_fn=get_ema_multi_avg_fn(train.ema_decay),  # type: ignore[no-untyped-call]
                use_buffers=True,
            )
        self._train = train
        self._autocast = autocast_dtype(device, train.precision)

    def learning_rate(self, step: int) -> float:
        """Of a 0-based step, see :func:`hetero.training.schedule.learning_rate`."""
        train = self._train
        return learning_rate(step, peak=train.lr, warmup_steps=train.warmup_steps, total_steps=self.steps)

    def embed(self, image: Float[Tensor, "n c s s"]) -> Float[Tensor, "n d"]:
        """The network's embeddings for training, float32 whatever the arithmetic inside."""
        with torch.autocast(image.device.type, dtype=self._autocast, enabled=self._autocast is not None):
            embedding: Tensor = self.network(image)
        return embedding.float()

    def update(self, loss: Float[Tensor, ""], step: int) -> None:
        """One optimizer step on ``loss``."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate(step)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        if self.average is not None:
            self.average.update_parameters(self.network)

    @property
    def result(self) -> EmbeddingNetwork:
        """The network to keep: the moving average where there is one."""
        if self.average is None:
            return self.network
        averaged = self.average.module
        assert isinstance(averaged, EmbeddingNetwork)  # noqa: S101 - AveragedModel wraps what it was given
        return averaged

    def state(self) -> dict[str, Tensor]:
        """Every tensor that the next step depends on, by name, for safetensors."""
        tensors = {f"{self.name}/{kind}/{key}": value for kind, key, value in self._module_tensors()}
        for index, entry in self.optimizer.state_dict()["state"].items():
            for key, value in entry.items():
                if value is not None:
                    tensors[f"{self.name}/optimizer/{index}/{key}"] = torch.as_tensor(value)
        return {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Take up what :meth:`state` gave.

        Raises:
            CheckpointError: a tensor is missing or of another shape.
        """
        modules: dict[str, nn.Module] = dict(self._modules())
        for kind, module in modules.items():
            prefix = f"{self.name}/{kind}/"
            own = {key.removeprefix(prefix): tensors[key] for key in tensors if key.startswith(prefix)}
            try:
                module.load_state_dict(own)
            except RuntimeError as error:
                raise CheckpointError(
                    f"the saved training state does not fit {self.name!r}",
                    got=" ".join(str(error).split())[:200],
                    fix="resume with the config that started the run",
                ) from error
        prefix = f"{self.name}/optimizer/"
        entries: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            if name.startswith(prefix):
                index, key = name.removeprefix(prefix).split("/")
                entries.setdefault(int(index), {})[key] = tensor
        whole: dict[str, Any] = self.optimizer.state_dict()
        whole["state"] = entries
        self.optimizer.load_state_dict(whole)

    def _modules(self) -> list[tuple[str, nn.Module]]:
        modules: list[tuple[str, nn.Module]] = [("network", self.network), ("loss", self.loss)]
        return modules + ([("average", self.average)] if self.average is not None else [])

    def _module_tensors(self) -> list[tuple[str, str, Tensor]]:
        return [(kind, key, value) for kind, module in self._modules() for key, value in module.state_dict().items()]


def _optimizer(modules: list[nn.Module], train: TrainConfig) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum or AdamW; scales, shifts and biases (one dimension) are not decayed."""
    parameters = [parameter for module in modules for parameter in module.parameters()]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": train.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if train.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=train.lr, momentum=train.momentum, nesterov=train.momentum > 0)
    return torch.optim.AdamW(groups, lr=train.lr, betas=(train.momentum, 0.999))
