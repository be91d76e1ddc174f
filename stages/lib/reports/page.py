"""metrics/eval_report.html: the evaluation on one page that opens offline, at any width, light or dark."""

from collections.abc import Sequence
from html import escape
from typing import Any

from stages.lib.reports import words
from stages.lib.reports.bilingual import Words
from stages.lib.reports.charts import bar_chart, interval_chart, line_chart
from stages.lib.reports.evidence import (
    Evidence,
    benchmark_rows,
    benchmarked,
    learned_answers,
    lost_answers,
    people_rows,
    regressions,
    sets_in,
    shown_in,
    wrong_answers,
)
from stages.lib.reports.numbers import Cell, counted, figure, judgement, marked
from stages.lib.reports.verdict import verdict
from stages.lib.reports.words import HEADINGS

SHARES = ["key_exact", "key_recall", "chrf", "rouge_l", "korquad_f1", "stop_rate", "refusal_rate", "over_refusal_rate",
          "accuracy"]  # fmt: skip

STYLE = """
:root { color-scheme: light dark; --ink: #1d2430; --soft: #5b6676; --paper: #f6f7f9; --card: #fff; --line: #dde2e9;
  --base: #8a94a3; --sft: #2f6fde; --dpo: #d9622b;
  --beside: #8a52c7; --rl: #b0721a; --good: #1d7f4e; --bad: #b3342d; --warn: #fff4d6;
  --warnink: #6b4d00 }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ee; --soft: #9aa5b5; --paper: #14171c; --card: #1d2128;
  --line: #333a45; --base: #9aa5b5; --sft: #6ea2ff; --dpo: #ff945f;
  --beside: #c39bf0; --rl: #e8b35c; --good: #5fd097; --bad: #ff8078; --warn: #3a3013;
  --warnink: #f3d98b } }
* { box-sizing: border-box } html { -webkit-text-size-adjust: 100% }
body { margin: 0; background: var(--paper); color: var(--ink); line-height: 1.55; overflow-wrap: anywhere;
  font-family: system-ui, "Noto Sans KR", "Apple SD Gothic Neo", "Malgun Gothic", NanumGothic, sans-serif;
  word-break: keep-all }
main { max-width: 77rem; margin: 0 auto; padding: 1.5rem 1rem 4rem }
h1 { font-size: 1.7rem; margin: 0 } h2 { font-size: 1.2rem; margin: 2.4rem 0 .6rem }
p { margin: .4rem 0 } i { font-style: normal; color: var(--soft) } h2 [lang=en] { color: var(--soft); font-weight: 400 }
#ko:target ~ main [lang=en], #ko:target ~ main i, #en:target ~ main [lang=ko], #en:target ~ main i { display: none }
#en:target ~ main h2 [lang=en] { color: inherit; font-weight: inherit }
nav { float: right; font-size: .9rem } nav a { color: var(--soft); margin-left: .6rem }
.soft, figcaption { color: var(--soft); font-size: .9rem }
section > .box, .answer, figure, .warn, details { background: var(--card); border: 1px solid var(--line);
  border-radius: 10px; padding: .8rem 1rem; margin: 0 0 .7rem }
.verdict { font-size: 1.05rem; border-left: 4px solid var(--sft); padding-left: .8rem; margin: .8rem 0 }
.verdict ul { margin: .2rem 0; padding-left: 1.1rem }
.warn { background: var(--warn); color: var(--warnink); border-color: transparent } .warn p { margin: .2rem 0 }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(10.5rem, 1fr)); gap: .7rem; margin-top: 1rem }
.cards div { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: .8rem 1rem }
.cards b { display: block; font-size: 1.6rem; line-height: 1.2 } .cards span { color: var(--soft); font-size: .85rem }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 21rem), 1fr)); gap: .7rem }
figure { margin: 0 } svg { display: block; width: 100%; height: auto; font-size: 12px; fill: var(--soft) }
svg rect { fill: var(--sft) } .grid { stroke: var(--line) } .curve { fill: none; stroke: var(--sft); stroke-width: 2 }
.whisker { stroke-width: 3; opacity: .45 } g.base { stroke: var(--base); fill: var(--base) }
g.sft { stroke: var(--sft); fill: var(--sft) } g.dpo { stroke: var(--dpo); fill: var(--dpo) }
g:is(.orpo, .cpo, .simpo, .kto, .pruned, .healed) { stroke: var(--beside); fill: var(--beside) }
g.rl { stroke: var(--rl); fill: var(--rl) } circle { stroke: none }
.scroll { overflow-x: auto } table { border-collapse: collapse; width: 100%; font-size: .82rem }
th, td { text-align: left; padding: .35rem .45rem; border-bottom: 1px solid var(--line); white-space: nowrap;
  font-variant-numeric: tabular-nums } th { color: var(--soft); font-weight: 600 } td.wrap { white-space: normal }
.answer p { margin: .25rem 0; display: grid; grid-template-columns: minmax(4rem, max-content) 1fr }
.answer .q { display: block; font-weight: 600 }
.tag { display: inline-block; margin-right: .4rem; color: var(--soft); font-size: .82rem }
.tag.base { color: var(--base) } .tag.sft { color: var(--sft) } .tag.dpo { color: var(--dpo) }
.tag:is(.orpo, .cpo, .simpo, .kto, .pruned, .healed) { color: var(--beside) } .tag.rl { color: var(--rl) }
.up { color: var(--good) } .down { color: var(--bad) } summary { cursor: pointer; font-weight: 600 }
code { font-size: .84rem; word-break: break-all }
@media (max-width: 40rem) { .short th, .short td { white-space: normal; overflow-wrap: break-word;
  padding: .3rem .2rem; font-size: .72rem }
  .short th:nth-child(3), .short td:nth-child(3), .short th:nth-last-child(2), .short td:nth-last-child(2) {
  display: none } }
"""


def page(evidence: Evidence) -> str:
    """The whole page. Its policy forbids every request, so that it shows the same offline and tells nobody."""
    parts = [
        section("", headline(evidence)),
        section("figures", short_table(evidence) + figures_chart(evidence) + full_table(evidence)),
        section("learning", '<div class="charts">' + "".join(curves(evidence)) + "</div>"),
        section("before_and_after", before_and_after(evidence)),
        section("worst", worst(evidence)),
        section("regressions", "".join(regression(evidence, *pair) for pair in regressions(evidence))),
    ]
    if evidence.judged:
        parts.append(section("judge", judge(evidence.judged)))
    if evidence.people:
        parts.append(section("people", f'<div class="box">{table(words.VOTED, people_rows(evidence.people))}</div>'))
    if evidence.benchmark:
        parts.append(section("benchmark", benchmark(evidence)))
    parts += [
        section("data", '<div class="charts">' + "".join(
            bar_chart(words.FUNNELS[name].inline(), words.FUNNELS[name].en, steps)
            for name, steps in evidence.funnels.items()) + "</div>"),
        section("lineage", lineage(evidence)),
    ]  # fmt: skip
    return (
        f'<!doctype html>\n<html lang="ko"><head><meta charset="utf-8"><title>{escape(titled(evidence).en)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; "
        'img-src data:">'
        f'<style>{STYLE}</style></head><body><a id="ko"></a><a id="en"></a>'
        f"<main>{''.join(parts)}</main></body></html>\n"
    )


def section(name: str, content: str) -> str:
    """A part of the page, titled where it has a heading."""
    return f"<section>{heading(name) if name else ''}{content}</section>"


def heading(name: str) -> str:
    """A part's title, in both languages."""
    return f"<h2>{HEADINGS[name].inline()}</h2>"


def titled(evidence: Evidence) -> Words:
    """What the page is about, for a tab among others: the base model by its name."""
    return words.title(evidence.lineages["base"]["name"].rpartition("/")[2])


def headline(evidence: Evidence) -> str:
    """Title, the four figures that matter, and caveats."""
    models, detail = evidence.models, evidence.detail
    cards = []
    controls = [split for split in sets_in(detail["models"][models[0]]) if split.startswith("control_")]
    for split, name, told in (
        ("seen", "key_exact", words.SEEN),
        ("unanswerable", "refusal_rate", words.REFUSED),
        *((split, "perplexity", words.perplexity_of(split.removeprefix("control_"))) for split in controls),
        ("preferences", "accuracy", words.PREFERRED),
    ):
        before, after = (detail["models"][model].get(split, {}).get(name) for model in (models[0], evidence.tuned))
        if before and after:
            cards.append(
                f"<div><b>{after['value']:.2f}</b>{told.inline('<br>')}<br>"
                f"<span>[{after['low']:.2f}, {after['high']:.2f}], n {after['n']}"
                f"<br>{models[0]}: {before['value']:.2f}</span></div>"
            )
    warned = "".join(
        line.paragraphs() if line.ko != line.en else f"<p>{escape(line.en)}</p>" for line in evidence.warnings
    )
    said = verdict(detail)
    lists = "".join(
        f'<ul lang="{language}">' + "".join(f"<li>{escape(getattr(each, language))}</li>" for each in said) + "</ul>"
        for language in ("ko", "en")
    )
    asked = words.how_asked(detail["settings"]["max_new_tokens"])
    return (
        '<nav><a href="#ko" lang="">한국어</a><a href="#en" lang="">English</a></nav>'
        f"<h1>{titled(evidence).inline('<br>')}</h1><p class=soft>{escape(evidence.made)}</p>"
        f'<div class="verdict">{lists}</div><p class=soft>{" → ".join(models)}</p>'
        f'{asked.paragraphs("soft")}<div class="cards">{"".join(cards)}</div>'
        + (f'{heading("caveats")}<div class="warn">{warned}</div>' if warned else "")
    )


def table(header: Sequence[Words | str], rows: list[list[str]]) -> str:
    """A table that scrolls inside its box on a narrow screen. Cells are HTML already, those of the header aren't."""
    head = "".join(f"<th>{cell.inline() if isinstance(cell, Words) else escape(cell)}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def figure_rows(evidence: Evidence, names: list[tuple[str, str]]) -> list[list[str]]:
    """A line for each split and figure: every model's value and the last one's difference to the first."""
    models, detail = evidence.models, evidence.detail
    rows = []
    for split, name in names:
        cells = [detail["models"][model].get(split, {}).get(name) for model in models]
        if any(cells):
            n = next(cell["n"] for cell in cells if cell)
            found = [detail[kind][evidence.tuned].get(split, {}).get(name) for kind in ("differences", "steps")]
            told = [coloured(change, split, name) for change in found]
            named = [word.replace("_", "_<wbr>") for word in (split, name)]  # where a narrow screen may break them
            rows.append([*named, str(n), *(figure(cell) for cell in cells), *told])
    return rows


def coloured(change: Cell | None, split: str, name: str) -> str:
    """A difference, green if it is better beyond chance and red if it is worse, whatever its sign."""
    kind = ("", "up", "down")[judgement(change, split, name)]
    text = escape(marked(change, split, name))
    return f'<span class="{kind}">{text}</span>' if kind else text


def short_table(evidence: Evidence) -> str:
    """The lines that the terminal shows too."""
    models = evidence.models
    meanings = "".join(f"<p class=soft><b>{name}</b>: {told.inline()}</p>" for name, told in words.MEANINGS.items())
    header: list[Words | str] = [words.SET, words.FIGURE, "n", *models, *evidence.compared]
    rows = figure_rows(evidence, shown_in(evidence.detail["models"][models[0]]))
    return f'<div class="box short">{table(header, rows)}{words.BETTER_AND_WORSE.paragraphs("soft")}{meanings}</div>'


def full_table(evidence: Evidence) -> str:
    """Every figure, folded."""
    models, detail = evidence.models, evidence.detail
    figures = detail["models"][models[0]]
    names = [(split, name) for split in sets_in(figures) for name in sorted(figures[split])]
    header: list[Words | str] = [words.SET, words.FIGURE, "n", *models, *evidence.compared]
    rows = table(header, figure_rows(evidence, names))
    return f"<details><summary>{words.ALL_FIGURES.inline()}</summary>{rows}</details>"


def figures_chart(evidence: Evidence) -> str:
    """Dots and whiskers of the figures that are shares."""
    charts = []
    for split in sets_in(evidence.detail["models"][evidence.models[0]]):
        rows = []
        for name in SHARES:
            series = [(model, evidence.detail["models"][model].get(split, {}).get(name)) for model in evidence.models]
            found = [(model, cell) for model, cell in series if cell]
            if found:
                rows.append((name, found))
        if rows:
            charts.append(interval_chart(split, rows))
    return f'<div class="charts">{"".join(charts)}</div><br>'


def curves(evidence: Evidence) -> list[str]:
    """Training curves of the logs that there are."""
    return [
        line_chart(title.inline(), title.en, points)
        for stage, column, title in words.CURVES
        if (points := [(row["step"], row[column]) for row in evidence.logs.get(stage, []) if column in row])
    ]


def answer(question: str, reference: str, given: list[tuple[str, str]]) -> str:
    """A question, what was wanted, and what the models said."""
    wanted = f'<p><span class="tag">{words.WANTED.inline()}</span>{escape(reference)}</p>' if reference else ""
    said = "".join(
        f'<p><span class="tag {model}">{model}</span>{escape(" ".join(text.split())[:400]) or words.EMPTY.inline()}</p>'
        for model, text in given
    )
    return f'<div class="answer"><p class="q">{escape(question)}</p>{wanted}{said}</div>'


def before_and_after(evidence: Evidence) -> str:
    """The demo question and some that tuning taught."""
    demo, learned = evidence.detail["demo"], learned_answers(evidence)
    shown = []
    if all(row["prompt"] != demo["question"] for rows in learned for row in rows.values()):
        shown.append(answer(demo["question"], "", [(model, demo["answers"][model]) for model in evidence.models]))
    for rows in learned:
        first = next(iter(rows.values()))
        given = [(model, row["prediction"]) for model, row in rows.items()]
        shown.append(answer(first["prompt"], first["reference"], given))
    return "".join(shown)


def worst(evidence: Evidence) -> str:
    """The ten worst wrong answers on facts that were trained."""
    rows, model = wrong_answers(evidence), evidence.tuned
    shown = "".join(answer(row["prompt"], row["reference"], [(model, row["prediction"])]) for row in rows[:10])
    return words.wrong(len(rows), model).paragraphs("soft") + shown


def regression(evidence: Evidence, before: str, after: str) -> str:
    """Every fact that one model states correctly and a later one doesn't."""
    lost = lost_answers(evidence, before, after)
    shown = "".join(
        answer(old["prompt"], old["reference"], [(before, old["prediction"]), (after, new["prediction"])])
        for old, new in lost
    )
    title = words.lost(before, after, len(lost)).inline()
    shown = shown or words.NONE.paragraphs()
    return f"<details{' open' if 0 < len(lost) <= 5 else ''}><summary>{title}</summary>{shown}</details>"


def judge(figures: dict[str, Any]) -> str:
    """The judge's figures, with those that show its biases."""
    rows = []
    for pair, cells in figures.items():
        names = ("inconsistent_rate", "first_position_rate", "longer_preferred_rate", "parse_error_rate")
        rates = [counted(cells[name]) for name in names]
        counts = f"{cells['win']} / {cells['tie']} / {cells['loss']}"
        rows.append([pair, counts, figure(cells["win_rate"]), figure(cells["win_rate_like_length"]), *rates])
    return f'<div class="box">{table(words.JUDGED, rows)}</div>'


def benchmark(evidence: Evidence) -> str:
    """lm-evaluation-harness's figures."""
    rows = [[escape(cell) for cell in row] for row in benchmark_rows(evidence)]
    return f'<div class="box">{table([words.TASK, words.FIGURE, "n", *benchmarked(evidence)], rows)}</div>'


def lineage(evidence: Evidence) -> str:
    """What each model was made of, and how it was scored."""
    rows = []
    for directory, record in evidence.lineages.items():
        made = {name: record[name][:12] for name in record if name.endswith("sha256") and isinstance(record[name], str)}
        made |= {name: digest[:12] for name, digest in record.get("data", {}).items()}
        cell = "<br>".join(f"{escape(name)} <code>{escape(digest)}</code>" for name, digest in made.items())
        rows.append([f"<code>{escape(directory)}</code>", escape(str(record.get("kind", ""))), cell])
    detail = evidence.detail
    facts = {**detail["settings"], **detail["signatures"], **detail["versions"]}
    facts |= {f"{name}.jsonl": digest[:12] for name, digest in detail["sets_sha256"].items()}
    settings = [[escape(name), f"<code>{escape(str(value))}</code>"] for name, value in facts.items()]
    return (
        f'<div class="box">{table([words.MODEL, words.KIND, words.MADE_OF], rows)}</div>'
        f"<details><summary>{words.HOW_SCORED.inline()}</summary>{table([words.WHAT, words.VALUE], settings)}</details>"
    )
