"""Values that are one of a few."""

from enum import Enum


class BaseSource(Enum):
    hub = "hub"
    local = "local"
    wheel = "wheel"


class RowSource(Enum):
    hub = "hub"
    jsonl = "jsonl"


class AskedOf(Enum):
    pdf_qa = "pdf_qa"  # questions that SFT was trained on
    preferences = "preferences"  # questions of preference pairs, which SFT hasn't seen


class PairSource(Enum):
    rows = "rows"
    votes = "votes"  # data/raw/votes, where graft arena puts them


class SystemMessages(Enum):
    """What becomes of a system message where the base model's chat template takes none, or leaves it out silently."""

    fold = "fold"  # it goes in front of the first question, with an empty line between; counted as folded
    refuse = "refuse"  # the row is rejected


class Column(Enum):
    """What a column of a file of rows is, where its name doesn't say so."""

    question = "question"
    input = "input"  # what the question is about: it is put below the question
    answer = "answer"
    id = "id"
    fact_id = "fact_id"
    key = "key"
    answerable = "answerable"
    source = "source"
    system = "system"
    messages = "messages"
    history = "history"  # earlier turns, as pairs of question and answer
    prompt_id = "prompt_id"
    role = "role"  # of a message
    content = "content"  # of a message
    chosen = "chosen"
    rejected = "rejected"
    chosen_score = "chosen_score"
    rejected_score = "rejected_score"
    status = "status"
    in_gsm8k_train = "in_gsm8k_train"
    text = "text"  # raw text, which asks nothing
    ignore = "ignore"


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


class Engine(Enum):
    """Whose code computes the steps. unsloth, on a GPU, has kernels of its own and changes trl in its process."""

    trl = "trl"
    unsloth = "unsloth"


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


class Distributed(Enum):
    """How several processes, one for each GPU, share the work of a step."""

    none = "none"  # one process
    auto = "auto"  # ddp where one GPU has room for the model, else fsdp
    ddp = "ddp"  # each has the whole model and a part of the rows
    fsdp = "fsdp"  # each has a part of the weights, too


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


class Algorithm(Enum):
    """trl's names of the methods that learn from preferences beside DPO."""

    orpo = "orpo"  # Hong et al. 2024, arXiv 2403.07691
    cpo = "cpo"  # Xu et al. 2024, arXiv 2401.08417
    simpo = "simpo"  # Meng et al. 2024, arXiv 2405.14734
    kto = "kto"  # Ethayarajh et al. 2024, arXiv 2402.01306


class Pruned(Enum):
    """The merged model that layers are taken out of."""

    sft = "sft"
    dpo = "dpo"


class HealLoss(Enum):
    """What a pruned model is trained by."""

    kd = "kd"  # what the whole model says of the next token (Hinton et al. 2015, arXiv 1503.02531)
    sft = "sft"  # the rows' own tokens


class StartFrom(Enum):
    """The model that a preference method tunes."""

    auto = "auto"  # as the method's paper does: ORPO the base, which it makes SFT unnecessary for; the others sft
    base = "base"
    sft = "sft"  # the merged SFT model


class Tracker(Enum):
    """transformers' names of services that a run reports to."""

    tensorboard = "tensorboard"
    mlflow = "mlflow"
    trackio = "trackio"
    wandb = "wandb"


class MergedModel(Enum):
    """A model that a merge made."""

    sft = "sft"
    dpo = "dpo"
    preference = "preference"


class GgufFormat(Enum):
    """How a GGUF file holds weights: llama.cpp's own names. q4_k_m mixes q4_k and q6_k, q2_k hardly holds anything."""

    f16 = "f16"
    bf16 = "bf16"
    q8_0 = "q8_0"
    q6_k = "q6_k"
    q5_k_m = "q5_k_m"
    q5_k_s = "q5_k_s"
    q5_1 = "q5_1"
    q5_0 = "q5_0"
    q4_k_m = "q4_k_m"
    q4_k_s = "q4_k_s"
    q4_1 = "q4_1"
    q4_0 = "q4_0"
    q3_k_l = "q3_k_l"
    q3_k_m = "q3_k_m"
    q3_k_s = "q3_k_s"
    q2_k = "q2_k"


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
    """Who writes questions."""

    rules = "rules"
    huggingface = "huggingface"  # a chat model in a directory
    openai = "openai"  # a model behind an endpoint that speaks OpenAI's chat completions


class Rewording(Enum):
    none = "none"
    templates = "templates"
    back_translation = "back_translation"  # by generate's model


class QuestionKind(Enum):
    """What a model is asked to ask of a piece of a document."""

    fact = "fact"  # what, when, where, who, how much
    procedure = "procedure"  # how something is done
    reason = "reason"  # why
    definition = "definition"  # what a term means
    summary = "summary"  # the gist of it


class JudgeBackend(Enum):
    none = "none"
    openai = "openai"
    huggingface = "huggingface"


class PersonalData(Enum):
    report = "report"
    drop = "drop"


class Language(Enum):
    """A language of documents, by its code in ISO 639-1; the key is the code, too."""

    ko = "ko"
    en = "en"
    ja = "ja"
    zh = "zh"
    de = "de"
    fr = "fr"
    es = "es"
    it = "it"
    pt = "pt"
    nl = "nl"
    ru = "ru"
    uk = "uk"
    el = "el"
    ar = "ar"
    th = "th"
    hi = "hi"


class RlAlgorithm(Enum):
    """trl's stable trainers; PPO's was removed (trl#7020)."""

    grpo = "grpo"
    rloo = "rloo"


class RlReward(Enum):
    """What an answer is rewarded for."""

    key_facts = "key_facts"  # it states the trained answer's facts, or refuses where there is none: verifiable
    model = "model"  # the reward model's score
    both = "both"  # 1 for the facts, and the reward model's score between 0 and 1 beside it
