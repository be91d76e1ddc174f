"""The sections of evaluate, judge, benchmark and report."""

from dataclasses import dataclass, field

from omegaconf import MISSING

from stages.lib.every_stage.errors import require
from stages.lib.schema.choices import AskedOf, Dtype, JudgeBackend


@dataclass
class Evaluate:
    max_new_tokens: int = 0  # of one answer; 0: an eighth more than the longest one that is wanted
    batch_tokens: int = 0  # padded tokens in one batch of answers; 0: as many as fit into memory, to a limit
    continuous_batching: bool = False  # transformers' own, for many questions on a GPU; in 16 bit answers may differ
    dtype: Dtype = Dtype.auto  # to compute in; answers in float32 don't depend on how they are batched
    demo_question: str = ""  # shown before and after tuning; empty: the first of the seen questions
    bertscore_model: str = ""  # a directory with an encoder; empty: no BERTScore
    bootstrap_resamples: int = 2000
    seed: int = MISSING
    threads: int = 0

    def __post_init__(self) -> None:
        require(self.max_new_tokens >= 0, "evaluate.max_new_tokens", self.max_new_tokens, "0 or more")
        require(self.batch_tokens >= 0, "evaluate.batch_tokens", self.batch_tokens, "0 or more")
        require(self.bootstrap_resamples > 0, "evaluate.bootstrap_resamples", self.bootstrap_resamples, "1 or more")
        require(self.seed >= 0, "evaluate.seed", self.seed, "0 or more")
        require(self.threads >= 0, "evaluate.threads", self.threads, "0 (all usable cores) or more")


@dataclass
class SamplePreferences:
    """Pairs for DPO from the merged SFT model's own answers to questions that have a known answer."""

    enabled: bool = False
    sources: list[AskedOf] = field(default_factory=lambda: [AskedOf.pdf_qa, AskedOf.preferences])
    samples: int = 8  # answers to each question
    temperature: float = 1.0
    wordings: int = 0  # of each trained fact that are asked; 0: all
    pairs_per_question: int = 2  # at most, the answers that are drawn most often first
    max_ratio: float = 4.0  # pairs of answerable to one of unanswerable questions at most, or the other way; 0: any
    max_new_tokens: int = 0  # of an answer; 0: an eighth more than the longest trained one
    batch_tokens: int = 0  # padded tokens in one batch of answers; 0: as many as fit into memory, to a limit
    dtype: Dtype = Dtype.auto
    seed: int = MISSING
    threads: int = 0

    def __post_init__(self) -> None:
        require(bool(self.sources), "sample_preferences.sources", [], "pdf_qa, preferences or both")
        require(self.samples > 0, "sample_preferences.samples", self.samples, "1 or more")
        require(self.temperature > 0, "sample_preferences.temperature", self.temperature, "more than 0")
        require(self.wordings >= 0, "sample_preferences.wordings", self.wordings, "0 (all) or more")
        key = "sample_preferences.pairs_per_question"
        require(self.pairs_per_question > 0, key, self.pairs_per_question, "1 or more")
        require(
            self.max_ratio == 0 or self.max_ratio >= 1,
            "sample_preferences.max_ratio",
            self.max_ratio,
            "0 (any) or 1 and more",
        )
        key = "sample_preferences.max_new_tokens"
        require(self.max_new_tokens >= 0, key, self.max_new_tokens, "0 (by the longest trained answer) or more")
        require(self.batch_tokens >= 0, "sample_preferences.batch_tokens", self.batch_tokens, "0 or more")
        require(self.seed >= 0, "sample_preferences.seed", self.seed, "0 or more")
        require(self.threads >= 0, "sample_preferences.threads", self.threads, "0 (all usable cores) or more")


@dataclass
class Judge:
    backend: JudgeBackend = JudgeBackend.none
    model: str = ""  # huggingface: a directory with a chat model; openai: the model's name
    endpoint: str = ""  # openai: the address that /chat/completions is appended to; the key is OPENAI_API_KEY's
    pairs: list[str] = field(default_factory=lambda: ["dpo:base", "dpo:sft"])  # models whose answers are compared
    questions: int = 100  # at most so many, the same ones however the set grows
    max_new_tokens: int = 256  # of one verdict
    bootstrap_resamples: int = 2000
    seed: int = MISSING

    def __post_init__(self) -> None:
        if self.backend is not JudgeBackend.none:
            require(bool(self.model), "judge.model", "", f"a value for backend={self.backend.value}")
        if self.backend is JudgeBackend.openai:
            require(self.endpoint.startswith("http"), "judge.endpoint", self.endpoint, "an http(s) address")
        models = {"base", "sft", "dpo", "orpo"}
        for pair in self.pairs:
            sides = pair.split(":")
            fits = len(sides) == 2 and set(sides) <= models and sides[0] != sides[1]
            require(fits, "judge.pairs", pair, "two different ones of base, sft, dpo, orpo, such as dpo:base")
        require(self.questions > 0, "judge.questions", self.questions, "1 or more")
        require(self.max_new_tokens > 0, "judge.max_new_tokens", self.max_new_tokens, "1 or more")
        require(self.bootstrap_resamples > 0, "judge.bootstrap_resamples", self.bootstrap_resamples, "1 or more")
        require(self.seed >= 0, "judge.seed", self.seed, "0 or more")


@dataclass
class Benchmark:
    tasks: list[str] = field(default_factory=list)  # lm-evaluation-harness's own names; none: nothing is run
    task_folder: str = ""  # a folder with task files (YAML) of one's own
    limit: int = 0  # rows of each task; 0: all
    batch_size: int = 8
    allow_code: bool = False  # run tasks that execute what a model wrote, such as humaneval
    seed: int = MISSING
    threads: int = 0

    def __post_init__(self) -> None:
        require(self.limit >= 0, "benchmark.limit", self.limit, "0 (all rows) or more")
        require(self.batch_size > 0, "benchmark.batch_size", self.batch_size, "1 or more")
        require(self.seed >= 0, "benchmark.seed", self.seed, "0 or more")
        require(self.threads >= 0, "benchmark.threads", self.threads, "0 (all usable cores) or more")


@dataclass
class Report:
    """What the model card says beside what was measured; the base model's name and licence are its lineage's."""

    languages: list[str] = field(default_factory=lambda: ["ko", "en"])
