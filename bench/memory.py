"""The estimate of memory against what training took: SFT steps of three model sizes, each in a process of its own.

Weights are random: memory does not depend on their values. Sizes are SmolLM2's and TinyLlama's shapes.
Run     python -m bench.memory
"""

import json
import resource
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from stages.lib.hardware import describe, set_up_cpu
from stages.lib.memory import estimate
from stages.lib.schema import Lora, Optim, Quantization, Scheduler, Sft

SHAPES = {
    "SmolLM2-135M": (576, 1536, 30, 9, 3, 49152),
    "SmolLM2-360M": (960, 2560, 32, 15, 5, 49152),
    "TinyLlama-1.1B": (2048, 5632, 22, 32, 4, 32000),
}
"""Hidden width, inner width, layers, heads, key-value heads, vocabulary."""
TOKENS, ROWS, STEPS = 512, 2, 3


def measure(name: str) -> dict[str, float]:
    """Peak memory of a few SFT steps beyond the loaded model, in MiB, and the estimate of it."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from stages import sft
    from stages.lib.plan import Plan

    hidden, inner, layers, heads, key_value, vocabulary = SHAPES[name]
    set_up_cpu(0)
    shape = {"hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers}
    config = LlamaConfig(
        **shape,
        num_attention_heads=heads,
        num_key_value_heads=key_value,
        vocab_size=vocabulary,
        tie_word_embeddings=True,
    )
    torch.set_default_dtype(torch.bfloat16)
    model = LlamaForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    section = Sft(
        quantization=Quantization.none,
        lora=Lora(r=64, lora_alpha=128, lora_dropout=0.0),
        learning_rate=1e-4,
        lr_scheduler_type=Scheduler.constant,
        max_steps=STEPS,
        batch_size=ROWS,
        max_length=TOKENS,
        optim=Optim.adamw_torch_fused,
        seed=1,
    )
    rows = []
    for _ in range(ROWS * STEPS):
        ids = torch.randint(0, vocabulary, (TOKENS,)).tolist()
        rows.append({"input_ids": ids, "labels": [-100] * (TOKENS // 2) + ids[TOKENS // 2 :]})
    found = estimate(
        section,
        config,
        model.num_parameters(),
        ROWS * TOKENS,
        checkpointing=False,
        dequantized=False,
        all_logits=False,
    )
    plan = Plan(ROWS, 1, False, False, section.optim.value, 0, 0)
    before = resident()
    with TemporaryDirectory() as folder:
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=tiny_tokenizer(), pad_token="<pad>")
        sft.make_trainer(section, plan, torch.bfloat16, model, tokenizer, rows, Path(folder)).train()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"measured": peak - before, "estimated": found.total() / 2**20, "model": before}


def tiny_tokenizer() -> Any:
    """A tokenizer of one token: the trainer asks for one, the rows are token ids already."""
    from tokenizers import Tokenizer, models

    return Tokenizer(models.WordLevel({"<pad>": 0}, unk_token="<pad>"))


def resident() -> float:
    """Resident memory of this process in MiB."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["VmRSS"].split()[0]) / 1024


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(measure(sys.argv[1])))
    else:
        print(describe())
        for each in SHAPES:
            done = subprocess.run(
                [sys.executable, "-m", "bench.memory", each], capture_output=True, text=True, check=True
            )
            row = json.loads(done.stdout.splitlines()[-1])
            ratio = row["estimated"] / row["measured"]
            print(f"{each:16} measured {row['measured']:6.0f} MiB, estimated {row['estimated']:6.0f}: {ratio:.2f}")
