"""Questions and answers written by a language model from a piece of a page: a local one, or one behind an endpoint.

Both are a function from prompt to response. Responses are cached by a hash of model, settings and prompt, so that a
rerun costs nothing and gives the same bytes.
"""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stages.lib.errors import UserError
from stages.lib.models.endpoint import api_key, excerpt, post, shown_address
from stages.lib.publish import make_private_folder, written_whole
from stages.lib.schema.choices import Backend
from stages.lib.schema.data import Generate

Ask = Callable[[str], str]
"""From a prompt to a model's response."""

PROMPT = """\
아래 글만 보고 질문과 답을 만드십시오. 글에 없는 내용은 쓰지 마십시오.
질문은 글을 보지 않은 사람이 물을 수 있는 완전한 문장이어야 하고, 답의 숫자와 이름은 글에 적힌 그대로여야 합니다.
JSON 배열만 출력하십시오: [{{"question": "…", "answer": "…"}}]

글:
{text}
"""


def make_ask(section: Generate, cache: Path, key: str = "prepare_pdf_qa.generate") -> Ask:
    """The model that `section` names, with its responses cached under `cache`; `key` is where the section stands."""
    ask = ask_local(section, key) if section.backend is Backend.huggingface else ask_endpoint(section, key)
    return cached(ask, f"{section.backend.value}\n{section.endpoint}\n{section.model}\n{section.max_new_tokens}", cache)


def cache_home() -> Path:
    """Where responses are kept: outside the repository, so that `dvc exp run --temp` finds them too."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "graft" / "responses"


def cached(ask: Ask, model: str, cache: Path) -> Ask:
    """`ask` that asks each prompt once. A response that was half written when its process was killed is asked again."""

    def ask_once(prompt: str) -> str:
        key = hashlib.sha256(f"{model}\n{prompt}".encode()).hexdigest()
        path = cache / f"{key}.json"
        response = kept_response(path)
        if response is None:
            response = ask(prompt)
            make_private_folder(cache)
            with written_whole(path) as new:
                new.write_text(
                    json.dumps({"prompt": prompt, "response": response}, ensure_ascii=False), encoding="utf-8"
                )
        return response

    return ask_once


def kept_response(path: Path) -> str | None:
    """The response in a file of the cache; None where there is none, or no whole one."""
    try:
        response = json.loads(path.read_text(encoding="utf-8"))["response"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    return response if isinstance(response, str) else None


def ask_endpoint(section: Generate, key: str) -> Ask:
    """A model behind an endpoint that speaks OpenAI's chat completions.

    What it returns raises UserError for an address that can't be reached, a refused key, or an answer in another form.
    Raises UserError for a key that no header can hold.
    """
    address = section.endpoint.rstrip("/") + "/chat/completions"
    token = api_key()

    def ask(prompt: str) -> str:
        body = json.dumps({
            "model": section.model, "messages": [{"role": "user", "content": prompt}], "temperature": 0,
            "max_tokens": section.max_new_tokens,
        }).encode()  # fmt: skip
        return content_of(address, post(address, body, key, token))

    return ask


def content_of(address: str, body: bytes) -> str:
    """The text in a chat completion. Raises UserError for any other form."""
    try:
        content = json.loads(body)["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError, RecursionError):
        content = None
    if not isinstance(content, str):
        found = excerpt(body, api_key()) or "nothing"
        raise UserError(
            f"{shown_address(address)}: found {found}, needed a chat completion with choices[0].message.content"
        )
    return content


def ask_local(section: Generate, key: str) -> Ask:
    """A chat model in a directory, loaded when the first prompt isn't cached; greedy, so that runs are equal."""
    loaded: list[Any] = []

    def ask(prompt: str) -> str:
        import torch

        from stages.lib.hardware import device
        from stages.lib.models.chat import encode_prompt, stop_ids
        from stages.lib.models.loading import load_16bit, load_tokenizer

        directory = Path(section.model)
        if not (directory / "config.json").is_file():
            raise UserError(f"{key}.model: found no config.json in {directory}, needed a chat model")
        if not loaded:
            loaded.extend(
                [load_tokenizer(directory), load_16bit(directory, torch.float32 if device() == "cpu" else "auto")]
            )
        tokenizer, model = loaded
        ids = torch.tensor([encode_prompt(tokenizer, [{"role": "user", "content": prompt}])], device=model.device)
        with torch.inference_mode():
            output = model.generate(
                ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=section.max_new_tokens,
                eos_token_id=sorted(stop_ids(model.generation_config)),
            )  # fmt: skip
        return tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True)

    return ask


def pairs_in(response: str) -> list[tuple[str, str]] | str:
    """The questions and answers of a response, or what is wrong with it; a fence around the JSON is passed over."""
    start, end = response.find("["), response.rfind("]")
    try:
        values = json.loads(response[start : end + 1])
    except (ValueError, RecursionError):
        return "found no JSON array of questions and answers"
    pairs = []
    for value in values:
        if not isinstance(value, dict) or not all(isinstance(value.get(name), str) for name in ("question", "answer")):
            return "found an element without question and answer as texts"
        pairs.append((value["question"], value["answer"]))
    return pairs
