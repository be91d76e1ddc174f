"""What a data stage leaves for people and plots: data_report.json, DATA_CARD.md, a metric, a funnel, a histogram."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from stages.lib.data.ledger import FOLDED, REJECTS, Ledger
from stages.lib.every_stage.foreign_text import in_markdown, sentence_in_markdown, shown
from stages.lib.every_stage.publish import published
from stages.lib.every_stage.records import write_json

REPORT = "data_report.json"
CARD = "DATA_CARD.md"
NUMBERS = ("in", "kept", "dropped", "splits", "raw_text")
"""Parts of a report that are in its metric."""
BARS = 16
"""Bars of the token-length histogram, the last one holding everything longer."""


def token_histogram(lengths: Iterable[int], max_tokens: int) -> dict[int, int]:
    """Rows by token length: upper edge of the bar -> rows. `max_tokens` 0 stands for 2048."""
    width = max(1, (max_tokens or 2048) // BARS)
    counts = Counter(min(max(length - 1, 0) // width + 1, BARS + 1) * width for length in lengths)
    return {edge: counts[edge] for edge in range(width, max(counts, default=width) + 1, width)}


def headline(out: Path, report: dict[str, Any]) -> str:
    """One line for whoever watches the stage, and one for each file whose columns have other names than ours."""
    dropped = ", ".join(f"{count} {reason}" for reason, count in report["dropped"].items())
    folded = report["fixed"].get(FOLDED)
    told = f"; {folded} folded: a system message in front of the first question" if folded else ""
    read_as = "".join(f"{line}\n" for line in columns_read(report))
    return shown(
        f"{read_as}{report['in']} rows read = {report['kept']} kept + {sum(report['dropped'].values())} dropped"
        f"{f' ({dropped})' if dropped else ''}{told}; look at {out / CARD}"
    )


def columns_read(report: dict[str, Any]) -> list[str]:
    """A sentence for each source whose columns have other names than ours, or some that were passed over."""
    return [f"{source['name']}: {source['read_as']}." for source in report["sources"] if source.get("read_as")]


def write_reports(
    out: Path,
    metrics: tuple[Path, Path, Path],
    report: dict[str, Any],
    ledger: Ledger,
    histogram: dict[int, int],
    card: str,
    more_bars: Iterable[tuple[str, int]] = (),
) -> None:
    """Write the report and the card into `out`, and the metric, the funnel and the histogram at `metrics`.

    The metric is the report's numbers; the report has its texts too. `more_bars` stand below the funnel.
    """
    write_json(out / REPORT, report)
    (out / CARD).write_text(card, encoding="utf-8")
    metric, funnel, tokens = metrics
    numbers = {name: part for name in NUMBERS if (part := report.get(name)) is not None}
    with published(metric) as path:
        write_json(path, numbers)
    with published(funnel) as path:
        write_csv(path, "step,rows", [*ledger.funnel(), *more_bars])
    with published(tokens) as path:
        write_csv(path, "tokens,rows", histogram.items())


def write_csv(path: Path, header: str, rows: Iterable[tuple[object, int]]) -> None:
    """Write two columns whose values hold no comma."""
    path.write_text("\n".join([header, *(f"{name},{count}" for name, count in rows)]) + "\n", encoding="utf-8")


def data_card(
    title: str,
    report: dict[str, Any],
    ledger: Ledger,
    histogram: dict[int, int],
    notes: list[str],
    more: Iterable[str] = (),
) -> str:
    """A data card in Markdown: where the rows come from, what was done to them, what is left, caveats.

    `more` are parts that stand before the caveats.
    """
    parts = [f"# {title}", "Written by the stage from what it read and counted; nothing here was typed by hand."]
    parts += ["## Sources", table(("source", "rows", "SHA-256 or revision"), [
        (source["name"], rows_of(source), source["version"]) for source in report["sources"]
    ])]  # fmt: skip
    parts += map(sentence_in_markdown, columns_read(report))
    parts += [
        "## Rows",
        f"{report['in']} rows read = {report['kept']} kept + {sum(report['dropped'].values())} dropped.",
    ]
    parts += [table(("step", "rows left"), ledger.funnel())]
    if report["dropped"]:
        parts += [f"Dropped, each listed in `{REJECTS}`:", table(("reason", "rows"), report["dropped"].items())]
    if report["fixed"]:
        parts += ["Fixed and kept:", table(("what", "rows"), report["fixed"].items())]
    if report["reported"]:
        parts += ["Kept, but look at them:", table(("what", "rows"), report["reported"].items())]
    parts += ["## Splits", table(("split", "rows"), [
        (name, f"{split['rows']}{parts_of(split)}") for name, split in report["splits"].items()
    ])]  # fmt: skip
    parts += ["## Length", table(("up to tokens", "rows"), histogram.items()), *more]
    if folded := report["fixed"].get(FOLDED):
        notes = [*notes, f"The base model's chat template takes no system message: {folded} rows have it in front of "
                         "their first question, with an empty line between. `system_messages: refuse` rejects such "
                         "rows instead."]  # fmt: skip
    if notes:
        parts += ["## Caveats", "\n".join(f"- {sentence_in_markdown(note)}" for note in notes)]
    return "\n\n".join(parts) + "\n"


def rows_of(source: dict[str, Any]) -> str:
    """How many rows a source gave, those of raw text apart."""
    return f"{source['rows']} and {text} of raw text" if (text := source.get("text_rows")) else str(source["rows"])


def parts_of(split: dict[str, Any]) -> str:
    """How many facts the rows of a split are about, or how many rows each of its sets has, in brackets."""
    if "facts" in split:
        return f" ({split['facts']} facts)"
    sets = ", ".join(f"{count} {name}" for name, count in split.get("sets", {}).items())
    return f" ({sets})" if sets else ""


def table(header: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> str:
    """A Markdown table."""
    rule = "| " + " | ".join(["---"] * len(header)) + " |"
    head, *body = ["| " + " | ".join(in_markdown(str(cell)) for cell in line) + " |" for line in [header, *rows]]
    return "\n".join([head, rule, *body])
