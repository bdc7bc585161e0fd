"""What ``hetero templates`` measured: ``templates.json`` and the checks; docs/retrieval.md lists the keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from hetero.report.schema import Check
from hetero.retrieval.comparisons import Comparisons, UnsupportedRate
from hetero.retrieval.presets import TEMPLATE_PRESETS
from hetero.retrieval.template_scores import Identifications, Pair, Rule, Verification

TEMPLATES_SCHEMA: Final = 1
TEMPLATES_JSON: Final = "templates.json"


@dataclass(frozen=True)
class TemplateReport:
    """Both protocols of one run.

    Attributes:
        run: what made the numbers: run, versions, seed, space. data: what they were measured on.
        models: by name ``role``, ``size`` (side of its pictures in pixels) and ``weights_sha256``; gallery model first.
        comparisons: what was compared.
        fars, ranks, fpirs: what was measured. unsupported: rates asked for and left out.
        verification, identification: None where the protocol was not measured.
        checks: what must hold.
    """

    run: Mapping[str, Any]
    data: Mapping[str, Any]
    models: Mapping[str, Mapping[str, Any]]
    comparisons: Comparisons
    fars: tuple[float, ...]
    ranks: tuple[int, ...]
    fpirs: tuple[float, ...]
    unsupported: tuple[UnsupportedRate, ...]
    verification: Verification | None
    identification: Identifications | None
    checks: tuple[Check, ...]

    @property
    def rules(self) -> tuple[Rule, ...]:
        """Of all students, 1:1 first."""
        return tuple(rule for part in (self.verification, self.identification) if part for rule in part.rules)

    def preset(self, protocol: str) -> str | None:
        """The preset whose rates and ranks these are, all of them; None of any other choice."""
        mine = (self.fars, (), ()) if protocol == "1:1" else ((), self.ranks, self.fpirs)
        return next((p.name for p in TEMPLATE_PRESETS.values() if (p.fars, p.ranks, p.fpirs) == mine), None)

    def cell(self, pair: Pair) -> str:
        """``paragon``, ``heterogeneous``, ``homogeneous``, ``reverse`` or ``between students``."""
        query, enrolled = pair
        gallery = next(iter(self.models))
        if query == enrolled:
            return "paragon" if query == gallery else "homogeneous"
        if gallery not in pair:
            return "between students"
        return "heterogeneous" if enrolled == gallery else "reverse"

    def to_json(self) -> dict[str, Any]:
        """The document ``templates.json``."""
        return {
            "templates_schema": TEMPLATES_SCHEMA,
            "run": dict(self.run),
            "data": dict(self.data),
            "models": [{"name": name, **facts} for name, facts in self.models.items()],
            "verification": self._verification(),
            "identification": self._identification(),
            "unsupported": [rate.to_json() for rate in self.unsupported],
            "rule": [
                {
                    "student": rule.student,
                    "protocol": rule.protocol,
                    "metric": rule.metric,
                    "satisfied": rule.satisfied,
                    "difference": rule.difference.to_json(),
                }
                for rule in self.rules
            ],
            "checks": [check.model_dump(mode="json") for check in self.checks],
        }

    def _named(self, pair: Pair) -> dict[str, str]:
        return {"cell": self.cell(pair), "query_model": pair[0], "gallery_model": pair[1]}

    def _verification(self) -> dict[str, Any] | None:
        if self.verification is None or self.comparisons.pairs is None:
            return None
        pairs, impostors = self.comparisons.pairs, self.comparisons.impostor_pairs
        return {
            "preset": self.preset("1:1"),
            "genuine_pairs": len(pairs) - impostors,
            "impostor_pairs": impostors,
            "cells": [
                {**self._named(pair), "points": [point.to_json() for point in points]}
                for pair, points in self.verification.cells.items()
            ],
            "controls": [
                {"query_model": name, "points": [point.to_json() for point in points]}
                for name, points in self.verification.controls.items()
            ],
        }

    def _identification(self) -> dict[str, Any] | None:
        if self.identification is None:
            return None
        return {
            "preset": self.preset("1:N"),
            "galleries": {name: len(rows) for name, rows in self.comparisons.galleries.items()},
            "chance_rank_1": self.identification.chance,
            "cells": [{**self._named(pair), **found.to_json()} for pair, found in self.identification.cells.items()],
            "controls": [
                {"query_model": name, **found.to_json()} for name, found in self.identification.controls.items()
            ],
        }


def template_checks(
    verification: Verification | None, identification: Identifications | None, *, times_chance: float | None
) -> tuple[Check, ...]:
    """The compatibility rule for each student and protocol, and that controls are near chance.

    Args:
        times_chance: how many times chance a control may reach, ``evaluation.expect.control_times_chance``; None: any.
    """
    rules = [rule for part in (verification, identification) if part is not None for rule in part.rules]
    checks = [
        Check(
            name=f"{rule.student}: compatibility rule, {rule.protocol}, heterogeneous − homogeneous {rule.metric}",
            passed=rule.satisfied,
            value=rule.difference.value,
            expected="95 % interval above 0",
        )
        for rule in rules
    ]
    if times_chance is None:
        return tuple(checks)
    if verification is not None:
        for name, points in verification.controls.items():
            point = max(points, key=lambda one: one.far)
            # with a threshold that accepts a share of the impostors, a model that knows nothing accepts it of all
            value = point.true_accept_rate.value
            checks.append(_near_chance(name, f"TAR@FAR={point.far:g}", value, point.far, times_chance))
    if identification is not None:
        for name, found in identification.controls.items():
            checks.append(_near_chance(name, "rank 1", found.rank_rates[1].value, identification.chance, times_chance))
    return tuple(checks)


def _near_chance(name: str, metric: str, value: float, chance: float, times: float) -> Check:
    return Check(
        name=f"{name}: a control's {metric} against the gallery is near chance",
        passed=value <= times * chance,
        value=value,
        expected=f"≤ {times * chance:.4f} ({times:g} × chance)",
    )
