"""Every row of the data stages is rendered: what the template refuses is a data error, or is folded, and counted."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, tiny_training

from stages.dpo import dpo
from stages.evaluate import evaluate
from stages.lib.data.ledger import Ledger
from stages.lib.data.rendered_rows import RowRenderer
from stages.lib.every_stage.errors import UserError
from stages.lib.every_stage.lineage import OFF, read_lineage, write_lineage
from stages.lib.every_stage.records import read_jsonl, write_jsonl
from stages.lib.models.chat import encode
from stages.lib.models.chat_template import UNFIT
from stages.lib.models.loading import load_tokenizer
from stages.lib.schema.choices import Overlap, PairSource, Rewording, RowSource, SystemMessages
from stages.lib.schema.data import PreparePdfQa, PreparePreferences, PrepareUltrachat, Reword, Rows
from stages.lib.schema.evaluation import Evaluate, SamplePreferences
from stages.lib.schema.merging import Merge, MergeDpo
from stages.lib.schema.training import Dpo, Sft
from stages.lib.training.token_rows import preference_rows
from stages.merge import merge
from stages.merge_dpo import merge_dpo
from stages.prepare_pdf_qa import prepare_pdf_qa
from stages.prepare_preferences import prepare_preferences
from stages.prepare_ultrachat import prepare_ultrachat
from stages.sample_preferences import sample_preferences
from stages.sft import sft
from tests.templates import FORGETFUL, GEMMA_2, MISTRAL_1, write_tokenizer

BASE = Path("models/base")
PAIRS = Path("data/prepared/preferences")
CHATS = Path("data/prepared/ultrachat")
FOLD, REFUSE = SystemMessages.fold, SystemMessages.refuse
KINDS = {"refuses": (GEMMA_2, "<end_of_turn>"), "alternates": (MISTRAL_1, "</s>"), "forgets": (FORGETFUL, "</s>")}


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "data/raw", "data/raw")
    for name in ("seen", "unseen", "unanswerable"):
        path = Path(f"data/prepared/pdf_qa/{name}.jsonl")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_jsonl(path, [])
    return tmp_path


def base(kind: str) -> Any:
    """models/base with a template of this kind; its tokenizer."""
    write_tokenizer(BASE, *KINDS[kind])
    return load_tokenizer(BASE)


def shipped_pairs(system_messages: SystemMessages, **changes: Any) -> None:
    rows = Rows(source=RowSource.jsonl, path="data/raw/preferences/preferences.jsonl")
    section = {"rows": rows, "system_messages": system_messages, "sources": [PairSource.rows]} | changes
    prepare_preferences(PreparePreferences(**section), Path())


def chat(*texts: str, system: str = "", **columns: Any) -> dict[str, Any]:
    messages = [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)]
    return {"messages": [{"role": "system", "content": system}, *messages] if system else messages} | columns


def prepare_chats(train: list[Any], evaluation: list[Any], **changes: Any) -> dict[str, Any]:
    for name, rows in (("train", train), ("evaluation", evaluation)):
        write_jsonl(Path(f"{name}.jsonl"), rows)
    sources = {name: {"en": Rows(source=RowSource.jsonl, path=f"{name}.jsonl")} for name in ("train", "evaluation")}
    prepare_ultrachat(
        PrepareUltrachat(**sources, **{"system_messages": FOLD, "max_reject_rate": 1.0} | changes), Path()
    )
    return report(CHATS)


def report(out: Path) -> dict[str, Any]:
    return json.loads((out / "data_report.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("kind", KINDS)
def test_the_shipped_pairs_reach_dpo_with_their_system_messages_folded(
    workspace: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = list(read_jsonl(Path("data/raw/preferences/preferences.jsonl")))
    assert sum(bool(row["system"]) for row in raw) == 151
    tokenizer = base(kind)
    shipped_pairs(FOLD)
    rows = [row for split in ("train", "evaluation") for row in read_jsonl(PAIRS / f"{split}.jsonl")]
    assert len(rows) == 398 and all([turn["role"] for turn in row["prompt"]] == ["user"] for row in rows)
    wanted = {f"{row['system']}\n\n{row['input']}" for row in raw if row["system"]}
    folded = [row for row in rows if row["prompt"][0]["content"] in wanted]
    assert report(PAIRS)["fixed"]["folded"] == len(folded) == 141
    assert "141 folded: a system message in front of the first question" in capsys.readouterr().out
    card = (PAIRS / "DATA_CARD.md").read_text(encoding="utf-8")
    assert "| folded | 141 |" in card and "takes no system message: 141 rows have it in front" in card
    for split in ("train", "evaluation"):
        pairs, dropped = preference_rows("dpo", {PAIRS / f"{split}.jsonl": 1.0}, tokenizer, 4096)
        assert pairs and not dropped["too_long"]
        assert all(pair["chosen_ids"][-1] == tokenizer.eos_token_id for pair in pairs)


@pytest.mark.parametrize("kind", KINDS)
def test_turns_before_a_pairs_question_are_rendered_and_learned_from(workspace: Path, kind: str) -> None:
    """The system message goes in front of the first question, which is not the one that is answered."""
    tokenizer = base(kind)
    row = {"system": "Be brief.", "history": [["What is a tide?", "A rise of the sea."]], "input": "And a wave?",
           "chosen": "A ridge that runs over it.", "rejected": "Nothing."}  # fmt: skip
    others = [{"input": f"What is {n}?", "chosen": f"{n}.", "rejected": "No."} for n in range(20)]
    write_jsonl(Path("data/raw/preferences/turns.jsonl"), [row, *others])
    rows = Rows(source=RowSource.jsonl, path="data/raw/preferences/turns.jsonl")
    shipped_pairs(FOLD, rows=rows, min_chosen_score=0.0)
    found = {row["prompt"][-1]["content"]: (split, number, row["prompt"]) for split in ("train", "evaluation")
             for number, row in enumerate(read_jsonl(PAIRS / f"{split}.jsonl"))}  # fmt: skip
    split, number, prompt = found["And a wave?"]
    assert [turn["content"] for turn in prompt] == [
        "Be brief.\n\nWhat is a tide?",
        "A rise of the sea.",
        "And a wave?",
    ]
    assert report(PAIRS)["fixed"] == {"folded": 1}
    pairs, _ = preference_rows("dpo", {PAIRS / f"{split}.jsonl": 1.0}, tokenizer, 4096)
    asked = tokenizer.decode(pairs[number]["prompt_ids"])
    assert "A rise of the sea." in asked and asked.index("Be brief.") < asked.index("And a wave?")


@pytest.mark.parametrize("kind", KINDS)
def test_not_folded_they_are_refused_by_their_lines(workspace: Path, kind: str) -> None:
    base(kind)
    with pytest.raises(UserError, match=r"141 of 422 rows are rejected") as caught:
        shipped_pairs(REFUSE)
    shown = [line for line in str(caught.value).splitlines() if line.startswith("  ")]
    said = "refused_by_template: models/base/chat_template.jinja takes no system message; system_messages=fold puts it"
    assert len(shown) == 5 and all(re.search(rf"preferences.jsonl:\d+: {said}", line) for line in shown)
    assert not (PAIRS / "train.jsonl").exists()
    shipped_pairs(REFUSE, max_reject_rate=1.0)
    assert report(PAIRS)["dropped"]["refused_by_template"] == 141 and report(PAIRS)["kept"] == 257


@pytest.mark.slow
@pytest.mark.chain
def test_a_model_that_takes_no_system_message_goes_through_the_whole_chain(
    workspace: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(workspace / "cache"))
    shutil.copytree(tiny_base, BASE)
    template = (BASE / "chat_template.jinja").read_text(encoding="utf-8")
    refusal = (
        "{%- if messages[0]['role'] == 'system' %}{{- raise_exception('System role not supported') }}{%- endif %}\n"
    )
    (BASE / "chat_template.jinja").write_text(refusal + template, encoding="utf-8")
    write_lineage(BASE, read_lineage(BASE))
    prepare_chats(
        [chat("What is a tide?", "A rise.", "And a wave?", "A push.", system="Be brief."), chat("Why so?", "So.")],
        [chat("Which one is held out of training here?", "This.", system="Be kind.")],
    )
    prepare_pdf_qa(PreparePdfQa(files=["data/raw/pdf_qa/office-guide.jsonl"], max_tokens=1024), Path())
    shipped_pairs(FOLD)
    sample_preferences(SamplePreferences(seed=1), Path())  # off
    sft(Sft(**tiny_training(max_steps=2)), Path())
    merge(Merge(), Path())
    dpo(Dpo(**tiny_training(beta=0.1, max_steps=2)), Path())
    merge_dpo(MergeDpo(), Path())
    for optional in ("preference-merged", "rl-merged", "pruned", "healed-merged"):
        Path("models", optional).mkdir()
        write_lineage(Path("models", optional), OFF)
    evaluate(Evaluate(max_new_tokens=3, bootstrap_resamples=20, seed=1, threads=1), Path())
    figures = json.loads(Path("metrics/eval.json").read_text(encoding="utf-8"))
    assert set(figures) == {"base", "sft", "dpo"} and "accuracy" in figures["dpo"]["preferences"]
    assert json.loads(Path("metrics/dpo.json").read_text(encoding="utf-8"))["step0_loss"] == 0.693147


def test_folding_moves_no_pair_between_the_splits(workspace: Path) -> None:
    found = []
    for kind in ("refuses", "forgets", ""):
        shutil.rmtree(BASE, ignore_errors=True)
        if kind:
            base(kind)
        else:
            write_tokenizer(BASE, (ROOT / "conf/chat_template/zephyr.jinja").read_text(encoding="utf-8"))
        shipped_pairs(FOLD)
        found.append([[row["id"] for row in read_jsonl(PAIRS / f"{s}.jsonl")] for s in ("train", "evaluation")])
    assert found[0] == found[1] == found[2]
    assert "folded" not in report(PAIRS)["fixed"]
    assert any(row["prompt"][0]["role"] == "system" for row in read_jsonl(PAIRS / "train.jsonl"))


@pytest.mark.parametrize("kind", KINDS)
def test_chats_are_folded_in_training_and_in_evaluation(workspace: Path, kind: str) -> None:
    tokenizer = base(kind)
    told = [chat("What is a tide?", "A rise.", "And a wave?", "A push.", system="Be brief."), chat("Why so?", "So.")]
    held = [chat("Which one is held out of training here?", "This.", system="Be kind.")]
    found = prepare_chats(told, held)
    assert found["fixed"] == {"folded": 2} and found["kept"] == 3
    first, plain = read_jsonl(CHATS / "train.jsonl")
    assert first["messages"][0] == {"role": "user", "content": "Be brief.\n\nWhat is a tide?"}
    assert plain["messages"] == told[1]["messages"]
    (row,) = read_jsonl(CHATS / "evaluation.jsonl")
    assert row["messages"][0]["content"] == "Be kind.\n\nWhich one is held out of training here?"
    for record in (first, plain, row):
        assert encode(tokenizer, record["messages"]).input_ids
    found = prepare_chats(told, held, system_messages=REFUSE)
    assert found["dropped"] == {"refused_by_template": 2} and found["kept"] == 1


def test_what_evaluation_asks_is_found_behind_a_system_message(workspace: Path) -> None:
    base("refuses")
    question = "Which evaluation question is this one here, please tell me now, and why does nobody train on it?"
    told = [chat(question, "Yes.", system="Be brief."), chat("Why so?", "So.", system="Be kind."),
            chat("why  so", "So.", system="Be brief.", prompt_id="other")]  # fmt: skip
    found = prepare_chats(told, [chat(question.replace("please", "pleas"), "No.", system="Be kind.")],
                          overlap=Overlap.drop)  # fmt: skip
    assert found["dropped"] == {"in_evaluation": 1, "duplicate_prompt": 1}


def test_a_row_that_the_template_alters_is_named(workspace: Path) -> None:
    write_tokenizer(BASE, GEMMA_2.replace("message['content'] | trim", "message['content'].split('</think>')[-1]"))
    thought = chat("What is a tide?", "<think>The sea.</think>A rise.")
    with pytest.raises(UserError, match=r"1 of 3 rows .*\n .*train.jsonl:2: altered_by_template: message 2 of 2"):
        prepare_chats([chat("Why so?", "So."), thought], [chat("How many windows?", "Nine.")], max_reject_rate=0.1)
    found = prepare_chats([chat("Why so?", "So."), thought], [chat("How many windows?", "Nine.")])
    assert found["dropped"] == {"altered_by_template": 1}
    assert next(read_jsonl(CHATS / "rejects.jsonl"))["text"].startswith(
        '[{"role": "user", "content": "What is a tide?"'
    )


def test_questions_of_pdfs_are_rendered_too(workspace: Path) -> None:
    write_tokenizer(BASE, GEMMA_2.replace("message['content'] | trim", "message['content'].replace('417', '')"))
    section = PreparePdfQa(files=["data/raw/pdf_qa/office-guide.jsonl"], max_tokens=4096, max_reject_rate=0.0)
    with pytest.raises(UserError, match=r"office-guide.jsonl:\d+: altered_by_template: message 2 of 2 \(assistant\)"):
        prepare_pdf_qa(section, Path())


def test_rewordings_are_rendered_too(workspace: Path) -> None:
    base("refuses")
    write_jsonl(Path("q.jsonl"), [{"instruction": "시민청 주소는 어디인가요?", "output": "초롱돌로 417입니다."}])
    counts = []
    for max_tokens in (400, 100):
        section = PreparePdfQa(files=["q.jsonl"], max_tokens=max_tokens, reword=Reword(Rewording.templates, wordings=9))
        prepare_pdf_qa(replace(section, held_out_facts=0.0), Path())
        counts.append(report(Path("data/prepared/pdf_qa"))["reworded"])
    assert counts[0]["unfit"] == 0 and counts[0]["added"] == counts[1]["added"] + counts[1]["unfit"]
    assert counts[1]["unfit"] > 0


@pytest.mark.parametrize("max_tokens", range(60, 130, 3))
def test_a_chat_is_truncated_by_the_tokens_that_training_sees(workspace: Path, max_tokens: int) -> None:
    tokenizer = base("refuses")
    whole = chat("What is a tide?", "A rise.", "And a wave?", "A push.", "And wind?", "Air.")
    prepare_chats([whole, chat("Why?", "So.")], [chat("How many?", "Nine.")], max_tokens=max_tokens)
    kept = [row["messages"] for row in read_jsonl(CHATS / "train.jsonl")]
    longest = [n for n in (6, 4, 2) if len(encode(tokenizer, whole["messages"][:n]).input_ids) <= max_tokens]
    assert kept[0] == (whole["messages"][: longest[0]] if longest else chat("Why?", "So.")["messages"])


def test_lengths_are_those_of_training(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(prepared)
    tokenizer, renderer = load_tokenizer(BASE), RowRenderer(BASE)
    rows = [
        *read_jsonl(Path("data/prepared/ultrachat/train.jsonl")),
        *read_jsonl(Path("data/prepared/pdf_qa/seen.jsonl")),
    ]
    assert len(rows) > 20
    for row in rows:
        assert renderer.tokens(row["messages"]) == len(encode(tokenizer, row["messages"]).input_ids)


def test_each_reason_of_a_template_is_a_step_of_every_funnel(tmp_path: Path) -> None:
    from stages.lib.conversations.conversation_gates import STEPS as CHAT_STEPS
    from stages.lib.pdf_qa.qa_gates import STEPS as QUESTION_STEPS
    from stages.prepare_preferences import STEPS as PAIR_STEPS

    for steps in (CHAT_STEPS, QUESTION_STEPS, PAIR_STEPS):
        with Ledger(tmp_path, steps) as ledger:
            assert set(UNFIT) <= set(ledger.step_of)
