"""A model to talk to whose answers llama.cpp makes from a GGUF file."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from stages.lib.every_stage.errors import UserError
from stages.lib.models.chat import Messages, encode_prompt
from stages.lib.models.loading import load_tokenizer
from stages.lib.quantizing.gguf_files import refuse_missing_packages
from stages.lib.quantizing.llama_server import LlamaServer, llama_server
from tools.lib.chat_models import ChatModel, Piece, Sampling

CONTEXT = 4096
"""Tokens of a conversation at most: llama.cpp reserves memory for all of them at once."""


class GgufModel(ChatModel):
    """A GGUF file as llama.cpp answers from it, with the template of the directory that it was made of."""

    def __init__(self, name: str, directory: Path, server: LlamaServer, context: int) -> None:
        self.name, self.server, self.context = name, server, context
        self.tokenizer = load_tokenizer(directory)

    def answer(self, messages: Messages, sampling: Sampling) -> Generator[Piece, None, None]:
        """Yield an answer to the conversation, which must fit, as it is made. Closing the iterator ends the answer."""
        options = {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": 0,
            "min_p": 0.0,
            "repeat_penalty": 1.0,
            "n_predict": sampling.max_new_tokens,
        }
        begun = False
        with closing(self.server.pieces(encode_prompt(self.tokenizer, messages), options)) as pieces:
            for text, end in pieces:
                text = text if begun else text.lstrip()
                begun = begun or bool(text)
                if text or end:
                    yield Piece(text, {"": "", "eos": "stop"}.get(end, "limit"))


@contextmanager
def gguf_model(name: str, directory: Path, file: Path, threads: int) -> Iterator[GgufModel]:
    """The model of a GGUF file, while llama.cpp serves it. Raises UserError for a file that isn't there or is none."""
    from transformers import AutoConfig

    if not file.is_file():
        raise UserError(
            f"{file}: no such file; needed a GGUF file of the model. Set quantize.enabled=true to make some"
        )
    refuse_missing_packages()
    config = AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    context = min(int(config.max_position_embeddings), CONTEXT)
    with llama_server(file, threads, context) as server:
        yield GgufModel(f"{name} ({file.stem})", directory, server, context)
