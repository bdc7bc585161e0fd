"""The gallery model's embeddings of views that come round again, so that its forward runs once per view."""

from __future__ import annotations

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor, nn

Embedder = Callable[[Float[Tensor, "n c h w"]], Float[Tensor, "n d"]]


class GalleryMemory:
    """A frozen gallery model that remembers what it made of each of ``views`` batches, on the device it is on.

    Batches are told apart by step: steps that differ by a multiple of ``views`` show the same pictures. Nothing has
    to be saved to resume a run: a batch that is not remembered is embedded again, to the same bits.

    Args:
        gallery: the frozen network, in evaluation mode.
        views: number of different batches, or None where none comes twice: then nothing is kept.
    """

    def __init__(self, gallery: nn.Module, views: int | None) -> None:
        self._gallery, self._views = gallery, views
        self._known: dict[int, Tensor] = {}

    def at(self, step: int) -> Embedder:
        """What embeds the pictures of ``step``: the network, or the memory of it."""
        views = self._views
        return self._gallery if views is None else lambda image: self._recall(step % views, image)

    def _recall(self, view: int, image: Tensor) -> Tensor:
        if view not in self._known:
            self._known[view] = self._gallery(image)
        return self._known[view]
