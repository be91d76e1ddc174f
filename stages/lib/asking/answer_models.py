"""A language model that is asked: a local one, or one behind an endpoint.

Both are a function from prompt to response. Responses are cached by a hash of model, settings and prompt, so that a
rerun costs nothing and gives the same bytes; those that whoever asks can't use are not, so that they are asked again.
"""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from stages.lib.asking.endpoint import api_key, excerpt, post, shown_address
from stages.lib.every_stage.errors import UserError
from stages.lib.every_stage.lineage import weights_sha256
from stages.lib.every_stage.publish import make_private_folder, written_whole

LOCAL = "huggingface"
"""The back end that loads a model from a directory; the other one is an endpoint."""


class Asked(Protocol):
    """A section that names a model: by a directory (huggingface), or by its name at an endpoint (openai)."""

    backend: Any  # an enum of the back ends that the section knows
    model: str
    endpoint: str
    max_new_tokens: int


def anything(response: str) -> bool:
    """Whether a response can be used, where every one can."""
    return True


class Ask(Protocol):
    """From a prompt to a model's response, which is kept if it is `usable`."""

    def __call__(self, prompt: str, usable: Callable[[str], bool] = anything) -> str: ...


def make_ask(section: Asked, cache: Path, key: str) -> Ask:
    """The model that `section` names, with its responses cached under `cache`; `key` is where the section stands.

    A directory is no version: other weights in it are asked anew.
    """
    if section.backend.value != LOCAL:
        ask = ask_endpoint(section, key)
    else:
        ask = ask_local(section, key)
        if (Path(section.model) / "config.json").is_file():
            cache = cache / weights_sha256(Path(section.model))[:16]
    return cached(ask, f"{section.backend.value}\n{section.endpoint}\n{section.model}\n{section.max_new_tokens}", cache)


def cache_home() -> Path:
    """Where responses are kept: outside the repository, so that `dvc exp run --temp` finds them too."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "graft" / "responses"


def cached(ask: Callable[[str], str], model: str, cache: Path) -> Ask:
    """`ask` that asks each prompt once. A response that was half written when its process was killed is asked again."""

    def ask_once(prompt: str, usable: Callable[[str], bool] = anything) -> str:
        key = hashlib.sha256(f"{model}\n{prompt}".encode()).hexdigest()
        path = cache / f"{key}.json"
        response = kept_response(path)
        if response is None or not usable(response):
            response = ask(prompt)
            if not usable(response):
                return response
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


def ask_endpoint(section: Asked, key: str) -> Callable[[str], str]:
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
    """The text in a chat completion, "" where a model that thinks came to none. Raises UserError for any other form."""
    try:
        choice = json.loads(body)["choices"][0]
        content = choice["message"]["content"]
        if content is None and choice.get("finish_reason") == "length":
            content = ""
    except (ValueError, KeyError, IndexError, TypeError, RecursionError):
        content = None
    if not isinstance(content, str):
        found = excerpt(body, api_key()) or "nothing"
        raise UserError(
            f"{shown_address(address)}: found {found}, needed a chat completion with choices[0].message.content"
        )
    return content


def ask_local(section: Asked, key: str) -> Callable[[str], str]:
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
