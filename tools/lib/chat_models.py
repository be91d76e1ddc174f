"""The chain's models to talk to: which there are, and their answers piece by piece."""

from __future__ import annotations

import os
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.lib.every_stage.errors import UserError
from stages.lib.every_stage.lineage import OFF, read_lineage, refuse_damaged, weights_sha256
from stages.lib.family import BESIDE, RL, made_beside
from stages.lib.hardware import resolve_dtype, set_up_cpu
from stages.lib.models.chat import Messages, encode_prompt, stop_ids
from stages.lib.models.loading import load_strictly, load_tokenizer
from stages.lib.quantizing.sampling import TOP_P
from stages.lib.schema.choices import Dtype

if TYPE_CHECKING:
    from torch import Tensor

MODELS = {
    "base": Path("models/base"),
    "sft": Path("models/sft-merged"),
    "dpo": Path("models/dpo-merged"),
    **dict.fromkeys(BESIDE, Path("models/preference-merged")),
    RL: Path("models/rl-merged"),
    "pruned": Path("models/pruned"),
    "healed": Path("models/healed-merged"),
}
MAX_NEW_TOKENS = 256


@dataclass
class Sampling:
    """How the next token is drawn; temperature 0 takes the likeliest."""

    temperature: float
    top_p: float = TOP_P
    max_new_tokens: int = MAX_NEW_TOKENS

    def __post_init__(self) -> None:
        if self.temperature < 0 or not 0 < self.top_p <= 1 or self.max_new_tokens < 1:
            raise UserError(
                f"found temperature {self.temperature}, top-p {self.top_p}, {self.max_new_tokens} new tokens; needed "
                "temperature 0 or more, 0 < top-p <= 1, and 1 token or more"
            )


@dataclass
class Piece:
    """A piece of an answer. The last one says why it ends: "stop" by itself, "limit" at max_new_tokens."""

    text: str
    end: str = ""


class TooLong(UserError):
    """A message that doesn't fit into the model's context even alone."""

    def __init__(self, tokens: int, room: int) -> None:
        super().__init__(f"the message has {tokens} tokens, the model takes {room}; shorten it")
        self.tokens, self.room = tokens, room


def get_ready(threads: int) -> int:
    """Set this process up to answer people, with `threads` CPU threads or 0 for all usable ones; return how many.

    To be called before torch is imported. Threads that have nothing to do sleep (OpenMP's passive policy): by default
    they spin, and beside other work on the same cores an answer took 2 to 100 times as long (bench/chat.py). Nothing is
    asked from the Hub.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ["HF_HUB_OFFLINE"] = "1"
    return set_up_cpu(threads)


def available_models() -> list[str]:
    """Names of the models that the last `dvc repro` left, in the order of tuning; the last one by its method."""

    def is_there(name: str, path: Path) -> bool:
        if not path.is_dir() or (lineage := read_lineage(path)) == OFF:
            return False
        return name not in BESIDE or made_beside(lineage)[0] == name

    return [name for name, path in MODELS.items() if is_there(name, path)]


def model_directory(name: str) -> Path:
    """Where a model is. Raises UserError naming those that there are."""
    if name not in (found := available_models()):
        raise UserError(
            f"{name}: no such model here; found {', '.join(found) or 'none'}. `dvc repro` or `dvc pull` makes base, "
            "sft and dpo, rl with rl.enabled, with preference.enabled the one that preference.algorithm names, with "
            "prune.enabled pruned and healed"
        )
    return MODELS[name]


class ChatModel:
    """One model with its own template and stop tokens, and the attention cache of the conversation it was last in.

    Not for two conversations at a time: whoever shares one holds a lock.
    """

    def __init__(self, name: str, directory: Path) -> None:
        self.name = name
        refuse_damaged(directory)
        self.tokenizer = load_tokenizer(directory)
        self.model = load_strictly(directory, resolve_dtype(Dtype.auto))
        self.weights_sha256 = weights_sha256(directory)
        self.stops = stop_ids(self.model.generation_config)
        self.context = int(self.model.config.max_position_embeddings)
        self.forget()

    def forget(self) -> None:
        """Drop the attention cache."""
        self.seen: list[int] = []
        self.cache: Any = None

    def fit(self, messages: Messages, max_new_tokens: int) -> tuple[Messages, int]:
        """The conversation without its oldest turns, as far as it needs to be cut to leave room for an answer.

        A turn is a question with its answer; a system message stays. Returns the messages and the number of turns
        that were dropped. Raises TooLong if the last question doesn't fit even alone.
        """
        room = self.context - max_new_tokens
        system = messages[: int(messages[0]["role"] == "system")]
        turns = messages[len(system) :]
        dropped = 0
        while (tokens := len(encode_prompt(self.tokenizer, [*system, *turns]))) > room:
            if len(turns) < 3:
                raise TooLong(tokens, room)
            turns = turns[2:]
            dropped += 1
        return [*system, *turns], dropped

    def answer(self, messages: Messages, sampling: Sampling) -> Generator[Piece, None, None]:
        """Yield an answer to the conversation, which must fit, as it is made; pieces are whole characters.

        What the cache holds of the conversation's beginning isn't computed again. Closing the iterator ends the
        answer.
        """
        from tokenizers.decoders import DecodeStream

        prompt = encode_prompt(self.tokenizer, messages)
        decoder = DecodeStream(skip_special_tokens=True)
        ids, cache = self.take_up(prompt)
        said: list[int] = []
        begun = False
        while True:
            self.forget()  # a step that Ctrl-C breaks off leaves a cache whose layers differ in length
            token = self.step(ids, cache, sampling)
            self.seen, self.cache = [*prompt, *said], cache
            if token in self.stops:
                yield Piece("", "stop")
                return
            said.append(token)
            text = decoder.step(self.tokenizer.backend_tokenizer, token) or ""
            text = text if begun else text.lstrip()
            begun = begun or bool(text)
            if len(said) == sampling.max_new_tokens:
                yield Piece(text, "limit")
                return
            if text:
                yield Piece(text)
            ids = [token]

    def step(self, ids: list[int], cache: Any, sampling: Sampling) -> int:
        """Compute `ids` after what the cache holds, which takes them up, and draw the next token."""
        import torch

        with torch.inference_mode():
            tokens = torch.tensor([ids], device=self.model.device)
            logits = self.model(input_ids=tokens, past_key_values=cache, logits_to_keep=1).logits[:, -1]
            return draw(logits, sampling)

    def take_up(self, prompt: list[int]) -> tuple[list[int], Any]:
        """The tokens of a prompt that are yet to be computed, at least one, and the cache of those before them."""
        from transformers import DynamicCache

        seen, cache = self.seen, self.cache
        common = next((i for i, (a, b) in enumerate(zip(seen, prompt, strict=False)) if a != b), len(seen))
        common = min(common, len(prompt) - 1)
        if cache is None:
            return prompt, DynamicCache(config=self.model.config)
        if surplus := len(seen) - common:
            cache.crop(-surplus)
        return prompt[common:], cache


def draw(logits: Tensor, sampling: Sampling) -> int:
    """One token from the logits (1, vocabulary) of the next."""
    from transformers import TemperatureLogitsWarper, TopPLogitsWarper

    if sampling.temperature == 0:
        return int(logits.argmax(-1))
    scores = TemperatureLogitsWarper(sampling.temperature)(None, logits.float())
    scores = TopPLogitsWarper(sampling.top_p)(None, scores)
    return int(scores.softmax(-1).multinomial(1))
