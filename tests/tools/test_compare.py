"""Two commits compared, end to end on the tiny chain; runs that mean different things are refused."""

import copy

import pytest

from stages.lib.every_stage.errors import UserError
from tools.compare import Run, comparison

DETAIL = {
    "models": {"base": {}, "dpo": {}},
    "sets_sha256": {"seen": "aaa", "unseen": "bbb"},
    "signatures": {"chrf": "nw:2"},
    "settings": {"decoding": "greedy", "max_new_tokens": 96, "resamples": 200, "seed": 1},
    "tokenizer_sha256": "t",
}


def run(name, right, **params):
    rows = [
        {
            "id": f"q{number}", "fact_id": f"f{number}", "split": "seen", "model": "dpo", "prompt": f"질문 {number}?",
            "reference": "초롱돌로 417", "prediction": "초롱돌로 417" if number in right else f"달무리길 {number}",
            "scores": {"key_exact": float(number in right)},
            "likelihood": {"nats": 5.0 if number in right else 9.0, "tokens": 4, "characters": 8},
        }
        for number in range(40)
    ]  # fmt: skip
    return Run(name, {"sft.lora.r": 8, "sft.learning_rate": 1e-3, **params}, copy.deepcopy(DETAIL), rows)


def test_says_what_changed_and_whether_it_is_more_than_chance():
    text = comparison(run("aaa one", range(10)), run("bbb two", range(2, 22), **{"sft.lora.r": 16}), "dpo")
    assert "sft.lora.r: 8 -> 16" in text
    assert "learning_rate" not in text
    assert "seen key_exact                 40           0.25 [0.14, 0.40]           0.50 [0.35, 0.65]" in text
    assert "+0.25 [+0.07, +0.40]  beyond chance: better" in text
    assert "12 gained, 2 lost, exact McNemar p = 0.0129" in text
    assert "Became right (12)" in text
    assert "and 2 more" in text
    assert (
        "Became wrong (2)\n  seen: 질문 0?\n    wanted 초롱돌로 417\n    A      초롱돌로 417\n    B      달무리길 0"
        in text
    )


def test_chance_is_not_called_more():
    text = comparison(run("a", range(10)), run("b", range(1, 12)), "dpo")
    assert "beyond chance" not in text


def test_equal_runs_differ_in_nothing():
    text = comparison(run("a", range(10)), run("b", range(10)), "dpo")
    assert "Parameters that differ\n  none" in text
    assert "Became right (0)\n  none" in text
    assert "0 gained, 0 lost, exact McNemar p = 1.0000" in text


@pytest.mark.parametrize(
    ("key", "name", "value", "said"),
    [
        ("sets_sha256", "seen", "ccc", "evaluation set seen: aaa in A, ccc in B"),
        ("signatures", "chrf", "nw:0", "metric chrf: nw:2 in A, nw:0 in B"),
        ("settings", "max_new_tokens", 10, "generation setting max_new_tokens: 96 in A, 10 in B"),
        ("settings", "dtype", "torch.float32", "generation setting dtype: None in A, torch.float32 in B"),
    ],
)
def test_other_questions_metrics_or_settings_are_refused(key, name, value, said):
    other = run("b", range(10))
    other.detail[key][name] = value
    with pytest.raises(UserError, match="can't be compared") as refused:
        comparison(run("a", range(10)), other, "dpo")
    assert said in str(refused.value)


def test_the_number_of_resamples_is_no_reason_to_refuse():
    other = run("b", range(10))
    other.detail["settings"]["resamples"] = 50
    comparison(run("a", range(10)), other, "dpo")


def test_perplexity_is_left_out_between_tokenizers():
    other = run("b", range(10))
    assert "seen perplexity" in comparison(run("a", range(10)), other, "dpo")
    other.detail["tokenizer_sha256"] = "u"
    text = comparison(run("a", range(10)), other, "dpo", everything=True)
    assert "seen perplexity" not in text
    assert "seen bits_per_character" in text
    assert "different tokenizers" in text


def test_a_model_that_was_not_scored_is_named():
    with pytest.raises(UserError, match="found no rows of 'orpo'; needed one of"):
        comparison(run("a", range(10)), run("b", range(10)), "orpo")


@pytest.fixture
def history(project):
    """The project, put back to its first run."""
    start = project.command("git", "rev-parse", "HEAD").strip()
    yield project
    project.command("git", "reset", "--quiet", "--hard", start)
    project.command("dvc", "checkout", "--quiet", "--force")


@pytest.mark.slow
@pytest.mark.xdist_group("repro")
def test_two_commits_that_differ_in_lora_rank(history):
    history.write("params.yaml", "lora: {r: 4,", "lora: {r: 2,")
    history.repro()
    history.commit("rank 2")
    text = history.command("python", "-m", "tools.compare", "HEAD~1", "HEAD")
    assert "first run" in text
    assert "rank 2" in text
    assert "sft.lora.r: 4 -> 2" in text
    assert "dpo.lora.r" not in text
    assert "seen key_exact" in text
    assert "exact McNemar p = " in text
    assert "Became right (" in text
    assert "A  " in history.command("python", "-m", "tools.compare", "HEAD~1")  # against the working tree
    for words in (("metrics", "diff", "HEAD~1"), ("params", "diff", "HEAD~1"), ("plots", "diff", "HEAD~1")):
        assert history.command("dvc", *words)
    assert "sft.lora.r" in history.command("dvc", "params", "diff", "HEAD~1")

    history.write("params.yaml", "evaluate: {", "prepare_ultrachat: {evaluation: {en: {take: 8}}}\nevaluate: {")
    for stage in ("config", "prepare-ultrachat", "evaluate"):  # the models stay as they are
        history.repro("--single-item", stage)
    history.commit("other questions")
    text = history.command("python", "-m", "tools.compare", "HEAD~1", "HEAD", fails=True)
    assert "these runs can't be compared" in text
    assert "evaluation set control: " in text
    assert "Traceback" not in text
    text = history.command("python", "-m", "tools.compare", "no-such-commit", fails=True)
    assert "no-such-commit" in text
    assert "Traceback" not in text
