"""Write what Ollama needs beside a model's weights: a Modelfile with the model's own template and stop tokens.

Reads   models/{base,sft-merged,dpo-merged,preference-merged,rl-merged,pruned,healed-merged}
Writes  outputs/ollama/<model>/Modelfile
Run     graft export [base|sft|dpo|rl|kto] [--gguf FILE]        then it says how to go on

Ollama reads the safetensors themselves, or a GGUF file made of them: docs/serving.md.
"""

import os
from pathlib import Path

from stages.lib.every_stage.entry import exit_on_user_error
from stages.lib.every_stage.errors import UserError
from stages.lib.every_stage.lineage import refuse_damaged
from stages.lib.every_stage.publish import published
from stages.lib.quantizing.modelfile import modelfile
from stages.lib.quantizing.sampling import TEMPERATURES
from tools.lib.chat_models import model_directory
from tools.lib.command_line import parser_of

OUT = Path("outputs/ollama")


def main() -> None:
    parser = parser_of("export", __doc__)
    parser.add_argument("model", nargs="?", default="dpo", choices=list(TEMPERATURES))
    parser.add_argument("--gguf", type=Path, help="a GGUF file of the model, to be taken instead of its safetensors")
    given = parser.parse_args()
    exit_on_user_error("export", lambda: say(given.model, given.gguf))


def say(model: str, gguf: Path | None) -> None:
    """Export a model, and say how to go on."""
    path = export(model, gguf)
    print(f"{path}\nollama create graft-{model} -f {path} && ollama run graft-{model}")


def export(model: str, gguf: Path | None) -> Path:
    """Write a model's Modelfile and return where. Raises UserError for a template that Ollama can't be told."""
    directory = model_directory(model)
    refuse_damaged(directory)
    if gguf and not gguf.is_file():
        raise UserError(f"{gguf}: no such file; needed the model as GGUF: docs/serving.md says how to make it")
    out = OUT / model / "Modelfile"
    weights = os.path.relpath(gguf or directory, out.parent)  # Ollama looks from where the Modelfile is
    with published(out) as path:
        path.write_text(modelfile(directory, weights, TEMPERATURES[model]), encoding="utf-8")
    return out


if __name__ == "__main__":
    main()
