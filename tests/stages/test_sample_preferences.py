"""Pairs from the tiny merged model's own answers: what it writes, what it refuses to ask, what DPO makes of it."""

import json
import shutil

import pytest
from conftest import tiny_training

import stages.dpo
import stages.sample_preferences
from stages.dpo import PREFERENCES, dpo
from stages.lib.every_stage.errors import UserError
from stages.lib.every_stage.lineage import read_lineage
from stages.lib.every_stage.records import read_jsonl, write_jsonl
from stages.lib.schema.choices import AskedOf, Dtype
from stages.lib.schema.evaluation import SamplePreferences
from stages.lib.schema.merging import Merge
from stages.lib.schema.training import Dpo, Sft
from stages.merge import merge
from stages.sample_preferences import METRICS, MODEL, OUT, PDF_QA, sample_preferences
from stages.sft import sft

pytestmark = pytest.mark.chain
HELD_OUT = PREFERENCES / "evaluation.jsonl"


def section(**changes):
    """A tiny model of random weights hits its stop token now and then, and says nothing that is right."""
    values = {
        "enabled": True,
        "sources": [AskedOf.pdf_qa],
        "dtype": Dtype.float32,
        "seed": 1,
        "threads": 1,
        "max_new_tokens": 60,
        "wordings": 1,
    }
    return SamplePreferences(**{**values, **changes})


@pytest.fixture
def merged(place):
    """A merged model, and data of the test's own."""
    sft(Sft(**tiny_training(max_steps=1)), place)
    merge(Merge(), place)
    shared = place.joinpath("data").resolve()
    place.joinpath("data").unlink()
    shutil.copytree(shared, place / "data")
    return place


def metrics(root):
    return json.loads((root / METRICS).read_text(encoding="utf-8"))


def test_it_writes_these_files_twice_with_equal_bytes_and_accounts_for_every_answer(merged):
    facts = sample_preferences(section(), merged / "a")
    sample_preferences(section(), merged / "b")
    names = sorted(path.name for path in (merged / "a" / OUT).iterdir())
    assert names == ["DATA_CARD.md", "samples.jsonl", "train.jsonl"]
    for name in names:
        assert (merged / "a" / OUT / name).read_bytes() == (merged / "b" / OUT / name).read_bytes(), name
    assert (merged / "a" / METRICS).read_bytes() == (merged / "b" / METRICS).read_bytes()
    found = metrics(merged / "a")
    pairs, samples = (list(read_jsonl(merged / "a" / OUT / f"{name}.jsonl")) for name in ("train", "samples"))
    asked = found["questions"]["asked"]
    trained = list(read_jsonl(PDF_QA / "train.jsonl"))
    assert asked == len({row["fact_id"] for row in trained})
    assert asked + found["questions"]["other_wordings"] == found["questions"]["known"] == len(trained)
    assert sum(found["answers"].values()) == len(samples) == 8 * asked
    rejected = sum(found["answers"].get(reason, 0) for reason in ("wrong_fact", "made_up", "refused"))
    assert rejected == sum(found["left_out"].values()) + len(pairs) > 5
    assert sum(found["pairs"].values()) == len(pairs) == facts["pairs"]
    assert found["pairs"]["made_up"] > 0
    answers = {row["messages"][-2]["content"]: row["messages"][-1]["content"] for row in trained}
    assert all(answers[pair["prompt"][-1]["content"]] == pair["chosen"] != pair["rejected"] for pair in pairs)
    card = (merged / "a" / OUT / "DATA_CARD.md").read_text(encoding="utf-8")
    assert f"| made_up | {found['pairs']['made_up']} |" in card


def test_answers_hardly_depend_on_the_batch(merged):
    """A draw that falls between two tokens goes either way with the last digit of their probabilities."""
    sample_preferences(section(), merged / "a")
    sample_preferences(section(batch_tokens=500), merged / "b")
    a, b = (list(read_jsonl(merged / place / OUT / "samples.jsonl")) for place in "ab")
    assert len(a) == len(b)
    assert sum(one == other for one, other in zip(a, b, strict=True)) > 0.95 * len(a)


def test_off_it_leaves_dpo_as_it_was(merged):
    assert sample_preferences(SamplePreferences(seed=1), merged) == {"enabled": False}
    assert (OUT / "train.jsonl").read_bytes() == b""
    assert metrics(merged) == {}
    dpo(Dpo(**tiny_training(beta=0.5, max_steps=1)), merged)
    assert list(read_lineage(stages.dpo.OUT)["data"]) == ["preferences/train.jsonl"]


def test_dpo_trains_on_both_and_names_them(merged):
    sample_preferences(section(), merged)
    facts = dpo(Dpo(**tiny_training(beta=0.5, max_steps=1)), merged)
    lineage = read_lineage(stages.dpo.OUT)
    assert sorted(lineage["data"]) == ["preferences/train.jsonl", "sampled_preferences/train.jsonl"]
    rows = [len(list(read_jsonl(folder / "train.jsonl"))) for folder in (PREFERENCES, OUT)]
    assert facts["rows"] + lineage["rows"]["dropped"]["too_long"] == sum(rows)


def test_dpo_without_the_stage_is_refused(merged):
    shutil.rmtree(OUT)
    with pytest.raises(UserError, match="sampled_preferences/train.jsonl: no such file"):
        dpo(Dpo(**tiny_training(beta=0.5, max_steps=1)), merged)


@pytest.mark.parametrize("split", ["seen", "unseen", "unanswerable"])
def test_a_trained_question_that_evaluation_asks_is_refused_by_name(merged, split):
    trained, asked = (list(read_jsonl(PDF_QA / f"{name}.jsonl")) for name in ("train", split))
    trained[3]["messages"][0]["content"] = asked[2]["messages"][0]["content"].replace(" ", "")
    write_jsonl(PDF_QA / "train.jsonl", trained)
    with pytest.raises(
        UserError, match=rf"1 questions to sample on ask .*{trained[3]['id']} .*= {split} {asked[2]['id']}"
    ):
        sample_preferences(section(), merged)


def test_questions_of_pairs_are_asked_too_and_their_chosen_answers_are_the_known_ones(merged):
    sample_preferences(section(sources=[AskedOf.preferences], wordings=0), merged)
    pairs, known = list(read_jsonl(OUT / "train.jsonl")), list(read_jsonl(PREFERENCES / "train.jsonl"))
    chosen = {pair["prompt"][-1]["content"]: (pair["prompt"], pair["chosen"]) for pair in known}
    assert pairs
    assert all(chosen[pair["prompt"][-1]["content"]] == (pair["prompt"], pair["chosen"]) for pair in pairs)
    found = metrics(merged)["questions"]
    assert found["known"] == len(chosen) == found["asked"] + found["unverifiable"] + found["in_held_out_pairs"]
    assert found["unverifiable"] > 0
    assert any("없는 내용" in pair["chosen"] and pair["reason"] == "made_up" for pair in pairs)
    known[0]["prompt"][-1]["content"] = next(read_jsonl(PDF_QA / "seen.jsonl"))["messages"][0]["content"]
    write_jsonl(PREFERENCES / "train.jsonl", known)
    with pytest.raises(UserError, match=rf"1 questions to sample on ask .*{known[0]['id']} .*= seen"):
        sample_preferences(section(sources=[AskedOf.preferences]), merged)


def test_questions_of_held_out_pairs_are_left_out_and_counted(merged):
    trained, held_out = list(read_jsonl(PDF_QA / "train.jsonl")), list(read_jsonl(HELD_OUT))
    held_out[0]["prompt"][-1]["content"] = trained[5]["messages"][0]["content"] + "!"
    write_jsonl(HELD_OUT, held_out)
    sample_preferences(section(wordings=0, samples=1, max_new_tokens=2), merged)
    assert metrics(merged)["questions"]["in_held_out_pairs"] == 1
    assert metrics(merged)["questions"]["asked"] == len(trained) - 1
    assert trained[5]["id"] not in {row["id"] for row in read_jsonl(OUT / "samples.jsonl")}


def test_questions_whose_answers_can_not_be_verified_are_left_out_and_counted(merged):
    trained = list(read_jsonl(PDF_QA / "train.jsonl"))
    prose = next(row for row in trained if row["answerable"])
    prose["key"] = []
    prose["messages"][-1]["content"] = "방문하여 신청하시면 됩니다."
    write_jsonl(PDF_QA / "train.jsonl", trained)
    sample_preferences(section(wordings=0, samples=1, max_new_tokens=2), merged)
    assert metrics(merged)["questions"]["unverifiable"] == 1


def test_a_model_without_a_wrong_answer_gives_no_pairs_and_is_no_error(merged, capsys):
    """Cut after two tokens nothing has ended, so that nothing is known to be wrong."""
    sample_preferences(section(samples=1, max_new_tokens=2), merged)
    found = metrics(merged)
    assert found["pairs"] == {"wrong_fact": 0, "made_up": 0, "refused": 0}
    assert found["questions"]["without_wrong"] == found["questions"]["asked"]
    assert "sample-preferences: 0 pairs from" in capsys.readouterr().out


def test_a_model_that_is_not_its_merges_is_refused(merged):
    shutil.rmtree(MODEL)
    shutil.copytree(merged / "models/base", MODEL)
    with pytest.raises(UserError, match="says 'base', needed 'merged'"):
        sample_preferences(section(), merged)
