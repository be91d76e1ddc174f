"""Answers piece by piece are the answers of generation.py, whatever the cache held before; long talks are truncated."""

from pathlib import Path

import pytest
import torch

from stages.lib.evaluation.generation import generate_answers
from stages.lib.every_stage.errors import UserError
from stages.lib.every_stage.lineage import OFF, write_lineage
from tools.lib.chat_models import ChatModel, Sampling, TooLong, available_models, draw, model_directory

pytestmark = pytest.mark.chain

GREEDY = Sampling(temperature=0, max_new_tokens=12)
QUESTIONS = ["주소는 어디인가요?", "층?", "여권 수수료는 얼마인가요?", "What is it? 😀"]


@pytest.fixture(scope="module")
def model(tiny_base: Path) -> ChatModel:
    loaded = ChatModel("dpo", tiny_base)
    loaded.model.float()  # in bfloat16 sums of other lengths may round to another token
    return loaded


def said(model: ChatModel, messages: list[dict[str, str]], sampling: Sampling = GREEDY) -> str:
    return "".join(piece.text for piece in model.answer(messages, sampling))


def test_a_conversation_is_answered_as_without_a_cache(model: ChatModel) -> None:
    messages: list[dict[str, str]] = []
    for question in QUESTIONS:
        messages.append({"role": "user", "content": question})
        answer = said(model, messages)
        wanted = generate_answers(model.model, model.tokenizer, [messages], 12, 1000)[0].text
        assert wanted.startswith(answer.strip().rstrip("\ufffd"))
        model_cache = len(model.seen)
        assert model_cache > 0
        messages.append({"role": "assistant", "content": answer})
    model.forget()
    alone = said(model, messages[:1])
    assert alone == messages[1]["content"]


def test_an_answer_broken_off_leaves_no_half_cache(model: ChatModel) -> None:
    messages = [{"role": "user", "content": QUESTIONS[0]}]
    whole = said(model, messages)
    pieces = model.answer(messages, GREEDY)
    next(pieces)
    pieces.close()
    assert said(model, messages) == whole
    step = model.model.forward
    calls = iter(range(10))

    def interrupted(*words: object, **options: object) -> object:
        if next(calls) == 3:
            raise KeyboardInterrupt
        return step(*words, **options)

    model.model.forward = interrupted
    with pytest.raises(KeyboardInterrupt):
        said(model, messages)
    model.model.forward = step
    assert model.cache is None
    assert said(model, messages) == whole


def test_the_last_piece_says_why(model: ChatModel) -> None:
    *before, last = model.answer([{"role": "user", "content": "?"}], Sampling(0, max_new_tokens=1))
    assert (before, last.end) in (([], "limit"), ([], "stop"))
    ends = {
        list(model.answer([{"role": "user", "content": text}], Sampling(1.5, 1.0, 300)))[-1].end for text in QUESTIONS
    }
    assert ends <= {"stop", "limit"}


def test_oldest_turns_are_dropped_until_it_fits(model: ChatModel) -> None:
    turns = [{"role": role, "content": f"{n} 달여울시민청"} for n in range(200) for role in ("user", "assistant")][:-1]
    kept, dropped = model.fit(turns, 100)
    assert dropped > 0 and kept == turns[2 * dropped :] and kept[0]["role"] == "user"
    system = {"role": "system", "content": "Be brief."}
    kept, _ = model.fit([system, *turns], 100)
    assert kept[0] == system and kept[1]["role"] == "user" and kept[-1] == turns[-1]
    assert model.fit(turns[:1], 100) == (turns[:1], 0)


def test_a_message_that_fits_nowhere_is_named(model: ChatModel) -> None:
    with pytest.raises(TooLong, match=r"has \d+ tokens, the model takes 924; shorten it"):
        model.fit([{"role": "user", "content": "가" * 10_000}], 100)


def test_draws_follow_temperature_and_top_p() -> None:
    logits = torch.tensor([[0.0, 2.0, 1.0]])
    assert draw(logits, Sampling(0)) == 1
    assert {draw(logits, Sampling(1.0, top_p=0.5)) for _ in range(50)} == {1}
    assert {draw(logits, Sampling(5.0, top_p=1.0)) for _ in range(200)} == {0, 1, 2}


@pytest.mark.parametrize("values", [(-0.1, 0.9, 1), (1, 0, 1), (1, 1.1, 1), (1, 1, 0)])
def test_impossible_sampling_is_refused(values: tuple[float, float, int]) -> None:
    with pytest.raises(UserError, match="needed temperature 0 or more, 0 < top-p <= 1"):
        Sampling(*values)


def test_only_what_is_there_can_be_talked_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="dpo: no such model here; found none"):
        model_directory("dpo")
    for name, lineage in (("base", {"kind": "base"}), ("preference-merged", OFF)):
        (tmp_path / "models" / name).mkdir(parents=True)
        write_lineage(tmp_path / "models" / name, lineage)
    assert available_models() == ["base"]
    with pytest.raises(UserError, match="orpo: no such model here; found base"):
        model_directory("orpo")
    made = {"kind": "merged", "adapter": {"arguments": {"algorithm": "kto", "start": "sft"}}}
    write_lineage(tmp_path / "models/preference-merged", made)
    assert available_models() == ["base", "kto"]
    assert model_directory("kto") == Path("models/preference-merged")
    with pytest.raises(UserError, match="orpo: no such model here; found base, kto"):
        model_directory("orpo")


def test_what_evaluate_scores_can_be_talked_to() -> None:
    from stages.evaluate import BESIDE as PREFERENCE
    from stages.evaluate import HEALED, PRUNED, REWARDED
    from stages.evaluate import MODELS as SCORED
    from stages.lib.family import BESIDE, RL
    from stages.lib.quantizing.sampling import TEMPERATURES
    from tools.lib.chat_models import MODELS

    scored = {**SCORED, **dict.fromkeys(BESIDE, PREFERENCE), RL: REWARDED, "pruned": PRUNED, "healed": HEALED}
    assert scored == MODELS
    assert list(TEMPERATURES) == list(MODELS)
