"""The sections of sft, dpo, preference and heal."""

from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any, ClassVar

from omegaconf import MISSING

from stages.lib.every_stage.errors import require
from stages.lib.schema.bounds import Bound, Section, at_least, bounded, filled, more_than, one_of, share, within
from stages.lib.schema.choices import (
    Algorithm,
    Choice,
    Distributed,
    DpoLoss,
    Dtype,
    Engine,
    HealLoss,
    LossOn,
    Method,
    Optim,
    Overlong,
    Quantization,
    Scheduler,
    StartFrom,
    Tracker,
)

UNSLOTH = ("unsloth", "unsloth_zoo")
"""What engine=unsloth imports beyond Graft's own packages."""


INITS = ("default", "gaussian")
"""What peft's init_lora_weights may be; the first is its True."""

ALL_LINEAR = "all-linear"
"""peft's word for every linear layer but the head; what it stands for is in the base's lineage.json."""

BASE_KEPT = Bound(
    lambda init: init in INITS,
    f"{' or '.join(INITS)}: with the adapter off the model must be the base, and others change it",
)
"""PiSSA, OLoRA, CorDA, EVA and LoftQ move a part of the base into the adapter, or change the base: with the adapter off
it is another model, which is DPO's reference and keep_base's teacher."""


def names_modules(value: object) -> bool:
    """Whether this is all-linear, or a list of at least one name."""
    return value == ALL_LINEAR or (
        isinstance(value, list) and bool(value) and all(isinstance(name, str) and name for name in value)
    )


@dataclass
class Lora:
    """peft.LoraConfig's own names."""

    r: int = bounded(at_least(1))
    lora_alpha: int = bounded(at_least(1))
    lora_dropout: float = bounded(share("p"))
    bias: str = bounded(one_of("none", "all", "lora_only"), "none")
    # all-linear, or a list of names; OmegaConf has no type for either
    target_modules: Any = bounded(
        Bound(names_modules, f"{ALL_LINEAR}, or a list of at least one module name"), ALL_LINEAR
    )
    # that are tuned, counted from the last; -1, or more than there are: all (mlx-lm's name)
    num_layers: int = bounded(at_least(1).or_else(-1, "for all"), -1)
    use_dora: bool = False  # directions and lengths of the weights apart (Liu et al. 2024, arXiv 2402.09353)
    use_rslora: bool = False  # scaled by alpha / sqrt(r) in place of alpha / r (Kalajdzievski 2023, arXiv 2312.03732)
    # of A: default (Kaiming's uniform) or gaussian; B starts at 0
    init_lora_weights: str = bounded(BASE_KEPT, INITS[0])
    # B's learning rate to A's (Hayou et al. 2024, arXiv 2402.12354); 0: equal
    loraplus_lr_ratio: float = bounded(at_least(1).or_else(0, "for plain LoRA"), 0.0)


@dataclass
class Training(Section):
    """What SFT and DPO have in common, by transformers.TrainingArguments' names where it has one."""

    method: Method = Method.lora
    engine: Engine = Engine.trl
    quantization: Quantization = MISSING  # of the frozen base weights during training
    dtype: Dtype = Dtype.auto  # auto: bfloat16 where the hardware has it, else float16 on a GPU, float32 on a CPU
    lora: Lora = field(default_factory=Lora)
    learning_rate: float = bounded(more_than(0))
    lr_scheduler_type: Scheduler = MISSING
    warmup_steps: float = bounded(at_least(0), 0.0)  # below 1: a share of all steps
    num_train_epochs: float = bounded(more_than(0), 1.0)
    max_steps: int = bounded(at_least(1).or_else(-1, "for as many as the epochs need"), -1)
    batch_size: int = bounded(at_least(1))  # rows per optimizer step, whatever the hardware
    max_length: int = bounded(at_least(2))  # tokens
    optim: Optim = MISSING
    adam_beta2: float = bounded(share("beta2"), 0.999)
    weight_decay: float = bounded(at_least(0), 0.0)
    max_grad_norm: float = bounded(more_than(0), 1.0)
    logging_steps: int = bounded(at_least(1), 10)  # each logged loss is the mean over so many
    seed: int = bounded(within(0, 2**32 - 1))
    # at most so many rows per forward pass; 0: decided from the hardware found
    micro_batch_size: int = bounded(at_least(0, zero="auto"), 0)
    gradient_checkpointing: Choice = Choice.auto
    torch_compile: Choice = Choice.auto  # of each layer; on a GPU, where the run is long enough to pay for it
    cuda_graphs: Choice = Choice.auto  # replay the decoder's passes; on a GPU, where a step is one pass
    dequantize_once: Choice = Choice.auto  # keep 16-bit values of 4-bit weights, where memory allows: equal, and faster
    distributed: Distributed = Distributed.none  # over several GPUs, by accelerate; the batch_size stays what it is
    # of distributed; 0: all visible GPUs, as far as the batch divides; on a CPU a number
    processes: int = bounded(at_least(0, zero="all visible GPUs"), 0)
    threads: int = bounded(at_least(0, zero="all usable"), 0)  # of a CPU
    # a crash may cost so much and logging_steps; 0: only those
    checkpoint_minutes: float = bounded(at_least(0, zero="every step"), 5.0)
    report_to: list[Tracker] = field(default_factory=list)

    def check(self) -> None:
        self.check_lora_variants()
        self.check_sharing()
        absent = [tracker.value for tracker in self.report_to if find_spec(tracker.value) is None]
        require(not absent, f"{self.NAME}.report_to", absent, f"installed packages: pip install {' '.join(absent)}")
        if self.engine is Engine.unsloth:
            self.check_unsloth()
        require(
            self.method is Method.lora or self.quantization in (Quantization.none, Quantization.auto),
            f"{self.NAME}.quantization",
            self.quantization.value,
            f"none, since {self.NAME}.method=full trains the weights themselves",
        )

    def check_lora_variants(self) -> None:
        """Raise UserError for a variant of LoRA that goes with nothing else that is set."""
        lora, trl, ratio = self.lora, self.engine is Engine.trl, self.lora.loraplus_lr_ratio
        for name, on in {"use_dora": lora.use_dora, "loraplus_lr_ratio": ratio > 0}.items():
            key, value = f"{self.NAME}.lora.{name}", getattr(lora, name)
            require(not on or trl, key, value, f"{self.NAME}.engine=trl: Unsloth's kernels are those of plain LoRA")
            require(
                not on or self.distributed in (Distributed.none, Distributed.ddp),
                key,
                value,
                f"{self.NAME}.distributed=none or ddp: sharded weights have no norms and no groups of their own",
            )

    def check_sharing(self) -> None:
        """Raise UserError for what several processes can't share."""
        require(
            self.processes == 0 or self.batch_size % self.processes == 0,
            f"{self.NAME}.processes",
            self.processes,
            f"a number that divides {self.NAME}.batch_size={self.batch_size}: {divisors(self.batch_size)}",
        )
        require(
            self.processes < 2 or self.distributed is not Distributed.none,
            f"{self.NAME}.processes",
            self.processes,
            f"0 or 1 with {self.NAME}.distributed=none; or {self.NAME}.distributed=auto",
        )
        require(
            self.distributed is not Distributed.fsdp or self.quantization is not Quantization.int8,
            f"{self.NAME}.quantization",
            self.quantization.value,
            f"none, nf4 or auto with {self.NAME}.distributed=fsdp: int8 weights can't be sharded",
        )

    def check_unsloth(self) -> None:
        """Raise UserError for what engine=unsloth can't do, or would ignore; and where it isn't installed."""
        chosen = f"since {self.NAME}.engine=unsloth"
        require(self.method is Method.lora, f"{self.NAME}.method", self.method.value, f"lora, {chosen} tunes no more")
        require(
            self.quantization is not Quantization.int8,
            f"{self.NAME}.quantization",
            self.quantization.value,
            f"auto, nf4 or none, {chosen} has kernels for 4 and 16 bits",
        )
        require(
            self.dtype is not Dtype.float32,
            f"{self.NAME}.dtype",
            self.dtype.value,
            f"auto, bfloat16 or float16, {chosen} would compute in 16 bits all the same",
        )
        require(
            self.distributed is Distributed.none,
            f"{self.NAME}.distributed",
            self.distributed.value,
            f"none, {chosen} trains on one GPU",
        )
        for name in ("torch_compile", "cuda_graphs", "dequantize_once"):
            choice = getattr(self, name)
            require(choice is Choice.auto, f"{self.NAME}.{name}", choice.value, f"auto, {chosen} decides it by itself")
        absent = [package for package in UNSLOTH if find_spec(package) is None]
        require(
            not absent,
            f"{self.NAME}.engine",
            self.engine.value,
            f"trl, or the packages {' and '.join(absent)}: make unsloth (docs/unsloth.md)",
        )


def divisors(number: int) -> str:
    """The numbers that divide `number`, for a message."""
    return ", ".join(str(each) for each in range(1, number + 1) if number % each == 0)


@dataclass
class Mix:
    """How often each data set's rows are in one epoch; 0 leaves it out."""

    ultrachat: int = bounded(at_least(0), 1)
    pdf_qa: int = bounded(at_least(0), 1)
    raw_text: int = bounded(at_least(0), 1)  # where prepare_pdf_qa.raw_text made any


@dataclass
class KeepBase:
    """Chats held to what the base says of them, by the forward KL divergence, in place of being learned."""

    # of the KL in nats a token, beside the loss of what is learned; 0: chats are learned
    weight: float = bounded(at_least(0, zero="off"), 0.0)
    max_tokens: int = bounded(at_least(1), 128)  # of each chat, the first that would be learned


@dataclass
class Sft(Training):
    NAME: ClassVar[str] = "sft"
    mix: Mix = field(default_factory=Mix)
    keep_base: KeepBase = field(default_factory=KeepBase)
    loss_on: LossOn = LossOn.assistant  # the tokens that are learned
    overlong: Overlong = Overlong.cut_turns  # beyond max_length: whole last turns go, or the tail of the tokens
    padding_free: Choice = Choice.auto  # packed rows, where attention can keep them apart

    def check(self) -> None:
        super().check()
        shares = (self.mix.ultrachat, self.mix.pdf_qa)
        require(sum(shares) > 0, "sft.mix", shares, "not both 0")
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
    NAME: ClassVar[str] = "dpo"
    # of the prepared pairs beside sampled ones and votes, which are all trained on
    prepared_share: float = bounded(within(0, 1), 1.0)
    beta: float = bounded(more_than(0))
    loss_type: list[DpoLoss] = bounded(filled("at least one of trl's losses"), [DpoLoss.sigmoid])
    loss_weights: list[float] = field(default_factory=list)  # one for each loss_type; empty: 1 each
    label_smoothing: float = bounded(share("p", below=0.5), 0.0)
    precompute_ref_log_probs: bool = False  # once before training instead of in each step; kept by content

    def check(self) -> None:
        super().check()
        require(
            len(self.loss_weights) in (0, len(self.loss_type)),
            "dpo.loss_weights",
            self.loss_weights,
            f"one for each of the {len(self.loss_type)} losses in dpo.loss_type, or none",
        )
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


BETAS = {Algorithm.orpo: 0.1, Algorithm.cpo: 0.1, Algorithm.simpo: 2.0, Algorithm.kto: 0.1}
"""What beta is in the methods' papers (ORPO's lambda); what it weighs differs, so one number can't suit all."""


@dataclass
class Preference(Training):
    """One more model that learns from preferences, by ORPO, CPO, SimPO or KTO; trl's own names of their options."""

    NAME: ClassVar[str] = "preference"
    enabled: bool = False
    algorithm: Algorithm = Algorithm.orpo
    start: StartFrom = StartFrom.auto
    beta: float = bounded(at_least(0, zero="as the method's paper has it"), 0.0)
    # cpo: of the chosen answer's cross entropy, beside the loss of the pair
    cpo_alpha: float = bounded(at_least(0), 1.0)
    # simpo: by how much the better answer's reward, beta times its mean log-probability, is to be ahead
    simpo_gamma: float = bounded(at_least(0), 0.5)
    # kto: of answers that people like and of those that they don't, where there are more of one kind
    desirable_weight: float = bounded(more_than(0), 1.0)
    undesirable_weight: float = bounded(more_than(0), 1.0)
    # kto: rows of a forward pass, over all processes, whatever the hardware: its KL is estimated on just these
    kl_batch_size: int = bounded(at_least(2), 4)

    def check(self) -> None:
        super().check()
        require(self.method is Method.lora, "preference.method", self.method.value, "lora")
        require(
            self.algorithm is not Algorithm.kto or self.batch_size % self.kl_batch_size == 0,
            "preference.kl_batch_size",
            self.kl_batch_size,
            f"a number that divides preference.batch_size={self.batch_size}: {divisors(self.batch_size)}, and not 1",
        )

    def check_unsloth(self) -> None:
        require(
            self.algorithm is Algorithm.orpo,
            "preference.engine",
            self.engine.value,
            f"trl, since preference.algorithm={self.algorithm.value}: Unsloth was tried with orpo alone",
        )
        super().check_unsloth()

    def started_from(self) -> StartFrom:
        """The model that is tuned: base or sft."""
        if self.start is not StartFrom.auto:
            return self.start
        return StartFrom.base if self.algorithm is Algorithm.orpo else StartFrom.sft


@dataclass
class Heal(Training):
    """A pruned model, trained until it says again what the whole one says."""

    NAME: ClassVar[str] = "heal"
    # as sft's are at first: answers are learned, whole turns go where a chat is too long
    loss_on: ClassVar[LossOn] = LossOn.assistant
    overlong: ClassVar[Overlong] = Overlong.cut_turns
    enabled: bool = False  # as prune.enabled is, unless it is set
    loss: HealLoss = HealLoss.kd
    # kd: of both distributions; above 1 the unlikely tokens count for more
    temperature: float = bounded(more_than(0), 1.0)

    def check(self) -> None:
        super().check()
        for key, value, needed, why in (
            ("method", self.method, Method.lora, "what is trained is merged into the pruned model"),
            ("engine", self.engine, Engine.trl, "Unsloth computes no hidden states to distil"),
            ("distributed", self.distributed, Distributed.none, "the whole model is beside it, on one GPU"),
        ):
            require(value is needed, f"heal.{key}", value.value, f"{needed.value}: {why}")
