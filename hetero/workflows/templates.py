"""``hetero templates``: a run's models on a benchmark of templates, in both of its protocols."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np

import hetero
from hetero.data.dataset import Dataset
from hetero.data.ijbc import Ijbc, IjbcConfig, read_ijbc
from hetero.data.pixels import read_pixels
from hetero.errors import ConfigError, DataError, MissingExtraError, nearest
from hetero.report.templates import TemplateReport, template_checks
from hetero.retrieval.comparisons import choose_rates, make_comparisons
from hetero.retrieval.presets import find_template_preset
from hetero.retrieval.template_scores import score_galleries, score_pairs
from hetero.retrieval.templates import embed_templates
from hetero.space import require_same_space
from hetero.workflows.fleet import GALLERY

if TYPE_CHECKING:
    from hetero.models.checkpoint import LoadedModel

LAYOUTS, PROTOCOLS = ("protocols", "meta"), ("1:1", "1:N", "both")
BLOCK = 4096  # faces decoded at a time
_BLOCKS_PER_LINE = 8  # of progress: a line every half minute or so


def evaluate_templates(
    run: Path,
    path: Path,
    *,
    layout: str | None = None,
    protocol: str | None = None,
    skip_bad: bool = False,
    fars: Sequence[float] = (),
    fpirs: Sequence[float] = (),
    only_supported: bool = False,
    controls: bool = False,
    device: str | None = None,
    threads: int | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> TemplateReport:
    """Embed IJB-C with the gallery model and every compatible student of a run, each with its own preprocessing.

    Args:
        run: a finished run directory. path: the benchmark's folder (docs/data.md).
        layout: ``protocols`` or ``meta``, where both are there.
        protocol: ``1:1``, ``1:N``, ``both``; None measures whatever has its files there.
        skip_bad: leave unreadable images out, and templates without any.
        fars, fpirs: instead of those of the presets ``ijbc-1:1`` and ``ijbc-1:N``.
        only_supported: leave out rates with too few comparisons, and name them, instead of refusing them.
        controls: score the controls, too; never as compatible.
        device: instead of the run's. threads: of torch on the CPU.
        say: told what is going on.

    Raises:
        ConfigError, CheckpointError, SpaceMismatchError, DataError, RetrievalError: as the parts do.
    """
    try:
        import torch

        from hetero.training.device import resolve_device
        from hetero.training.run import read_run
    except ImportError:
        raise MissingExtraError("hetero templates", "torch", "train") from None

    _require_known("--layout", layout, LAYOUTS)
    _require_known("--protocol", protocol, PROTOCOLS)
    config = read_run(run).config
    models = _load(run, [s.name for s in config.students if controls or s.role == "compatible"])
    if not any(model.card.role == "compatible" for model in models.values()):
        raise ConfigError(
            f"{run} has no compatible student, so there is nothing to compare",
            fix="add one to the config and run hetero train again: it keeps the gallery model",
        )
    if threads is not None:
        torch.set_num_threads(threads)
    target = str(resolve_device(device or config.device))
    say(f"reading {path}")
    found = _read(path, layout, protocol, skip_bad=skip_bad, asked=(bool(fars), bool(fpirs)))
    comparisons = make_comparisons(found.templates, found.pairs, found.galleries, found.probes)
    pair_preset, search_preset = find_template_preset("ijbc-1:1"), find_template_preset("ijbc-1:N")
    used_fars, used_fpirs, unsupported = choose_rates(
        comparisons, fars or pair_preset.fars, fpirs or search_preset.fpirs, only_supported=only_supported
    )
    vectors = {
        name: embed_templates(
            _embedded(name, model, found.dataset, target, say), found.templates, skip_empty=skip_bad
        ).vectors
        for name, model in models.items()
    }
    in_space = {name: rows for name, rows in vectors.items() if models[name].card.role != "control"}
    others = {name: rows for name, rows in vectors.items() if name not in in_space}
    verification = identification = None
    if comparisons.pairs is not None:
        verification = score_pairs(in_space, others, comparisons, used_fars, seed=config.seed, say=say)
    if comparisons.probes is not None:
        identification = score_galleries(
            in_space, others, comparisons, search_preset.ranks, used_fpirs, seed=config.seed, say=say
        )
    return TemplateReport(
        run={
            "name": config.name,
            "config_sha256": config.digest(),
            "space_id": models[GALLERY].space.id,
            "hetero_version": hetero.__version__,
            "versions": {"numpy": np.__version__, "torch": str(torch.__version__)},
            "device": target,
            "seed": config.seed,
        },
        data={
            "name": found.dataset.name,
            "images": len(found.dataset),
            "subjects": len(found.dataset.class_names),
            "templates": len(comparisons.subjects),
            "templates_left_out": comparisons.left_out.tolist(),
            "skipped": list(found.dataset.skipped),
        },
        models={name: _facts(model) for name, model in models.items()},
        comparisons=comparisons,
        fars=used_fars,
        ranks=search_preset.ranks if identification is not None else (),
        fpirs=used_fpirs,
        unsupported=unsupported,
        verification=verification,
        identification=identification,
        checks=template_checks(
            verification, identification, times_chance=config.evaluation.expect.control_times_chance
        ),
    )


def _require_known(option: str, value: str | None, known: tuple[str, ...]) -> None:
    if value is not None and value not in known:
        raise ConfigError(f"{option} has no value {value!r}", expected=nearest(value, known), fix=f"correct {option}")


def _load(run: Path, names: Sequence[str]) -> dict[str, LoadedModel]:
    """The gallery model, then the students that were not stopped; a compatible one must be of its space."""
    from hetero.models.checkpoint import load_model
    from hetero.training.students import read_stopped

    models = {GALLERY: load_model(run / "gallery")}
    stopped = read_stopped(run)
    models |= {name: load_model(run / "students" / name) for name in names if name not in stopped}
    for name, model in models.items():
        if model.card.role == "compatible":
            require_same_space(
                model.space.id, models[GALLERY].space.id, query=f"student {name!r}", gallery=f"{run / 'gallery'}"
            )
    return models


def _read(path: Path, layout: str | None, protocol: str | None, *, skip_bad: bool, asked: tuple[bool, bool]) -> Ijbc:
    """The benchmark; refuses a protocol that was asked for, by name or by a rate of it, and is not there."""
    found = read_ijbc(
        IjbcConfig(
            path=path,
            layout=cast("Literal['protocols', 'meta'] | None", layout),
            protocol=None if protocol == "both" else cast("Literal['1:1', '1:N'] | None", protocol),
            skip_bad=skip_bad,
        )
    )
    # a list of one protocol may serve the other, too: what was not asked for is not measured
    pairs = None if protocol == "1:N" else found.pairs
    galleries, probes = ({}, None) if protocol == "1:1" else (found.galleries, found.probes)
    for name, there, option in (("1:1", pairs is not None, "--far"), ("1:N", probes is not None, "--fpir")):
        rates = asked[0] if name == "1:1" else asked[1]
        if not there and (rates or protocol in (name, "both")):
            asking = option if rates else f"--protocol {protocol}"
            raise DataError(
                f"{path}: {asking} asks for the protocol {name}, which is not there",
                got=f"--protocol {protocol}" if protocol in PROTOCOLS[:2] else "no files of it",
                expected="its lists (docs/data.md)",
                fix=f"leave {option} out" if rates else "unpack the whole release, or name the protocol that is there",
            )
    return Ijbc(found.dataset, found.templates, pairs, galleries, probes)


def _embedded(name: str, model: LoadedModel, dataset: Dataset, device: str, say: Callable[[str], None]) -> np.ndarray:
    """``float32 [n, d]``, a row a face."""
    from hetero.models.embed import embed

    spec, network = model.preprocess, model.network.to(device)
    say(f"embedding {len(dataset):,} faces with {name}, at {spec.height}×{spec.width}")
    parts = []
    for block, start in enumerate(range(0, len(dataset), BLOCK)):
        if block and block % _BLOCKS_PER_LINE == 0:
            say(f"{name}: {start:,} of {len(dataset):,} faces")
        pixels = read_pixels(dataset, np.arange(start, min(start + BLOCK, len(dataset))), spec)
        parts.append(embed(network, pixels, spec, device=device))
    model.network.to("cpu")
    return np.concatenate(parts)


def _facts(model: LoadedModel) -> Mapping[str, Any]:
    card = model.card
    return {"role": card.role, "size": card.preprocess.height, "weights_sha256": card.weights_sha256}
