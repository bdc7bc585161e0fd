"""``templates.json`` for people: a table a protocol, and what is to be known about its numbers."""

from __future__ import annotations

from typing import Any

from hetero.report import words
from hetero.report.templates import TemplateReport
from hetero.retrieval.bootstrap import Interval
from hetero.retrieval.template_scores import Pair

_NAMED = 5  # templates in a note; templates.json has all


def render_templates(report: TemplateReport) -> Any:
    """Both tables with the notes beneath, as something rich can print."""
    from rich.console import Group
    from rich.text import Text

    parts: list[Any] = []
    if report.verification is not None and report.comparisons.pairs is not None:
        pairs, impostors = report.comparisons.pairs, report.comparisons.impostor_pairs
        title = f"1:1, {len(pairs) - impostors:,} genuine and {impostors:,} impostor pairs: TAR at the FAR of each pair"
        rows: list[tuple[str, list[Interval]]] = [
            (_label(report, pair), [point.true_accept_rate for point in points])
            for pair, points in report.verification.cells.items()
        ]
        rows += [
            (_control(name), [point.true_accept_rate for point in points])
            for name, points in report.verification.controls.items()
        ]
        parts.append(_table(title, [f"FAR {far:g}" for far in report.fars], rows))
    if report.identification is not None:
        found = list(report.identification.cells.items())
        counts = ", ".join(
            f"{name}: {found[0][1].mated[name]:,} mated and {found[0][1].non_mated[name]:,} non-mated probes"
            for name in report.comparisons.galleries
        )
        columns = [f"rank {rank}" for rank in report.ranks] + [f"TPIR, FPIR {fpir:g}" for fpir in report.fpirs]
        named = [(_label(report, pair), one) for pair, one in found]
        named += [(_control(name), one) for name, one in report.identification.controls.items()]
        rows = [
            (label, [*one.rank_rates.values(), *(point.true_positive_rate for point in one.open_set)])
            for label, one in named
        ]
        parts.append(_table(f"1:N, mean over the galleries ({counts})", columns, rows))
    return Group(*parts, Text("\n".join(_notes(report))))


def _label(report: TemplateReport, pair: Pair) -> str:
    query, enrolled = pair
    cell = report.cell(pair)
    return f"{query}\n  {cell}" if query == enrolled else f"{query} → {enrolled}\n  {cell}"


def _control(name: str) -> str:
    return f"{name} → gallery model\n  control"


def _notes(report: TemplateReport) -> list[str]:
    data = report.data
    notes = [f"{data['images']:,} faces of {data['subjects']:,} subjects in {data['templates']:,} templates"]
    for rate in report.unsupported:
        trials = "impostor pairs" if rate.kind == "FAR" else "non-mated probes"
        least = "none" if rate.least is None else f"{rate.least:g}"
        notes.append(
            f"left out: {rate.kind} {rate.rate:g} needs {rate.needed:,} {trials}, there are {rate.trials:,}; "
            f"the least rate that they support: {least}"
        )
    left_out = data["templates_left_out"]
    if left_out:
        shown = ", ".join(str(name) for name in left_out[:_NAMED]) + (", …" if len(left_out) > _NAMED else "")
        notes.append(f"left out: {len(left_out)} templates without a readable image: {shown}")
    for rule in report.rules:
        verdict = "holds" if rule.satisfied else "does NOT hold"
        value, low, high = (words.signed(number) for number in rule.difference)
        notes.append(
            f"{rule.student}: the compatibility rule {verdict} in {rule.protocol}: "
            f"heterogeneous {words.MINUS} homogeneous {rule.metric} {value} [{low}, {high}]"
        )
    return notes


def _table(title: str, columns: list[str], rows: list[tuple[str, list[Interval]]]) -> Any:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title), title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("query → gallery", *columns):
        table.add_column(name, overflow="fold")
    for label, rates in rows:
        table.add_row(Text(label), *(Text(_rate(rate)) for rate in rates))
    return table


def _rate(rate: Interval) -> str:
    """The interval beneath the value: six rates then fit beside each other."""
    value, low, high = (words.share(number) for number in rate)
    return f"{value}\n[{low}, {high}]"
