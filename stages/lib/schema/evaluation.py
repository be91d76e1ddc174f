"""The sections of evaluate, quantize, judge, benchmark and report."""

from dataclasses import dataclass, field
from typing import ClassVar

from stages.lib.every_stage.errors import require
from stages.lib.schema.asking import require_model
from stages.lib.schema.bounds import Section, at_least, bounded, filled, more_than, share
from stages.lib.schema.choices import Algorithm, AskedOf, Dtype, GgufFormat, JudgeBackend, MergedModel

THREADS = at_least(0, zero="all usable cores")


@dataclass
class Evaluate(Section):
    NAME: ClassVar[str] = "evaluate"
    max_new_tokens: int = bounded(
        at_least(0), 0
    )  # of one answer; 0: an eighth more than the longest one that is wanted
    batch_tokens: int = bounded(
        at_least(0), 0
    )  # padded tokens in one batch of answers; 0: as many as fit into memory, to a limit
    continuous_batching: bool = False  # transformers' own, for many questions on a GPU; in 16 bit answers may differ
    dtype: Dtype = Dtype.auto  # to compute in; answers in float32 don't depend on how they are batched
    demo_question: str = ""  # shown before and after tuning; empty: the first of the seen questions
    bertscore_model: str = ""  # a directory with an encoder; empty: no BERTScore
    bootstrap_resamples: int = bounded(at_least(1), 2000)
    seed: int = bounded(at_least(0))
    threads: int = bounded(THREADS, 0)


@dataclass
class SamplePreferences(Section):
    """Pairs for DPO from the merged SFT model's own answers to questions that have a known answer."""

    NAME: ClassVar[str] = "sample_preferences"

    enabled: bool = False
    sources: list[AskedOf] = bounded(filled("pdf_qa, preferences or both"), [AskedOf.pdf_qa, AskedOf.preferences])
    samples: int = bounded(at_least(1), 8)  # answers to each question
    temperature: float = bounded(more_than(0), 1.0)
    wordings: int = bounded(at_least(0, zero="all"), 0)  # of each trained fact that are asked
    pairs_per_question: int = bounded(at_least(1), 2)  # at most, the answers that are drawn most often first
    # pairs of answerable to one of unanswerable questions at most, or the other way
    max_ratio: float = bounded(at_least(1).or_else(0, "for any"), 4.0)
    # of an answer; 0: an eighth more than the longest trained one
    max_new_tokens: int = bounded(at_least(0, zero="by the longest trained answer"), 0)
    # padded tokens in one batch of answers; 0: as many as fit into memory, to a limit
    batch_tokens: int = bounded(at_least(0), 0)
    dtype: Dtype = Dtype.auto
    seed: int = bounded(at_least(0))
    threads: int = bounded(THREADS, 0)


@dataclass
class Quantize(Section):
    """A merged model as files for llama.cpp, each of them scored by llama.cpp itself."""

    NAME: ClassVar[str] = "quantize"
    enabled: bool = False
    model: MergedModel = MergedModel.dpo
    formats: list[GgufFormat] = bounded(
        filled("one or more of llama.cpp's, such as [q8_0, q4_k_m]"),
        [GgufFormat.bf16, GgufFormat.q8_0, GgufFormat.q4_k_m],
    )
    # Of key_exact on seen questions, that a file may lose against the 16-bit one.
    max_loss: float = bounded(share("loss"), 0.05)
    threads: int = bounded(THREADS, 0)


@dataclass
class Judge(Section):
    NAME: ClassVar[str] = "judge"
    backend: JudgeBackend = JudgeBackend.none
    model: str = ""  # huggingface: a directory with a chat model; openai: the model's name
    endpoint: str = ""  # openai: the address that /chat/completions is appended to; the key is OPENAI_API_KEY's
    pairs: list[str] = field(default_factory=lambda: ["dpo:base", "dpo:sft"])  # models whose answers are compared
    questions: int = bounded(at_least(1), 100)  # at most so many, the same ones however the set grows
    max_new_tokens: int = bounded(at_least(1), 256)  # of one verdict
    bootstrap_resamples: int = bounded(at_least(1), 2000)
    seed: int = bounded(at_least(0))

    def check(self) -> None:
        require_model(self.NAME, self.backend, self.model, self.endpoint)
        models = ["base", "sft", "dpo", *(each.value for each in Algorithm), "rl", "pruned", "healed"]
        for pair in self.pairs:
            sides = pair.split(":")
            fits = len(sides) == 2 and set(sides) <= {*models} and sides[0] != sides[1]
            require(fits, "judge.pairs", pair, f"two different ones of {', '.join(models)}, such as dpo:base")


@dataclass
class Benchmark(Section):
    NAME: ClassVar[str] = "benchmark"
    tasks: list[str] = field(default_factory=list)  # lm-evaluation-harness's own names; none: nothing is run
    task_folder: str = ""  # a folder with task files (YAML) of one's own
    limit: int = bounded(at_least(0, zero="all rows"), 0)  # rows of each task
    batch_size: int = bounded(at_least(1), 8)
    allow_code: bool = False  # run tasks that execute what a model wrote, such as humaneval
    seed: int = bounded(at_least(0))
    threads: int = bounded(THREADS, 0)


@dataclass
class Report:
    """What the model card says beside what was measured; the base model's name and licence are its lineage's."""

    languages: list[str] = field(default_factory=lambda: ["ko", "en"])
