"""An Ollama Modelfile: where the weights are, the chat template in Go's language, stop tokens, sampling.

FROM ../../../models/dpo-merged
TEMPLATE \"\"\"{{ range .Messages }}{{ if eq .Role "user" }}<|im_start|>user
{{ .Content }}<|im_end|>
{{ end }}{{ end }}<|im_start|>assistant
\"\"\"
PARAMETER stop "<|im_end|>"
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from stages.lib.every_stage.errors import UserError
from stages.lib.models.chat import Messages, render, stop_ids
from stages.lib.models.loading import load_tokenizer
from stages.lib.quantizing.sampling import TOP_P

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ROLES = ("system", "user", "assistant")
BY_HAND = "Write the TEMPLATE by hand: https://github.com/ollama/ollama/blob/main/docs/template.mdx"
CONTENT = "\ufdd0"  # a character that no text holds
PROBE: Messages = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "주소는 어디인가요?"},
    {"role": "assistant", "content": "초롱돌로 417."},
    {"role": "user", "content": "And the floor?"},
]


def modelfile(directory: Path, weights: str, temperature: float) -> str:
    """The Modelfile of the model in `directory`, whose weights are at `weights`."""
    from transformers import AutoConfig, GenerationConfig

    tokenizer = load_tokenizer(directory)
    stops = stop_ids(GenerationConfig.from_pretrained(directory, local_files_only=True))
    config = AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    context = config.max_position_embeddings
    parameters: list[tuple[str, object]] = [
        ("stop", json.dumps(tokenizer.convert_ids_to_tokens(stop))) for stop in sorted(stops)
    ]
    parameters += [("temperature", temperature), ("top_p", TOP_P), ("num_ctx", context)]
    lines = [f"PARAMETER {name} {value}" for name, value in parameters]
    return "\n".join([f"FROM {weights}", f'TEMPLATE """{go_template(tokenizer)}"""', *lines]) + "\n"


def go_template(tokenizer: PreTrainedTokenizerBase) -> str:
    """The tokenizer's chat template in the language of Go's text/template, as Ollama fills it.

    A template that puts a constant text before and after each turn, by its role, is taken from what it renders; that
    it is of this kind is tried on a conversation. What stands before all turns is left to the runtime, which puts the
    BOS token there itself. Raises UserError for any other template.
    """

    def rendered(messages: Messages, **options: bool) -> str:
        try:
            return render(tokenizer, messages, **options)
        except UserError as error:
            raise UserError(f"{error}; needed one that writes each turn by itself. {BY_HAND}") from None

    around, start, prompt = {}, "", ""
    for role in ROLES:
        turn: Messages = [{"role": role, "content": CONTENT}]
        once, twice = rendered(turn), rendered(turn * 2)
        before, mark, after = twice[len(once) :].partition(CONTENT)
        if not mark:
            raise UserError(f"chat_template.jinja: it leaves out what {role} says; needed a turn for each role")
        around[role] = before, after
        start = once.removesuffix(before + mark + after)
        prompt = rendered(turn, add_generation_prompt=True).removeprefix(once)
    told = start + "".join(around[turn["role"]][0] + turn["content"] + around[turn["role"]][1] for turn in PROBE)
    if told + prompt != (found := rendered(PROBE, add_generation_prompt=True)):
        raise UserError(
            f"chat_template.jinja: found {found!r}, which is more than a constant text around each turn; needed that "
            f"to tell Ollama. {BY_HAND}"
        )
    if start not in ("", tokenizer.bos_token):
        raise UserError(
            f"chat_template.jinja: found {start!r} before all turns, needed nothing or {tokenizer.bos_token!r}"
        )
    constants = [prompt, *(text for pair in around.values() for text in pair)]
    if strange := [text for text in constants if "{{" in text or '"""' in text]:
        raise UserError(f'chat_template.jinja: found {strange[0]!r}, needed texts without {{{{ and """')
    turns = " else ".join(
        f'if eq .Role "{role}" }}}}{before}{{{{ .Content }}}}{after}{{{{' for role, (before, after) in around.items()
    )
    return f"{{{{ range .Messages }}}}{{{{ {turns} end }}}}{{{{ end }}}}{prompt}"
