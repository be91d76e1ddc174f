"""Batched answers and likelihoods are those of one row at a time."""

import copy
from contextlib import contextmanager

import pytest
import torch
from tokenizers.processors import TemplateProcessing

import stages.lib.evaluation.generation
from stages.lib.evaluation.generation import (
    Draws,
    generate_answers,
    generate_continuously,
    padded_left,
    sample_answers,
)
from stages.lib.evaluation.likelihood import answer_log_probs
from stages.lib.every_stage.errors import UserError
from stages.lib.models.chat import encode, encode_prompt
from stages.lib.models.loading import load_16bit, load_tokenizer

QUESTIONS = ["주소는 어디인가요?", "층?", "여권 수수료는 얼마인지 자세히 알려주세요.", "What is the address?", "몇 시?"]
BEGIN = 5
"""A token that no template writes."""


@pytest.fixture(scope="module")
def loaded(tiny_base):
    return load_16bit(tiny_base, torch.float32), load_tokenizer(tiny_base)


def plain(model, tokenizer, prompt, stops):
    """The tokens of an answer, of at most 12, without a cache; whether it ended by one of `stops`."""
    text = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
    ids, said = tokenizer(text, add_special_tokens=False).input_ids, []
    while len(said) < 12:
        with torch.inference_mode():
            token = model(torch.tensor([ids + said]), use_cache=False).logits[0, -1].argmax().item()
        if token in stops:
            return said, True
        said.append(token)
    return said, False


def stops_of_answers(model, tokenizer, prompts):
    """Tokens at which these answers, taken for stop tokens, end after different lengths."""
    unstopped = [plain(model, tokenizer, prompt, set())[0] for prompt in prompts]
    return {said[2 * row + 1] for row, said in enumerate(unstopped[:4])}


@contextmanager
def stopping_at(model, stops):
    config = copy.deepcopy(model.generation_config)
    model.generation_config.eos_token_id = sorted(stops)
    try:
        yield
    finally:
        model.generation_config = config


def test_answers_do_not_depend_on_the_batch(loaded):
    model, tokenizer = loaded
    prompts = [[{"role": "user", "content": question}] for question in QUESTIONS]
    together = generate_answers(model, tokenizer, prompts, 12, batch_tokens=10_000)
    alone = [generate_answers(model, tokenizer, [prompt], 12, batch_tokens=1)[0] for prompt in prompts]
    assert together == alone
    assert len({answer.text for answer in together}) > 1  # the tiny model does tell prompts apart


def test_answers_are_those_of_the_plain_forward_on_the_templates_text(loaded):
    """Word by word without a cache, by a tokenizer that begins every text with a token of its own if it is let; rows
    end at different steps."""
    model, tokenizer = loaded
    tokenizer = copy.deepcopy(tokenizer)
    begin = tokenizer.convert_ids_to_tokens(BEGIN)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(f"{begin} $A", special_tokens=[(begin, BEGIN)])
    assert tokenizer("x").input_ids[0] == BEGIN
    prompts = [[{"role": "user", "content": question}] for question in QUESTIONS]
    stops = stops_of_answers(model, tokenizer, prompts)
    wanted = [plain(model, tokenizer, prompt, stops) for prompt in prompts]
    assert len({len(said) for said, _ in wanted}) > 2
    with stopping_at(model, stops):
        answers = generate_answers(model, tokenizer, prompts, 12, batch_tokens=10_000)
    decoded = [tokenizer.decode(said, skip_special_tokens=True).strip() for said, _ in wanted]
    assert [answer.text for answer in answers] == decoded
    assert [(answer.tokens, answer.stopped) for answer in answers] == [(len(said), end) for said, end in wanted]


def test_padded_on_the_right_they_would(loaded, monkeypatch):
    """The planted defect: a model continues padding, and nothing says so."""

    def padded_right(prompts, pad):
        ids, present = padded_left(prompts, pad)
        return [[*sorted(row, key=lambda token: token == pad)] for row in ids], [row[::-1] for row in present]

    model, tokenizer = loaded
    prompts = [[{"role": "user", "content": question}] for question in QUESTIONS]
    right = generate_answers(model, tokenizer, prompts, 12, batch_tokens=10_000)
    monkeypatch.setattr(stages.lib.evaluation.generation, "padded_left", padded_right)
    assert generate_answers(model, tokenizer, prompts, 12, batch_tokens=10_000) != right


def test_likelihood_is_that_of_the_plain_forward(loaded):
    model, tokenizer = loaded
    conversations = [
        [{"role": "user", "content": question}, {"role": "assistant", "content": "6층입니다." * (index + 1)}]
        for index, question in enumerate(QUESTIONS)
    ]
    for (log_prob, count), messages in zip(
        answer_log_probs(model, tokenizer, conversations, 10_000), conversations, strict=True
    ):
        encoded = encode(tokenizer, messages)
        with torch.inference_mode():
            log_probs = model(torch.tensor([encoded.input_ids])).logits[0].log_softmax(-1)
        picked = [log_probs[i - 1, t].item() for i, t in enumerate(encoded.input_ids) if encoded.by_assistant[i]]
        assert count == len(picked)
        assert log_prob == pytest.approx(sum(picked), abs=1e-3)


def test_continuous_batching_gives_the_same_answers_and_leaves_the_model_as_it_was(loaded):
    """Rows that end at different steps, some by a stop token, some at the limit."""
    model, tokenizer = loaded
    prompts = [[{"role": "user", "content": question}] for question in QUESTIONS]
    with stopping_at(model, stops_of_answers(model, tokenizer, prompts)):
        wanted = generate_answers(model, tokenizer, prompts, 12, 10_000)
        assert len({(answer.stopped, answer.tokens) for answer in wanted}) > 2
        for room in (10_000, 1):  # all at once, and a few of them
            assert generate_continuously(model, tokenizer, prompts, 12, room) == wanted
        assert generate_answers(model, tokenizer, prompts, 12, 10_000) == wanted


def test_an_answer_that_continuous_batching_loses_is_an_error(loaded, monkeypatch):
    """The planted defect: transformers logs a request that failed, and returns the others."""
    model, tokenizer = loaded
    generate_batch = type(model).generate_batch

    def lose_one(self, *given, **named):
        found = generate_batch(self, *given, **named)
        found.pop("req_1")
        return found

    monkeypatch.setattr(type(model), "generate_batch", lose_one)
    prompts = [[{"role": "user", "content": question}] for question in QUESTIONS]
    with pytest.raises(UserError, match=r"4 of 5 prompts were answered.*continuous_batching=false"):
        generate_continuously(model, tokenizer, prompts, 2, 10_000)


def drawn(model, tokenizer, prompts, batch_tokens=10_000, temperature=1.0, times=3, seed=5):
    return sample_answers(model, tokenizer, prompts, times, temperature, seed, 12, batch_tokens)


def test_drawn_answers_do_not_depend_on_the_batch_and_are_those_of_a_loop_without_a_cache(loaded):
    model, tokenizer = loaded
    prompts = [[{"role": "user", "content": question}] for question in QUESTIONS]
    with stopping_at(model, stops_of_answers(model, tokenizer, prompts) | set(range(40, 100))):
        together = drawn(model, tokenizer, prompts)
        assert together == drawn(model, tokenizer, prompts, batch_tokens=1)
        stops = set(model.generation_config.eos_token_id)
        numbers = torch.rand(5, 3, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
        for prompt, answers, rows in zip(prompts, together, numbers, strict=True):
            ids = encode_prompt(tokenizer, prompt)
            for answer, row in zip(answers, rows.tolist(), strict=True):
                said, ended = [], False
                while len(said) < 12 and not ended:
                    with torch.inference_mode():
                        logits = model(torch.tensor([ids + said]), use_cache=False).logits[0, -1]
                    token = int((logits.double().softmax(-1).cumsum(-1) <= row[len(said)]).sum())
                    ended = token in stops
                    said += [] if ended else [token]
                assert (answer.text, answer.stopped) == (
                    tokenizer.decode(said, skip_special_tokens=True).strip(),
                    ended,
                )
    assert {answer.stopped for answers in together for answer in answers} == {True, False}
    assert len({answer.text for answer in together[0]}) == 3


def test_seed_and_temperature_do_what_they_say(loaded):
    model, tokenizer = loaded
    prompts = [[{"role": "user", "content": question}] for question in QUESTIONS]
    assert drawn(model, tokenizer, prompts) != drawn(model, tokenizer, prompts, seed=6)
    greedy = generate_answers(model, tokenizer, prompts, 12, batch_tokens=10_000)
    assert drawn(model, tokenizer, prompts, temperature=1e-6, times=2) == [[answer] * 2 for answer in greedy]


def test_tokens_are_drawn_as_often_as_they_are_likely():
    shares = torch.tensor([0.5, 0.0, 0.3, 0.2])
    numbers = torch.rand(20_000, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    tokens = Draws(numbers, 1, 1.0).tokens(shares.log().expand(20_000, 4), list(range(20_000)), 0)
    assert (tokens.bincount(minlength=4) / 20_000).tolist() == pytest.approx(shares.tolist(), abs=0.01)
    assert not (tokens == 1).any()
    assert Draws(torch.tensor([[1 - 1e-16]], dtype=torch.float64), 1, 1.0).tokens(shares.log()[None], [0], 0) == 3


def test_a_model_that_keeps_another_state_draws_the_same_by_transformers(loaded, monkeypatch):
    model, tokenizer = loaded
    prompts = [[{"role": "user", "content": question}] for question in QUESTIONS]
    with stopping_at(model, set(range(40, 100))):
        own = drawn(model, tokenizer, prompts)
        monkeypatch.setattr(stages.lib.evaluation.generation, "keeps_keys_and_values", lambda cache: False)
        assert drawn(model, tokenizer, prompts) == own
