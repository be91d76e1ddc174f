"""The sections of sft, dpo and orpo."""

from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

from omegaconf import MISSING

from stages.lib.every_stage.errors import require
from stages.lib.schema.choices import (
    Choice,
    Distributed,
    DpoLoss,
    Dtype,
    Engine,
    LossOn,
    Method,
    Optim,
    Overlong,
    Quantization,
    Scheduler,
    Tracker,
)

UNSLOTH = ("unsloth", "unsloth_zoo")
"""What engine=unsloth imports beyond Graft's own packages."""


INITS = ("default", "gaussian")
"""What peft's init_lora_weights may be; the first is its True."""

ALL_LINEAR = "all-linear"
"""peft's word for every linear layer but the head; what it stands for is in the base's lineage.json."""


@dataclass
class Lora:
    """peft.LoraConfig's own names."""

    r: int = MISSING
    lora_alpha: int = MISSING
    lora_dropout: float = MISSING
    bias: str = "none"
    # all-linear, or a list of names; OmegaConf has no type for either
    target_modules: Any = ALL_LINEAR
    num_layers: int = -1  # that are tuned, counted from the last; -1, or more than there are: all (mlx-lm's name)
    use_dora: bool = False  # directions and lengths of the weights apart (Liu et al. 2024, arXiv 2402.09353)
    use_rslora: bool = False  # scaled by alpha / sqrt(r) in place of alpha / r (Kalajdzievski 2023, arXiv 2312.03732)
    init_lora_weights: str = "default"  # of A: default (Kaiming's uniform) or gaussian; B starts at 0
    loraplus_lr_ratio: float = 0.0  # B's learning rate to A's (Hayou et al. 2024, arXiv 2402.12354); 0: equal


@dataclass
class Training:
    """What SFT and DPO have in common, by transformers.TrainingArguments' names where it has one."""

    method: Method = Method.lora
    engine: Engine = Engine.trl
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
    logging_steps: int = 10  # each logged loss is the mean over so many
    seed: int = MISSING
    micro_batch_size: int = 0  # at most so many rows per forward pass; 0: decided from the hardware found
    gradient_checkpointing: Choice = Choice.auto
    torch_compile: Choice = Choice.auto  # of each layer; on a GPU, where the run is long enough to pay for it
    cuda_graphs: Choice = Choice.auto  # replay the decoder's passes; on a GPU, where a step is one pass
    dequantize_once: Choice = Choice.auto  # keep 16-bit values of 4-bit weights, where memory allows: equal, and faster
    distributed: Distributed = Distributed.none  # over several GPUs, by accelerate; the batch_size stays what it is
    processes: int = 0  # of distributed; 0: all visible GPUs, as far as the batch divides; on a CPU a number
    threads: int = 0  # CPU threads; 0: all that this process may use
    checkpoint_minutes: float = 5.0  # a crash may cost so much and logging_steps; 0: only those
    report_to: list[Tracker] = field(default_factory=list)

    def check(self, section: str) -> None:
        """Raise UserError for a value or combination that can't train."""
        require(self.batch_size > 0, f"{section}.batch_size", self.batch_size, "1 or more")
        require(self.max_length > 1, f"{section}.max_length", self.max_length, "2 or more")
        require(self.learning_rate > 0, f"{section}.learning_rate", self.learning_rate, "more than 0")
        require(self.lora.r > 0, f"{section}.lora.r", self.lora.r, "1 or more")
        require(0 <= self.lora.lora_dropout < 1, f"{section}.lora.lora_dropout", self.lora.lora_dropout, "0 <= p < 1")
        layers = self.lora.num_layers
        require(layers == -1 or layers > 0, f"{section}.lora.num_layers", layers, "1 or more, or -1 for all")
        modules = self.lora.target_modules
        names = isinstance(modules, list) and modules and all(isinstance(name, str) and name for name in modules)
        require(
            modules == ALL_LINEAR or bool(names),
            f"{section}.lora.target_modules",
            modules,
            f"{ALL_LINEAR}, or a list of at least one module name",
        )
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
        self.check_lora_variants(section)
        require(0 <= self.seed < 2**32, f"{section}.seed", self.seed, "0 to 4294967295")
        self.check_sharing(section)
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
        if self.engine is Engine.unsloth:
            self.check_unsloth(section)
        require(
            self.method is Method.lora or self.quantization in (Quantization.none, Quantization.auto),
            f"{section}.quantization",
            self.quantization.value,
            f"none, since {section}.method=full trains the weights themselves",
        )

    def check_lora_variants(self, section: str) -> None:
        """Raise UserError for a variant of LoRA that starts elsewhere than at the base, or goes with nothing else set.

        PiSSA, OLoRA, CorDA, EVA and LoftQ move a part of the base into the adapter, or change the base: with the
        adapter off it is another model, which is DPO's reference and keep_base's teacher.
        """
        lora, trl = self.lora, self.engine is Engine.trl
        require(
            lora.init_lora_weights in INITS,
            f"{section}.lora.init_lora_weights",
            lora.init_lora_weights,
            f"{' or '.join(INITS)}: with the adapter off the model must be the base, and others change it",
        )
        ratio = lora.loraplus_lr_ratio
        require(ratio == 0 or ratio >= 1, f"{section}.lora.loraplus_lr_ratio", ratio, "1 or more, or 0 for plain LoRA")
        for name, on in {"use_dora": lora.use_dora, "loraplus_lr_ratio": ratio > 0}.items():
            key, value = f"{section}.lora.{name}", getattr(lora, name)
            require(not on or trl, key, value, f"{section}.engine=trl: Unsloth's kernels are those of plain LoRA")
            require(
                not on or self.distributed in (Distributed.none, Distributed.ddp),
                key,
                value,
                f"{section}.distributed=none or ddp: weights that are sharded have no norms and no groups of their own",
            )

    def check_sharing(self, section: str) -> None:
        """Raise UserError for what several processes can't share."""
        require(self.processes >= 0, f"{section}.processes", self.processes, "0 (all visible GPUs) or more")
        require(
            self.processes == 0 or self.batch_size % self.processes == 0,
            f"{section}.processes",
            self.processes,
            f"a number that divides {section}.batch_size={self.batch_size}: {divisors(self.batch_size)}",
        )
        require(
            self.processes < 2 or self.distributed is not Distributed.none,
            f"{section}.processes",
            self.processes,
            f"0 or 1 with {section}.distributed=none; or {section}.distributed=auto",
        )
        require(
            self.distributed is not Distributed.fsdp or self.quantization is not Quantization.int8,
            f"{section}.quantization",
            self.quantization.value,
            f"none, nf4 or auto with {section}.distributed=fsdp: int8 weights can't be sharded",
        )

    def check_unsloth(self, section: str) -> None:
        """Raise UserError for what engine=unsloth can't do, or would ignore; and where it isn't installed."""
        chosen = f"since {section}.engine=unsloth"
        require(self.method is Method.lora, f"{section}.method", self.method.value, f"lora, {chosen} tunes no more")
        require(
            self.quantization is not Quantization.int8,
            f"{section}.quantization",
            self.quantization.value,
            f"auto, nf4 or none, {chosen} has kernels for 4 and 16 bits",
        )
        require(
            self.dtype is not Dtype.float32,
            f"{section}.dtype",
            self.dtype.value,
            f"auto, bfloat16 or float16, {chosen} would compute in 16 bits all the same",
        )
        require(
            self.distributed is Distributed.none,
            f"{section}.distributed",
            self.distributed.value,
            f"none, {chosen} trains on one GPU",
        )
        for name in ("torch_compile", "cuda_graphs", "dequantize_once"):
            choice = getattr(self, name)
            require(choice is Choice.auto, f"{section}.{name}", choice.value, f"auto, {chosen} decides it by itself")
        absent = [package for package in UNSLOTH if find_spec(package) is None]
        require(
            not absent,
            f"{section}.engine",
            self.engine.value,
            f"trl, or the packages {' and '.join(absent)}: make unsloth (docs/unsloth.md)",
        )


def divisors(number: int) -> str:
    """The numbers that divide `number`, for a message."""
    return ", ".join(str(each) for each in range(1, number + 1) if number % each == 0)


@dataclass
class Mix:
    """How often each data set's rows are in one epoch; 0 leaves it out."""

    ultrachat: int = 1
    pdf_qa: int = 1
    raw_text: int = 1  # where prepare_pdf_qa.raw_text made any


@dataclass
class KeepBase:
    """Chats held to what the base says of them, by the forward KL divergence, in place of being learned."""

    weight: float = 0.0  # of the KL in nats a token, beside the loss of what is learned; 0: chats are learned
    max_tokens: int = 128  # of each chat, the first that would be learned


@dataclass
class Sft(Training):
    mix: Mix = field(default_factory=Mix)
    keep_base: KeepBase = field(default_factory=KeepBase)
    loss_on: LossOn = LossOn.assistant  # the tokens that are learned
    overlong: Overlong = Overlong.cut_turns  # beyond max_length: whole last turns go, or the tail of the tokens
    padding_free: Choice = Choice.auto  # packed rows, where attention can keep them apart

    def __post_init__(self) -> None:
        self.check("sft")
        shares = (self.mix.ultrachat, self.mix.pdf_qa)
        require(min(shares) >= 0 and sum(shares) > 0, "sft.mix", shares, "0 or more each, and not both 0")
        require(self.mix.raw_text >= 0, "sft.mix.raw_text", self.mix.raw_text, "0 or more")
        require(self.keep_base.weight >= 0, "sft.keep_base.weight", self.keep_base.weight, "0 (off) or more")
        require(self.keep_base.max_tokens > 0, "sft.keep_base.max_tokens", self.keep_base.max_tokens, "1 or more")
        if self.keep_base.weight:
            self.check_keep_base()
        require(
            self.overlong is Overlong.cut_turns or self.loss_on is LossOn.all,
            "sft.overlong",
            self.overlong.value,
            "cut_turns, since a truncated answer without its stop token teaches sft.loss_on=assistant not to stop",
        )

    def check_keep_base(self) -> None:
        """Raise UserError for what has no base with its adapter off, or nothing to hold to it."""
        above = f"since sft.keep_base.weight={self.keep_base.weight:g}"
        off = "the base is the model with its adapter off"
        require(self.method is Method.lora, "sft.method", self.method.value, f"lora, {above}: {off}")
        require(self.engine is Engine.trl, "sft.engine", self.engine.value, f"trl, {above}")
        require(
            self.distributed is not Distributed.fsdp,
            "sft.distributed",
            self.distributed.value,
            f"none, ddp or auto, {above}: the base is not computed on weights that are sharded over processes",
        )
        require(self.lora.bias == "none", "sft.lora.bias", self.lora.bias, f"none, {above}: {off}, and biases stay on")
        require(self.mix.ultrachat > 0, "sft.mix.ultrachat", self.mix.ultrachat, f"1 or more, {above}: chats are held")
        learned = (self.mix.pdf_qa, self.mix.raw_text)
        require(sum(learned) > 0, "sft.mix.pdf_qa and raw_text", learned, f"1 or more, {above}: chats are not learned")


@dataclass
class Dpo(Training):
    prepared_share: float = 1.0  # of the prepared pairs beside sampled ones and votes, which are all trained on
    beta: float = MISSING
    loss_type: list[DpoLoss] = field(default_factory=lambda: [DpoLoss.sigmoid])
    loss_weights: list[float] = field(default_factory=list)  # one for each loss_type; empty: 1 each
    label_smoothing: float = 0.0
    precompute_ref_log_probs: bool = False  # once before training instead of in each step; kept by content

    def __post_init__(self) -> None:
        self.check("dpo")
        require(0 <= self.prepared_share <= 1, "dpo.prepared_share", self.prepared_share, "0 to 1")
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
            self.engine is Engine.trl or not self.precompute_ref_log_probs,
            "dpo.precompute_ref_log_probs",
            self.precompute_ref_log_probs,
            "false, since dpo.engine=unsloth computes outside training with other kernels than in it",
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
