"""The sections of reward and rl."""

from dataclasses import dataclass
from importlib.util import find_spec
from typing import ClassVar

from stages.lib.every_stage.errors import require
from stages.lib.schema.bounds import at_least, bounded, more_than
from stages.lib.schema.choices import Choice, Distributed, Engine, Method, Quantization, RlAlgorithm, RlReward
from stages.lib.schema.training import Training

VLLM = "vllm"


@dataclass
class PlainTraining(Training):
    """Training by a trl trainer's own arithmetic, on one GPU or several that each hold the whole model."""

    enabled: bool = False

    def check(self) -> None:
        super().check()
        own = "its trainer computes by itself"
        require(self.method is Method.lora, f"{self.NAME}.method", self.method.value, "lora")
        require(self.engine is Engine.trl, f"{self.NAME}.engine", self.engine.value, f"trl: {own}")
        require(
            self.distributed in (Distributed.none, Distributed.ddp),
            f"{self.NAME}.distributed",
            self.distributed.value,
            "none or ddp: each GPU holds the whole model",
        )
        for name in ("torch_compile", "cuda_graphs", "dequantize_once"):
            choice = getattr(self, name)
            require(choice is not Choice.always, f"{self.NAME}.{name}", choice.value, f"auto or never: {own}")


@dataclass
class Reward(PlainTraining):
    """A model that scores answers, from preference pairs (Ouyang et al. 2022, arXiv 2203.02155, equation 1)."""

    NAME: ClassVar[str] = "reward"


@dataclass
class Rl(PlainTraining):
    """Reinforcement learning on the model's own answers; batch_size counts answers."""

    NAME: ClassVar[str] = "rl"
    algorithm: RlAlgorithm = RlAlgorithm.grpo
    reward: RlReward = RlReward.key_facts
    num_generations: int = bounded(at_least(2), 8)  # answers to each question, which are compared with each other
    beta: float = bounded(at_least(0, zero="no reference"), 0.04)  # of the KL divergence from the merged SFT model
    temperature: float = bounded(more_than(0), 1.0)  # that answers are drawn at
    max_completion_length: int = bounded(at_least(1), 128)  # tokens of an answer; one that is longer earns nothing
    use_vllm: bool = False  # generate by vLLM, on a GPU, in the same process

    def check(self) -> None:
        super().check()
        require(
            self.batch_size % self.num_generations == 0,
            "rl.num_generations",
            self.num_generations,
            f"a number that divides rl.batch_size={self.batch_size}, which counts answers",
        )
        require(
            self.max_completion_length < self.max_length,
            "rl.max_completion_length",
            self.max_completion_length,
            f"less than rl.max_length={self.max_length}, which question and answer share",
        )
        require(
            not self.use_vllm or find_spec(VLLM) is not None,
            "rl.use_vllm",
            self.use_vllm,
            "false, or the package vllm: pip install vllm on a machine with a GPU",
        )
        require(
            not self.use_vllm or self.quantization is Quantization.none,
            "rl.quantization",
            self.quantization.value,
            "none, since rl.use_vllm=true is given merged weights after each step",
        )


def check_rewards(reward: Reward, rl: Rl) -> None:
    """Raise UserError where rl asks for a reward model that nothing trains."""
    require(
        not rl.enabled or rl.reward is RlReward.key_facts or reward.enabled,
        "rl.reward",
        rl.reward.value,
        "key_facts, or reward.enabled=true: nothing trains a reward model",
    )
