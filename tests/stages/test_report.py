"""The report and the model card, made of a real evaluation of a tiny model; the page is opened in a browser."""

import ast
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT

from stages import report as module
from stages.benchmark import benchmark
from stages.evaluate import PREDICTIONS, evaluate
from stages.judge import judge
from stages.lib.every_stage.lineage import OFF, write_lineage
from stages.lib.every_stage.records import read_jsonl, write_jsonl
from stages.lib.schema.evaluation import Benchmark, Evaluate, Judge, Report
from stages.report import CARD, PAGE, SCORES, TEXT, report
from tests.browser import CHROMIUM, in_browser
from tools.scores import scores_text

pytestmark = pytest.mark.chain

SECTION = Report()


@pytest.fixture(scope="module")
def evaluated(prepared, tmp_path_factory):
    """A place where everything was measured; one answer holds what would break a page that doesn't escape it."""
    place = tmp_path_factory.mktemp("evaluated")
    (place / "data").symlink_to(prepared / "data")
    for name in ("base", "sft", "sft-merged", "dpo", "dpo-merged"):
        shutil.copytree(prepared / "models/base", place / "models" / name)
    for optional in ("preference-merged", "rl-merged", "pruned", "healed-merged"):
        (place / "models" / optional).mkdir()
        write_lineage(place / "models" / optional, OFF)
    shutil.copytree(ROOT / "metrics", place / "metrics", ignore=shutil.ignore_patterns("predictions*", "eval*"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        evaluate(Evaluate(max_new_tokens=3, bootstrap_resamples=20, seed=1, threads=1), place)
        judge(Judge(seed=1), place)
        benchmark(Benchmark(seed=1), place)
    rows = list(read_jsonl(place / PREDICTIONS))
    seen = [row for row in rows if row["split"] == "seen"]
    for row in seen:
        if row["model"] == "dpo" and row["id"] == seen[0]["id"]:
            row["prediction"] = "<script>fetch('http://example.com')</script><img src=x onerror=alert(1)> & 초롱돌로"
        if row["model"] == "sft" and row["id"] == seen[1]["id"]:
            row["scores"]["key_exact"] = 1.0  # a regression of dpo
    write_jsonl(place / PREDICTIONS, rows)
    return place


@pytest.fixture
def measured(evaluated, tmp_path, monkeypatch):
    """A copy of it to write into."""
    for name in ("metrics", "models"):
        shutil.copytree(evaluated / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def rate(value):
    return {"value": value, "low": max(0.0, value - 0.2), "high": min(1.0, value + 0.2), "n": 12, "groups": 6}


def test_report_and_card_hold_what_was_measured(measured):
    (measured / module.JUDGE).write_text(json.dumps({"dpo:base": {
        "win": 3, "tie": 2, "loss": 1, "win_rate": {"value": 0.67, "low": 0.4, "high": 0.9, "n": 6, "groups": 6},
        "win_rate_like_length": None, "inconsistent_rate": rate(0.5), "first_position_rate": rate(0.8),
        "longer_preferred_rate": None, "parse_error_rate": rate(0.0), "questions": 6, "identical": 0,
    }, "people": {"dpo@13eb9e7:sft": {
        "win": 30, "tie": 5, "loss": 15, "win_rate": {"value": 0.65, "low": 0.52, "high": 0.77, "n": 50, "groups": 50},
        "win_rate_like_length": None, "first_position_rate": rate(0.47), "longer_preferred_rate": rate(0.6),
    }}, "warnings": ["judge, dpo:base: prefers the first answer in 80% of its decisions"]}))  # fmt: skip
    cell = {"value": 0.25, "low": 0.11, "high": 0.39, "n": 40}
    tasks = {name: {"figures": {"local_mmlu": {"acc": cell}}} for name in ("base", "sft", "dpo")}
    (measured / module.BENCHMARK).write_text(json.dumps(tasks))
    report(SECTION, measured)
    text = (measured / TEXT).read_text(encoding="utf-8")
    page = (measured / PAGE).read_text(encoding="utf-8")
    assert "| seen | key_exact | 90 |" in text
    assert "## Right by sft, wrong by dpo (1)" in text
    assert "Right by sft, wrong by dpo: 1" in page
    for said in (
        "달여울시민청의 주소는 어디인가요?",
        "prefers the first answer in 80%",
        "local_mmlu",
        "0.25 [0.11, 0.39]",
        "0.67 [0.40, 0.90]",
        "dpo@13eb9e7:sft",
        "0.65 [0.52, 0.77]",
    ):
        assert said in text, said
        assert said in page, said
    assert "SFT: loss" in page
    assert "DPO: reward margin" in page
    assert "questions and answers" in page
    lineage = json.loads((measured / "models/base/lineage.json").read_text(encoding="utf-8"))
    assert [digest for digest in lineage.values() if isinstance(digest, str) and digest[:12] in page]


def test_the_verdict_is_in_report_page_card_and_terminal(measured, capsys):
    """Equal models, by random weights: nothing changed, both steps are named, and what to try."""
    report(SECTION, measured)
    printed = capsys.readouterr().out
    detail = json.loads((measured / module.DETAIL).read_text(encoding="utf-8"))
    texts = [printed, scores_text(detail), *((measured / path).read_text(encoding="utf-8") for path in (PAGE, TEXT))]
    for text in [*texts, (measured / CARD / "README.md").read_text(encoding="utf-8")]:
        for said in ("changed nothing measurable", "측정되는 것은 아무것도 달라지지 않았습니다",
                     "sft earned nothing", "dpo earned nothing", "try more"):  # fmt: skip
            assert said in text, said
    assert '<ul lang="ko"><li>측정되는' in texts[2]


def test_the_page_says_what_it_is_about_and_when_it_was_made(measured):
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b",
                   "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b"}  # fmt: skip

    def made():
        report(SECTION, measured)
        page = (measured / PAGE).read_text(encoding="utf-8")
        assert "<title>tiny0, tuned: what it learned</title>" in page and '<html lang="ko">' in page
        assert '<h2><span lang="ko">점수</span><i> · </i><span lang="en">Figures</span></h2>' in page
        return re.search(r"<p class=soft>(\d{4}-\d\d-\d\d \d\d:\d\d UTC)(, on commit [0-9a-f]{7,})?</p>", page)

    assert made().group(2) is None
    for words in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "first"]):
        subprocess.run(["git", *words], cwd=measured, env=environment, check=True)
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=measured, capture_output=True, text=True, check=True)
    assert head.stdout.startswith(made().group(2).removeprefix(", on commit "))


def test_a_difference_is_coloured_by_what_is_good(measured):
    detail = json.loads((measured / module.DETAIL).read_text(encoding="utf-8"))
    for split, name in (("seen", "key_exact"), ("control_ko", "perplexity")):
        for change in (detail["differences"], detail["steps"]):
            change["dpo"][split][name] |= {"value": 0.5, "low": 0.4, "high": 0.6}
    (measured / module.DETAIL).write_text(json.dumps(detail), encoding="utf-8")
    report(SECTION, measured)
    page = (measured / PAGE).read_text(encoding="utf-8")
    assert page.count('<span class="up">+0.50 [+0.40, +0.60] ▲</span>') == 4  # short and full table, two differences
    assert page.count('<span class="down">+0.50 [+0.40, +0.60] ▼</span>') == 4


@pytest.mark.parametrize(("name", "before"), [("orpo", "base"), ("kto", "sft")])
def test_a_model_beside_dpo_is_shown_by_its_method_where_it_ran(measured, name, before):
    detail = json.loads((measured / module.DETAIL).read_text(encoding="utf-8"))
    for key in ("models", "differences", "steps", "facts"):
        detail[key][name] = detail[key]["sft"]
    detail["started_from"][name] = before
    detail["demo"]["answers"][name] = "또 다른 대답"
    (measured / module.DETAIL).write_text(json.dumps(detail), encoding="utf-8")
    rows = list(read_jsonl(measured / PREDICTIONS))
    write_jsonl(measured / PREDICTIONS, [*rows, *({**r, "model": name} for r in rows if r["model"] == "sft")])
    report(SECTION, measured)
    text = (measured / TEXT).read_text(encoding="utf-8")
    page = (measured / PAGE).read_text(encoding="utf-8")
    assert f"| base | sft | dpo | {name} | dpo - base | dpo - sft |" in text
    assert f"## Right by {before}, wrong by {name} (0)" in text
    assert f"## Right by dpo, wrong by {name}" not in text
    assert f"{name} earned nothing: no aim is better than {before}'s beyond chance" in text
    assert "또 다른 대답" in page
    assert f'class="{name}"' in page


def test_the_page_is_one_file_that_asks_for_nothing(measured):
    report(SECTION, measured)
    page = (measured / PAGE).read_text(encoding="utf-8")
    assert "<script" not in page
    assert "&lt;script&gt;fetch" in page
    assert re.findall(r"""<[^>]*(?:src|href)=["']?(?!data:|#)[^"' >]+""", page) == []
    assert "url(" not in page
    assert "default-src 'none'" in page


def test_a_curve_is_drawn_through_the_steps_that_have_its_figure(measured):
    """A step without a held token has no KL divergence, and its cell is empty."""
    module.SFT_LOG.write_text("step,loss,kl_to_base\n1,2.0,\n2,1.5,0.1\n3,1.0,0.2\n", encoding="utf-8")
    report(Report(), measured)
    page = (measured / PAGE).read_text(encoding="utf-8")
    assert "SFT: KL divergence to the base on held chats" in page
    assert "SFT: share of tokens predicted" not in page


def test_answers_are_no_markup_in_report_and_card(measured):
    """The planted answer is among the wrong ones, in both."""
    report(SECTION, measured)
    for name in (TEXT, CARD / "README.md"):
        text = (measured / name).read_text(encoding="utf-8")
        assert not re.search(r"(?<!\\)<(script|img)", text)
        assert "http://example.com" not in text
    assert r"\<script\>fetch" in (measured / TEXT).read_text(encoding="utf-8")


def test_names_from_outside_are_no_markup_in_report_and_card(measured):
    """Of the base, its commit and licence, and what a judge's warning cites."""
    planted = "<script>a</script> [b](http://example.com)"
    path = measured / "models/base/lineage.json"
    known = json.loads(path.read_text(encoding="utf-8")) | {"name": planted, "commit": planted}
    path.write_text(json.dumps(known | {"license": "other", "license_name": planted}), encoding="utf-8")
    (measured / module.JUDGE).write_text(json.dumps({"people": {}, "warnings": [planted]}), encoding="utf-8")
    report(SECTION, measured)
    body = (measured / CARD / "README.md").read_text(encoding="utf-8").split("---\n", 2)[2]
    for text in (body, (measured / TEXT).read_text(encoding="utf-8")):
        assert r"\<script\>a" in text
        assert not re.search(r"(?<!\\)<script|(?<!\\)\[b|http://example", text)


def test_equal_measurements_give_equal_bytes_but_for_when(measured):
    def made():
        report(SECTION, measured)
        written = [(measured / path).read_text(encoding="utf-8") for path in (PAGE, TEXT, CARD / "README.md")]
        return [re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", "", text) for text in written]

    assert made() == made()


def test_the_card_is_read_by_the_hubs_own_library(measured):
    from huggingface_hub import ModelCard

    report(SECTION, measured)
    card = ModelCard.load(measured / CARD / "README.md")
    assert (card.data.base_model, card.data.license, card.data.language) == (None, "unknown", ["ko", "en"])
    results = {(result.dataset_type, result.metric_type): result.metric_value for result in card.data.eval_results}
    detail = json.loads((measured / module.DETAIL).read_text(encoding="utf-8"))
    assert results["seen", "key_exact"] == detail["models"]["dpo"]["seen"]["key_exact"]["value"]
    assert "## Limits" in card.text


def test_the_card_passes_on_the_base_models_terms(measured):
    report(SECTION, measured)
    assert "## Terms" not in (measured / CARD / "README.md").read_text(encoding="utf-8")
    lineage = json.loads((measured / "models/base/lineage.json").read_text(encoding="utf-8"))
    lineage["source"]["terms"] = {"notice": "Be kind", "url": "https://terms.example"}
    (measured / "models/base/lineage.json").write_text(json.dumps(lineage), encoding="utf-8")
    report(SECTION, measured)
    card = (measured / CARD / "README.md").read_text(encoding="utf-8")
    assert "## Terms\n\nBe kind. This model" in card
    assert "(https://terms.example)" in card


def test_the_card_names_the_base_that_was_trained_and_its_licence(measured):
    lineage = measured / "models/base/lineage.json"
    known = {**json.loads(lineage.read_text(encoding="utf-8")), "name": "example/Tiny-1M", "license": "gemma"}
    lineage.write_text(json.dumps({**known, "commit": "a1b2"}), encoding="utf-8")
    report(SECTION, measured)
    card = (measured / CARD / "README.md").read_text(encoding="utf-8")
    assert "base_model: example/Tiny-1M\n" in card
    assert "license: gemma\n" in card
    assert "license_name" not in card
    assert "\nexample/Tiny-1M at commit a1b2, tuned with SFT" in card
    assert "under which licence" not in card


def test_a_licence_that_nothing_names_is_a_warning_in_card_and_report(measured):
    report(SECTION, measured)
    warning = "nothing says under which licence"
    for path in (CARD / "README.md", PAGE, TEXT):
        assert warning in (measured / path).read_text(encoding="utf-8"), path


def test_the_cards_program_holds_a_question_with_quotes(measured):
    detail = json.loads((measured / module.DETAIL).read_text(encoding="utf-8"))
    detail["demo"]["question"] = 'Which "hall" is on C:\\floor?'
    (measured / module.DETAIL).write_text(json.dumps(detail), encoding="utf-8")
    report(SECTION, measured)
    card = (measured / CARD / "README.md").read_text(encoding="utf-8")
    program = card.split("```python\n")[1].split("```")[0]
    said = [node.value for node in ast.walk(ast.parse(program)) if isinstance(node, ast.Constant)]
    assert detail["demo"]["question"] in said


@pytest.mark.slow
@in_browser
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_opens_in_a_browser_without_error_or_request(measured, tmp_path, width):
    report(SECTION, measured)
    said, _ = browse(measured / PAGE, tmp_path, f"--window-size={width},1600", f"--screenshot={tmp_path / 'page.png'}")
    assert "CONSOLE" not in said
    assert (tmp_path / "page.png").stat().st_size > 10_000
    clean = observed(measured / PAGE, "performance.getEntriesByType('resource').map(entry => entry.name).join()", "")
    assert title_of(clean, tmp_path) == ""
    # An error and a request are seen if there are any.
    bad = observed(
        measured / PAGE,
        "performance.getEntriesByType('resource').map(entry => entry.name).join()",
        '<img src="http://127.0.0.1:9/x.png"><script>console.error("planted")</script>',
    )
    assert title_of(bad, tmp_path) == "http://127.0.0.1:9/x.png"
    said, _ = browse(bad, tmp_path, f"--screenshot={tmp_path / 'page.png'}")
    assert "CONSOLE" in said
    assert "planted" in said


@pytest.mark.slow
@in_browser
def test_nothing_is_wider_than_a_phone(measured, tmp_path):
    report(SECTION, measured)
    probe = observed(measured / PAGE, "document.documentElement.scrollWidth + ' ' + innerWidth", "")
    wide, window = map(int, width_in_frame(probe, tmp_path).split())
    assert window == 390
    assert wide <= window
    bad = observed(
        measured / PAGE, "document.documentElement.scrollWidth + ' ' + innerWidth", "<pre>" + "wide " * 99 + "</pre>"
    )
    assert int(width_in_frame(bad, tmp_path).split()[0]) > 1000


def observed(page: Path, expression: str, planted: str) -> Path:
    """A copy of a page that may run scripts and says in its title what a JavaScript expression gives."""
    text = re.sub(r'<meta http-equiv="Content-Security[^>]*>', "", page.read_text(encoding="utf-8"))
    copy = page.with_name(f"observed-{len(planted)}.html")
    script = f"<script>onload = () => {{ document.title = {expression} }}</script>"
    copy.write_text(text.replace("</main>", f"{planted}</main>{script}"), encoding="utf-8")
    return copy


def width_in_frame(page: Path, scratch: Path) -> str:
    """A page's title in a frame of a phone's width: headless Chromium's own window is never narrower than 500."""
    frame = page.with_name("frame.html")
    took = "document.title = this.contentDocument.title"
    frame.write_text(f'<iframe src="{page.name}" width="390" height="800" onload="{took}"></iframe>', encoding="utf-8")
    return title_of(frame, scratch)


def title_of(page: Path, scratch: Path) -> str:
    """A page's title once it is loaded."""
    _, dump = browse(page, scratch, "--dump-dom", "--virtual-time-budget=3000")
    return re.search(r"<title>(.*?)</title>", dump).group(1)


def browse(page: Path, scratch: Path, *options: str) -> tuple[str, str]:
    """Open a page in headless Chromium that reaches nobody; what it says on standard error and output."""
    fixed = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
    fixed += ["--disable-background-networking", "--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr"]
    fixed += ["--allow-file-access-from-files", f"--user-data-dir={scratch / 'profile'}"]
    command = [CHROMIUM, *fixed, *options, page.resolve().as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stderr, done.stdout


def test_dvcs_tables_show_ten_figures_as_evaluation_has_them(measured):
    report(SECTION, measured)
    shown = json.loads((measured / SCORES).read_text(encoding="utf-8"))
    everything = json.loads((measured / "metrics/eval.json").read_text(encoding="utf-8"))
    cells = [(model, name, figure) for model in shown for name in shown[model] for figure in shown[model][name]]
    assert len(cells) == 10
    assert all(shown[m][name][figure] == everything[m][name][figure] for m, name, figure in cells)
