"""What of the training rows is learned, as a page for people to look at."""

from __future__ import annotations

from html import escape
from itertools import groupby
from typing import TYPE_CHECKING

from stages.lib.models.chat import IGNORED

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from stages.lib.models.chat import TokenRow

SHOWN = 12

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>What SFT learns</title>
<style>
body {{ font: 16px/1.6 system-ui, sans-serif; max-width: 50rem; margin: 2rem auto; padding: 0 1rem; color: #222; }}
pre {{ white-space: pre-wrap; overflow-wrap: anywhere; border: 1px solid #ddd; border-radius: .4rem; padding: .8rem;
       color: #777; font: 14px/1.7 ui-monospace, monospace; }}
mark {{ background: #d8f5d0; color: #111; }}
mark.held {{ background: #d6e6fb; }}
h2 {{ font-size: 1rem; margin-bottom: .3rem; }}
</style>
<h1>What SFT learns</h1>
<p>{shown} of {total} rows as the model sees them. Only <mark>marked</mark> tokens are learned, stop tokens included;
{learned} of {tokens} tokens of all rows.{held}</p>
{rows}
</html>
"""


HELD = """
In rows whose marks are <mark class="held">blue</mark> nothing is learned: {count} tokens are held to what the base
model says there (<code>sft.keep_base</code>)."""


def render_supervision(rows: list[TokenRow], tokenizer: PreTrainedTokenizerBase) -> str:
    """An HTML page with the longest, the shortest and evenly spaced other rows of id, input_ids and labels.

    A row of raw text is among them if there is any. Rows may have `held` too: the tokens that are held to the base
    (keep_base.py).
    """
    order = sorted(range(len(rows)), key=lambda index: len(rows[index]["input_ids"]))
    step = max(1, (len(rows) - 1) // (SHOWN - 1))
    picked = sorted({order[0], order[-1], *range(0, len(rows), step)})[:SHOWN]
    raw = next((index for index in order[::-1] if rows[index].get("raw")), None)
    if raw is not None and not any(rows[index].get("raw") for index in picked):
        picked[-1] = raw
    labels = [label for row in rows for label in row["labels"]]
    held = sum(label != IGNORED for row in rows for label in row.get("held", []))
    return PAGE.format(
        shown=len(picked),
        total=len(rows),
        learned=sum(label != IGNORED for label in labels),
        tokens=len(labels),
        held=HELD.format(count=held) if held else "",
        rows="\n".join(render_row(rows[index], tokenizer) for index in picked),
    )


def render_row(row: TokenRow, tokenizer: PreTrainedTokenizerBase) -> str:
    """One row: its text, special tokens included, with the supervised spans marked."""
    spans = []
    held = row.get("held", [IGNORED] * len(row["labels"]))
    kinds = [
        "<mark>" if label != IGNORED else '<mark class="held">' if kept != IGNORED else ""
        for label, kept in zip(row["labels"], held, strict=True)
    ]
    for mark, run in groupby(zip(row["input_ids"], kinds, strict=True), key=lambda pair: pair[1]):
        text = escape(str(tokenizer.decode([token for token, _ in run], skip_special_tokens=False)))
        spans.append(f"{mark}{text}</mark>" if mark else text)
    kind = " · raw text, which ends in no stop token" if row.get("raw") else ""
    return f"<h2>{escape(str(row['id']))} · {len(row['input_ids'])} tokens{kind}</h2>\n<pre>{''.join(spans)}</pre>"
