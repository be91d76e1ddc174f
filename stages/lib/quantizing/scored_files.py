"""Answers to questions with a known answer, by transformers and by llama.cpp from a file, and what a file must keep."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.lib.evaluation.batches import fitting_batches
from stages.lib.evaluation.generation import Answer, generate_answers
from stages.lib.evaluation.key_facts import key_exact, key_of
from stages.lib.evaluation.progress import progress
from stages.lib.evaluation.scored_rows import Record
from stages.lib.evaluation.scoring import room_for_answers
from stages.lib.every_stage.errors import UserError
from stages.lib.hardware import find_hardware
from stages.lib.models.chat import encode_prompt, render, stop_ids
from stages.lib.models.loading import load_16bit, load_tokenizer
from stages.lib.quantizing.gguf_files import bits_per_weight, puts_bos, stop_token
from stages.lib.quantizing.llama_server import Completion, LlamaServer, llama_server
from stages.lib.schema.choices import GgufFormat

SAME_LEAST = 0.9
"""Share of a 16-bit file's answers that must be transformers' own in float32. On the default model all 90 were. Sums
are rounded in another order, which decides where two tokens are nearly as likely; a template, a rotation of attention
or a norm that isn't the model's changes nearly all answers."""


@dataclass
class FileAnswers:
    """What llama.cpp answered from one file."""

    answers: list[Answer]
    tokens_per_second: float  # of answers; reading prompts isn't counted


class Exam:
    """Questions for one model: asked in its directory by transformers, and in files made of it by llama.cpp.

    The prompts are the tokens that training and evaluation see; the likeliest token is taken.
    """

    def __init__(self, directory: Path, questions: list[Record]) -> None:
        from transformers import GenerationConfig

        self.directory, self.questions = directory, questions
        self.tokenizer = load_tokenizer(directory)
        self.stops = stop_ids(GenerationConfig.from_pretrained(directory, local_files_only=True))
        self.room = room_for_answers(self.tokenizer, questions)
        self.messages = [question["messages"][:-1] for question in questions]
        self.prompts = [encode_prompt(self.tokenizer, messages) for messages in self.messages]

    def begins_with_bos(self) -> bool:
        """Whether the template writes a BOS token before a conversation."""
        return self.prompts[0][0] == self.tokenizer.bos_token_id

    def by_transformers(self) -> list[Answer]:
        """Answers of the directory's model, computed in float32: no rounding but that of its weights."""
        import torch

        model = load_16bit(self.directory, torch.float32)
        batch = fitting_batches(model, find_hardware(), self.room)
        advance = progress("quantize: transformers", "answers", len(self.messages))
        return generate_answers(model, self.tokenizer, self.messages, self.room, batch.generated, advance)

    def by_llama(self, file: Path, threads: int) -> FileAnswers:
        """Answers from a GGUF file, one at a time, by llama.cpp's own server.

        Raises UserError where the file would read another prompt or end on another token.
        """
        refuse_other_stop(file, self.stops)
        advance = progress(f"quantize: {file.stem}", "answers", len(self.prompts))
        found: list[Completion] = []
        with llama_server(file, threads, max(map(len, self.prompts)) + self.room + 1) as server:
            self.refuse_other_prompts(server, file)
            for prompt in self.prompts:
                found.append(server.answer(prompt, self.room, self.stops))
                advance(1)
        texts = self.tokenizer.batch_decode([each.tokens for each in found], skip_special_tokens=True)
        said = [Answer(text.strip(), each.stopped, len(each.tokens)) for text, each in zip(texts, found, strict=True)]
        computed = sum(answer.tokens + answer.stopped for answer in said)  # the token that ends an answer, too
        return FileAnswers(said, 1000 * computed / sum(each.milliseconds for each in found))

    def figures_of_files(
        self, files: dict[GgufFormat, Path], wanted: list[Answer], max_loss: float, threads: int
    ) -> tuple[dict[str, Any], dict[str, float]]:
        """Figures of each file, the first being the model's own 16-bit weights, and tokens a second by their names.

        `wanted` are transformers' answers. Raises UserError for a 16-bit file that answers otherwise, and for a file
        that loses more than `max_loss` of its key_exact.
        """
        figures: dict[str, Any] = {}
        speeds: dict[str, float] = {}
        whole: list[Answer] = []
        for form, file in files.items():
            found = self.by_llama(file, threads)
            if not whole:
                whole = found.answers
                same = share_same(whole, wanted)
                refuse_other_model(file, same)
                figures["transformers"] = {"key_exact": self.key_exact(wanted), "same": round(same, 4)}
            exact = self.key_exact(found.answers)
            refuse_lossy(file, exact, self.key_exact(whole), max_loss)
            figures[form.value] = {
                "mib": round(file.stat().st_size / 2**20, 1),
                "bits_per_weight": round(bits_per_weight(file), 2),
                "key_exact": exact,
                "same": round(share_same(found.answers, whole), 4),
                "stop_rate": round(sum(answer.stopped for answer in found.answers) / len(whole), 4),
            }
            speeds[form.value] = round(found.tokens_per_second, 1)
            print(f"quantize: {form.value}: {figures[form.value]}, {speeds[form.value]} tokens a second", flush=True)
        return figures, speeds

    def refuse_other_prompts(self, server: LlamaServer, file: Path) -> None:
        """Raise UserError unless template and tokenizer in the file give each question the prompt that training saw."""
        bos = (self.tokenizer.bos_token or "") if puts_bos(file) else ""
        for question, messages, wanted in zip(self.questions, self.messages, self.prompts, strict=True):
            # the runtime's own BOS token, where it puts one before all texts, is left out of the template's
            text = render(self.tokenizer, messages, add_generation_prompt=True).removeprefix(bos)
            if (rendered := server.render(messages).removeprefix(bos)) != text:
                raise UserError(
                    f"{file}: question {question['id']}: llama.cpp renders {rendered!r} by the template in the file, "
                    f"needed chat_template.jinja's {text!r}. Choose or write a file of conf/chat_template"
                )
            if (read := server.tokenise(text)) != wanted:
                raise UserError(
                    f"{file}: question {question['id']}: llama.cpp reads its prompt as the tokens {read}, needed the "
                    f"tokenizer's {wanted}: the model never saw such a prompt. Serve the directory itself: "
                    "docs/serving.md"
                )

    def key_exact(self, answers: list[Answer]) -> float:
        """Share of answers that state the key facts and no others: evaluate's figure."""
        keys = [question["key"] or key_of(question["messages"][-1]["content"]) for question in self.questions]
        found = sum(key_exact(key, answer.text) for key, answer in zip(keys, answers, strict=True))
        return round(found / len(keys), 4)


def refuse_other_stop(file: Path, stops: set[int]) -> None:
    """Raise UserError unless the token that the file ends answers on is one that the model was taught to end on."""
    if (found := stop_token(file)) not in stops:
        raise UserError(
            f"{file}: it ends answers on token {found}, needed one of {sorted(stops)} (generation_config.json): its "
            "answers wouldn't end. Rebuild the model with `dvc repro`"
        )


def share_same(one: list[Answer], other: list[Answer]) -> float:
    """Share of answers that are equal, letter for letter, and end or not as the others do."""
    pairs = zip(one, other, strict=True)
    return sum((a.text, a.stopped) == (b.text, b.stopped) for a, b in pairs) / len(one)


def refuse_other_model(file: Path, same: float) -> None:
    """Raise UserError for a 16-bit file that doesn't answer as the model that it was made of."""
    if same < SAME_LEAST:
        raise UserError(
            f"{file}: {same:.0%} of its answers by llama.cpp are transformers' answers from the model that it was made "
            f"of, needed {SAME_LEAST:.0%}: llama.cpp computes another model from it. Serve the directory itself "
            "(docs/serving.md)"
        )


def refuse_lossy(file: Path, exact: float, whole: float, max_loss: float) -> None:
    """Raise UserError for a file whose answers hold too few of the facts that the 16-bit file's hold."""
    if whole - exact > max_loss:
        raise UserError(
            f"{file.name}: its key_exact on seen questions is {exact:.2f}, needed {whole - max_loss:.2f} or more: the "
            f"16-bit file's {whole:.2f} less quantize.max_loss. Leave {file.stem} out of quantize.formats, or raise "
            "quantize.max_loss"
        )
