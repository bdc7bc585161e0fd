"""Each loss, forward and backward, against its formula written out in PyTorch, and against pytorch-metric-learning."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from pytorch_metric_learning import losses as metric_losses
from pytorch_metric_learning.distances import CosineSimilarity
from torch import Tensor
from torch.nn import functional as F

from hetero.losses.alignment import alignment_loss, l2_alignment_loss
from hetero.losses.centre import boundary_loss, centre_alignment_loss, class_centres
from hetero.losses.centroid import centroid_loss
from hetero.losses.contextual import contextual_loss
from hetero.losses.contrastive import contrastive_loss
from hetero.losses.decoupled import decoupled_loss
from hetero.losses.distillation import logit_distillation_loss
from hetero.losses.influence import influence_loss
from hetero.losses.ranking import ranking_loss
from hetero.losses.relational import relational_loss
from hetero.losses.softmax import margin_softmax_loss
from hetero.losses.structure import product_anchors, structure_loss
from hetero.losses.triplet import triplet_loss

BATCH, DIM, CLASSES, BANK, NEAREST, PARTS, ROUNDS = 256, 128, 1000, 4096, 32, 16, 15
Loss = Callable[[Tensor], Tensor]

_draw = torch.Generator().manual_seed(0)
GALLERY = torch.randn(BATCH, DIM, generator=_draw)
QUERY = GALLERY + 0.7 * torch.randn(BATCH, DIM, generator=_draw)
LABELS = torch.arange(BATCH) // 4 * 7 % CLASSES  # four pictures a class, as PK batches have them
PROTOTYPES = torch.randn(CLASSES, DIM, generator=_draw)
OWN = torch.randn(CLASSES, DIM, generator=_draw)
CANDIDATES = torch.randn(BANK, DIM, generator=_draw)
ANCHORS = product_anchors(CANDIDATES, parts=PARTS, anchors=64, seed=0)
CENTRES, BOUNDARIES, _ = class_centres(GALLERY, LABELS, num_classes=CLASSES)
EVERY = torch.ones(BATCH, dtype=torch.bool)
SAME = LABELS[:, None] == LABELS[None, :]


def run() -> list[dict[str, object]]:
    """Ratios of time: ours over the formula written out, and over pytorch-metric-learning."""
    results: list[dict[str, object]] = []
    for name, ours in OURS.items():
        results.append(_result(name, _ratio(ours, DIRECT[name]), "its formula written out in PyTorch", 1.1))
        if name in PEERS:
            results.append(_result(name, _ratio(ours, PEERS[name]), "pytorch-metric-learning", 1.0))
    return results


def _result(name: str, ratio: float, against: str, goal: float) -> dict[str, object]:
    label = f"{name} loss, {BATCH}×{DIM}, {CLASSES} classes, forward and backward, time"
    return {"name": label, "ratio": ratio, "against": against, "goal": goal, "better": "lower"}


def _ratio(ours: Loss, other: Loss) -> float:
    """Median over rounds that time both in turn, each the mean of as many calls as take about 20 ms."""
    assert torch.allclose(ours(QUERY), other(QUERY), rtol=1e-3), "not the same formula"
    repeats = max(1, int(0.02 / _seconds(ours, 3)))
    pairs = [(_seconds(ours, repeats), _seconds(other, repeats)) for _ in range(ROUNDS)]
    return statistics.median(first / second for first, second in pairs)


def _seconds(loss: Loss, repeats: int) -> float:
    query = QUERY.clone().requires_grad_(True)
    start = time.perf_counter()
    for _ in range(repeats):
        query.grad = None
        loss(query).backward()  # type: ignore[no-untyped-call]
    return (time.perf_counter() - start) / repeats


def _plain(query: Tensor) -> Tensor:
    return F.cross_entropy(query @ PROTOTYPES.T, LABELS)


def _centre_alignment(query: Tensor) -> Tensor:  # of prototypes, as many classes as there are pictures, all known
    return 0.5 * (F.normalize(query[EVERY]) - F.normalize(GALLERY[EVERY])).square().sum(1).mean()


def _nearest(query: Tensor, count: int) -> tuple[Tensor, Tensor]:
    bank = F.normalize(CANDIDATES)
    known, rows = (F.normalize(GALLERY) @ bank.T).topk(count)
    return known, (F.normalize(query) @ bank.T).gather(1, rows)


def _softmax(query: Tensor) -> Tensor:
    cosines = F.normalize(query) @ F.normalize(PROTOTYPES).T
    return F.cross_entropy(16 * (cosines - 0.2 * F.one_hot(LABELS, CLASSES)), LABELS)


def _contrastive(query: Tensor) -> Tensor:
    cosines = F.normalize(query) @ F.normalize(GALLERY).T
    push = (cosines[~SAME] - 0.1).relu()
    return (1 - cosines[SAME]).mean() + push.sum() / (push > 0).sum()


def _triplet(query: Tensor) -> Tensor:
    cosines = F.normalize(query) @ F.normalize(GALLERY).T
    anchors, positives = SAME.nonzero(as_tuple=True)
    excess = (cosines[anchors] - cosines[anchors, positives][:, None] + 0.5).relu() * ~SAME[anchors]
    return excess.sum() / (excess > 0).sum()


def _contextual(query: Tensor, count: int = NEAREST) -> Tensor:
    known, seen = _nearest(query, count)
    return F.kl_div((seen / 0.1).log_softmax(1), (known / 0.1).softmax(1), reduction="batchmean")


def _among_the_batch(query: Tensor) -> Tensor:
    known, rows = (F.normalize(GALLERY) @ F.normalize(GALLERY).T).topk(NEAREST)
    seen = (F.normalize(query) @ F.normalize(GALLERY).T).gather(1, rows)
    return F.kl_div((seen / 0.1).log_softmax(1), (known / 0.1).softmax(1), reduction="batchmean")


def _structure(query: Tensor) -> Tensor:
    def logits(unit: Tensor) -> Tensor:
        return torch.einsum("bme,mke->bmk", unit.reshape(BATCH, PARTS, -1), ANCHORS) / 0.1

    known, seen = logits(F.normalize(GALLERY)).softmax(2), logits(F.normalize(query)).log_softmax(2)
    return F.kl_div(seen, known, reduction="sum") / (BATCH * PARTS)


def _ranking(query: Tensor) -> Tensor:
    known, seen = _nearest(query, NEAREST)
    ahead = torch.heaviside(known[:, None, :] - known[:, :, None], torch.tensor(0.5))
    return ((((seen[:, None, :] - seen[:, :, None]) / 0.1).sigmoid() - ahead) ** 2).mean()


def _decoupled(query: Tensor) -> Tensor:
    known, seen = _nearest(query, NEAREST)
    wanted, found = known[:, None, :] - known[:, :, None], seen[:, None, :] - seen[:, :, None]
    relative = (found - wanted) / (0.1 + wanted.abs())
    agreement = found.detach() * wanted
    wrong = (relative * (agreement < 0)).flatten(1).norm(dim=1).mean()
    right = (relative * (agreement > 0)).flatten(1).norm(dim=1).mean()
    return 10 * (1 - F.cosine_similarity(query, GALLERY)).mean() + (wrong + right) / NEAREST


def _centroid(query: Tensor) -> Tensor:
    _, row, count = torch.unique(LABELS, return_inverse=True, return_counts=True)
    sums = torch.zeros(len(count), DIM).index_add(0, row, F.normalize(query) - F.normalize(GALLERY))
    return 0.5 * (sums / count[:, None]).square().sum(1).mean()


def _boundary(query: Tensor) -> Tensor:
    cosines = F.cosine_similarity(query, CENTRES[LABELS])
    return (BOUNDARIES[LABELS] - cosines).relu().mean()


def _logits(query: Tensor) -> Tensor:
    known = (4 * F.normalize(GALLERY) @ F.normalize(PROTOTYPES).T).softmax(1)
    seen = (4 * F.normalize(query) @ F.normalize(OWN).T).log_softmax(1)
    return 16 * F.kl_div(seen, known, reduction="batchmean")


def _relational(query: Tensor) -> Tensor:
    def distances(unit: Tensor) -> Tensor:
        table = torch.cdist(unit, unit)
        return table / (table.sum() / (BATCH * (BATCH - 1)))

    def angles(unit: Tensor) -> Tensor:
        directions = F.normalize(unit[None] - unit[:, None], dim=2)
        return torch.bmm(directions, directions.transpose(1, 2))

    seen, known = F.normalize(query), F.normalize(GALLERY)
    return 25 * F.smooth_l1_loss(distances(seen), distances(known)) + 50 * F.smooth_l1_loss(angles(seen), angles(known))


OURS: dict[str, Loss] = {
    "softmax": lambda q: margin_softmax_loss(q, PROTOTYPES, LABELS, scale=16, margin=0.2),
    "influence": lambda q: influence_loss(q, PROTOTYPES, LABELS, scale=16, margin=0.2),
    "plain influence": lambda q: influence_loss(q, PROTOTYPES, LABELS, scale=16, margin=0.2, normalised=False),
    "alignment": lambda q: alignment_loss(q, GALLERY),
    "l2 alignment": lambda q: l2_alignment_loss(q, GALLERY),
    "centroid": lambda q: centroid_loss(q, GALLERY, LABELS),
    "contrastive": lambda q: contrastive_loss(q, GALLERY, LABELS, margin=0.1),
    "triplet": lambda q: triplet_loss(q, GALLERY, LABELS, margin=0.5),
    "contextual": lambda q: contextual_loss(
        q, GALLERY, CANDIDATES, neighbours=NEAREST, query_temperature=0.1, gallery_temperature=0.1
    ),
    "contextual, 1,024 neighbours,": lambda q: contextual_loss(
        q, GALLERY, CANDIDATES, neighbours=1024, query_temperature=0.1, gallery_temperature=0.1
    ),
    "contextual among the batch": lambda q: contextual_loss(
        q, GALLERY, GALLERY, neighbours=NEAREST, query_temperature=0.1, gallery_temperature=0.1
    ),
    "structure": lambda q: structure_loss(q, GALLERY, ANCHORS, query_temperature=0.1, gallery_temperature=0.1),
    "ranking": lambda q: ranking_loss(q, GALLERY, CANDIDATES, neighbours=NEAREST, temperature=0.1),
    "decoupled": lambda q: decoupled_loss(
        q, GALLERY, CANDIDATES, neighbours=NEAREST, feature=10, inconsistent=1, consistent=1
    ),
    "boundary": lambda q: boundary_loss(q, CENTRES, BOUNDARIES, LABELS),
    "centre alignment": lambda q: centre_alignment_loss(q, GALLERY, EVERY),
    "logit distillation": lambda q: logit_distillation_loss(q, OWN, GALLERY, PROTOTYPES, scale=16, temperature=4),
    "relational": lambda q: relational_loss(q, GALLERY, distance=25, angle=50),
}
DIRECT: dict[str, Loss] = {
    "softmax": _softmax,
    "influence": _softmax,
    "plain influence": _plain,
    "alignment": lambda q: (1 - (F.normalize(q) * F.normalize(GALLERY)).sum(1)).mean(),
    "l2 alignment": lambda q: ((q - GALLERY) ** 2).mean(),
    "centroid": _centroid,
    "contrastive": _contrastive,
    "triplet": _triplet,
    "contextual": _contextual,
    "contextual, 1,024 neighbours,": lambda q: _contextual(q, 1024),
    "contextual among the batch": _among_the_batch,
    "structure": _structure,
    "ranking": _ranking,
    "decoupled": _decoupled,
    "boundary": _boundary,
    "centre alignment": _centre_alignment,
    "logit distillation": _logits,
    "relational": _relational,
}
_COSINE = metric_losses.CosFaceLoss(num_classes=CLASSES, embedding_size=DIM, margin=0.2, scale=16)
_COSINE.W.data = PROTOTYPES.T.contiguous()
_COSINE.requires_grad_(False)  # as ours are here: no gradient for prototypes on either side
_CONTRASTIVE = metric_losses.ContrastiveLoss(pos_margin=1, neg_margin=0.1, distance=CosineSimilarity())
_TRIPLET = metric_losses.TripletMarginLoss(margin=0.5, distance=CosineSimilarity())
# Labels in another tensor, or the peer would take the gallery's embeddings for the query's own and leave i = j out.
PEERS: dict[str, Loss] = {
    "softmax": lambda q: _COSINE(q, LABELS),
    "influence": lambda q: _COSINE(q, LABELS),
    "contrastive": lambda q: _CONTRASTIVE(q, LABELS, ref_emb=GALLERY, ref_labels=LABELS.clone()),
    "triplet": lambda q: _TRIPLET(q, LABELS, ref_emb=GALLERY, ref_labels=LABELS.clone()),
}
