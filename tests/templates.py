"""Chat templates of the kinds that are published, and a tokenizer of bytes that knows their tokens."""

import re
from pathlib import Path

ALTERNATE = (
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
)
GEMMA_2 = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}{% for message in messages %}" + ALTERNATE + "{% set role = 'model' if message['role'] == 'assistant' "
    "else 'user' %}{{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)
"""Refuses a system message, as Gemma-2's."""
MISTRAL_1 = (
    "{{ bos_token }}{% for message in messages %}" + ALTERNATE + "{% if message['role'] == 'user' %}"
    "{{ '[INST] ' + message['content'] + ' [/INST]' }}{% else %}{{ ' ' + message['content'] + eos_token }}{% endif %}"
    "{% endfor %}"
)
"""Refuses a system message for the order of roles, as Mistral-7B's first ones."""
MISTRAL_3 = (
    "{% set said = messages[0]['content'] if messages[0]['role'] == 'system' else '' %}"
    "{% set turns = messages[1:] if said else messages %}{{ bos_token }}{% for message in turns %}"
    + ALTERNATE
    + "{% if"
    " message['role'] == 'user' %}{{ '[INST] ' + (said + '\\n\\n' if said and message == (turns | selectattr('role',"
    " 'equalto', 'user') | list)[-1] else '') + message['content'] + '[/INST]' }}{% else %}"
    "{{ ' ' + message['content'] + eos_token }}{% endif %}{% endfor %}"
)
"""Writes a system message into the last question, as Mistral-7B's third one."""
FORGETFUL = (
    "{% for message in messages if message['role'] != 'system' %}{{ '<|' + message['role'] + '|>\\n' + "
    "message['content'] + '</s>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"
)
"""Leaves a system message out without a word."""

TOKEN = re.compile(r"<\|[^|<>\s']+\|>|<[/a-z_]+>|\[/?INST\]")


def write_tokenizer(directory: Path, template: str, eos_token: str = "</s>") -> None:
    """Write a tokenizer as prepare-base leaves it: each byte a token, and each special token that `template` spells."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={byte: index for index, byte in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    spelled = sorted({*TOKEN.findall(template), "<bos>", "<pad>", eos_token})
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in spelled])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=AddedToken("<bos>", lstrip=True),
        eos_token=eos_token,
        pad_token="<pad>",
        chat_template=template,
    )
    fast.save_pretrained(directory)
