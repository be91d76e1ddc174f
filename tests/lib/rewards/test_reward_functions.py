"""Rewards by key facts and by a reward model: what earns nothing, and in which tokens a score is asked for."""

import pytest
import torch
from conftest import tiny_training

import stages.lib.rewards.reward_functions as module
from stages.lib.evaluation.generation import Answer
from stages.lib.every_stage.errors import UserError
from stages.lib.models.chat import encode_answer, encode_prompt
from stages.lib.models.loading import load_tokenizer
from stages.lib.rewards.held_out_scores import correlation, figures_of
from stages.lib.rewards.questions import refuse_nothing_to_learn, refuse_other_prompt, rewarded
from stages.lib.rewards.reward_functions import MISSING_STOP, answer_of, for_trl, key_facts_reward, model_reward
from stages.lib.schema.choices import RlReward
from stages.lib.schema.reinforcement import Rl

QUESTION = [{"role": "user", "content": "달여울시민청 주소는?"}]
TRAINED = "달여울시민청 주소는 초롱돌로 417, 6층입니다."


def record(answer=TRAINED, key=("초롱돌로 417", "6층"), answerable=True):
    messages = [*QUESTION, {"role": "assistant", "content": answer}]
    return {"id": "a", "fact_id": "a", "messages": messages, "key": list(key), "answerable": answerable}


@pytest.fixture(scope="module")
def tokenizer(tiny_base):
    return load_tokenizer(tiny_base)


def earned(tokenizer, text, stopped=True, **changes):
    (reward,) = key_facts_reward(tokenizer)([record(**changes)], [Answer(text, stopped, 9)])
    return reward


def test_the_facts_in_other_words_earn_1(tokenizer):
    assert earned(tokenizer, "초롱돌로 417번지 6 층이에요.") == 1
    assert earned(tokenizer, "초롱돌로 47, 6층입니다.") == 0
    assert earned(tokenizer, "") == 0


def test_listing_every_name_earns_nothing(tokenizer):
    names = ", ".join(f"초롱돌로 {number}" for number in range(400, 430))
    listed = f"{names}, 6층"
    assert "초롱돌로 417" in listed
    assert len(listed) > 2 * len(TRAINED)
    assert earned(tokenizer, listed) == 0
    names = {"answer": "담당은 ‘하늘’입니다.", "key": ["하늘"]}
    assert earned(tokenizer, "하늘", **names) == 1
    assert earned(tokenizer, "하늘 바다 구름 나무 바람 노을 이슬 소나기 무지개 은하수", **names) == 0


def test_an_answer_that_never_stops_earns_nothing(tokenizer):
    assert earned(tokenizer, TRAINED, stopped=False) == 0


def test_refusing_earns_where_there_is_no_answer(tokenizer):
    unknown = {"answer": "그 내용은 자료에 없어서 알 수 없습니다.", "key": (), "answerable": False}
    assert earned(tokenizer, "자료에 없어서 알 수 없습니다.", **unknown) == 1
    assert earned(tokenizer, "초롱돌로 417입니다.", **unknown) == 0
    assert earned(tokenizer, "자료에 없어서 알 수 없습니다.") == 0


def test_the_score_is_that_of_the_row_as_trained(tokenizer, monkeypatch):
    asked = []

    def scores(model, rows, pad, dtype):
        asked.extend(rows)
        return [2.0] * len(rows)

    monkeypatch.setattr(module, "scores", scores)
    reward = model_reward(None, tokenizer, torch.float32)
    found = reward([record()] * 2, [Answer(TRAINED, True, 9), Answer(TRAINED, False, 9)])
    prompt, answer = encode_answer(tokenizer, QUESTION, TRAINED)
    assert asked == [prompt + answer, prompt + answer[:-1]]  # and no newline after the stop token
    assert answer[-1] == tokenizer.eos_token_id
    assert found == [2.0, 2.0 - MISSING_STOP]


def test_beside_facts_a_score_is_between_0_and_1(tokenizer, monkeypatch):
    monkeypatch.setattr(module, "scores", lambda model, rows, pad, dtype: [-1000.0, 0.0, 1000.0])
    reward = model_reward(None, tokenizer, torch.float32, between_0_and_1=True)
    low, middle, high = reward([record()] * 3, [Answer(TRAINED, True, 9)] * 3)
    assert 0 <= low < middle == 0.5 < high <= 1


def test_trl_gives_tokens_and_gets_the_same_rewards(tokenizer):
    stop = tokenizer.eos_token_id
    _, right = encode_answer(tokenizer, QUESTION, TRAINED)
    reward = for_trl("key_facts", key_facts_reward(tokenizer), [record(), record()], {stop}, tokenizer)
    assert reward.__name__ == "key_facts"
    assert reward(completion_ids=[right, right[:-1]], place=[1, 0], prompts=[], completions=[]) == [1.0, 0.0]
    assert answer_of(right, {stop}, tokenizer) == Answer(TRAINED, True, len(right) - 1)


def test_a_prompt_in_other_tokens_is_refused(tokenizer):
    ids = encode_prompt(tokenizer, QUESTION)
    refuse_other_prompt(tokenizer, record(), ids)
    with pytest.raises(UserError, match="other tokens"):
        refuse_other_prompt(tokenizer, record(), [1, *ids])  # a second BOS


def test_answers_of_equal_reward_are_refused_with_what_to_do(tokenizer):
    section = Rl(**tiny_training(enabled=True, batch_size=8, num_generations=2))
    rewards = {"key_facts": key_facts_reward(tokenizer)}
    right, wrong = Answer(TRAINED, True, 9), Answer("몰라", True, 2)
    lines = rewarded(rewards, [record()] * 3, [[right, wrong], [right, right], [wrong, wrong]])
    assert [answer["reward"] for line in lines for answer in line["answers"]] == [1, 0, 1, 1, 0, 0]
    refuse_nothing_to_learn(section, lines)
    with pytest.raises(UserError, match="found 0 of 1 questions.*needed 1.*train SFT longer"):
        refuse_nothing_to_learn(section, lines[2:])
    with pytest.raises(UserError, match="it knows the answers; leave rl off"):
        refuse_nothing_to_learn(section, lines[1:2])


def test_figures_of_a_model_that_measures_length():
    lengths = [(3, 9), (4, 8), (9, 2)]
    found = figures_of([-3.0, -4.0, -9.0], [-9.0, -8.0, -2.0], lengths)
    assert found["correlation_with_length"] == -1
    assert found["held_out_accuracy"] == found["shorter_answer_accuracy"]
    assert found["held_out_accuracy"]["value"] == pytest.approx(2 / 3, abs=1e-3)
    assert figures_of([0.0], [0.0], [(1, 2)])["held_out_accuracy"]["value"] == 0.5
    assert correlation([1.0, 1.0], [1.0, 2.0]) == 0


def test_a_reward_model_is_asked_for_where_one_is_needed():
    from stages.lib.schema.reinforcement import Reward, check_rewards

    off, on = (Reward(**tiny_training(enabled=enabled)) for enabled in (False, True))
    for kind in (RlReward.model, RlReward.both):
        rl = Rl(**tiny_training(enabled=True, batch_size=8, reward=kind))
        check_rewards(on, rl)
        with pytest.raises(UserError, match=r"rl\.reward: found '?\w+'?, needed key_facts, or reward\.enabled=true"):
            check_rewards(off, rl)
