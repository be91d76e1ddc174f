"""How much memory a training step takes, and which settings would make it fit."""

from dataclasses import dataclass

from stages.lib.every_stage.errors import UserError
from stages.lib.models.shape import Shape
from stages.lib.schema.choices import Method, Optim, Quantization
from stages.lib.schema.training import Sft, Training

GIB = 2**30

HEAD_ROWS = 256
"""Positions projected onto the vocabulary at once on a CPU. Fewer would read the whole head more often than it is
worth."""

HELD_ROWS = 256
"""Positions whose logits base and tuned model have at once where SFT is held to its base (keep_base.py)."""

FRAGMENTED = 0.2
"""Of what comes and goes in a step on a CPU, what the allocator holds besides: the hole that one tensor leaves rarely
has the size of the next. The process takes 1.2 to 1.3 times the bytes of the tensors that live at once, and not the
same in two equal runs (bench/memory.py)."""

OPTIMIZER_BYTES = {Optim.adamw_8bit: 2, Optim.paged_adamw_8bit: 2, Optim.adafactor: 0, Optim.sgd: 0}
"""Bytes of optimizer state a trained parameter; AdamW's two float32 moments are 8."""


@dataclass
class Estimate:
    """Bytes that training takes beyond the loaded model."""

    adapter: int  # or the trained weights' own copies
    gradients: int
    optimizer: int
    activations: int
    logits: int
    dequantized: int
    fragments: int
    weights: int  # where they are sharded over processes: this one's part, and a whole layer at a time

    def total(self) -> int:
        return sum(vars(self).values())


def estimate(
    section: Training,
    shape: Shape,
    parameters: int,
    tokens: int,
    *,
    on_cpu: bool,
    checkpointing: bool,
    dequantized: bool,
    all_logits: bool,
    shards: int = 1,
) -> Estimate:
    """Memory of one step over `tokens` tokens (rows x longest row of one forward pass) in 16-bit arithmetic.

    `shape` is the model's, `parameters` the number of its weights. Activations are what the layers of transformers'
    Llama keep for the backward pass, in bytes a token and layer, of hidden width h, key and value width k, inner width
    i: two norms 16 h, attention 6 h + 4 k, MLP 8 i, the adapter's inner values 14 r, and the weights of explicit
    attention 2 a s for a heads and s tokens in a row on a CPU (fused attention keeps none). Other families keep about
    as much. With `all_logits` every position is projected onto the vocabulary at once, as trl's ORPO and CPO do.
    Layers below those that lora.num_layers tunes keep nothing.
    Checkpointing keeps a layer's input, 2 h, and one layer's values at a time. `shards` processes with FSDP hold a
    part each of the weights and of what is trained, and beside it two whole layers and the embeddings at a time.
    """
    hidden, layers = shape.hidden, shape.layers
    rank = section.lora.r if section.method is Method.lora else 0
    targets = adapted(section, shape)
    tuned = layers if not rank or section.lora.num_layers == -1 else min(section.lora.num_layers, layers)
    trained = rank * sum(ins + outs for ins, outs in targets) * tuned // layers if rank else parameters
    a_layer = tokens * (22 * hidden + 4 * shape.key_value + 8 * shape.inner + 2 * rank * len(targets) // layers)
    if on_cpu:
        a_layer += 2 * shape.heads * tokens * min(tokens, section.max_length)
    kept = tuned if tuned == layers else tuned + 1  # what is below the tuned layers is gone after each
    activations = layers * 2 * tokens * hidden + a_layer if checkpointing else kept * a_layer
    scored = min(tokens, HEAD_ROWS) if on_cpu and not all_logits else tokens
    # In 16 bit, in float32, and their softmax; where all are kept for the backward pass, their gradients too.
    logits = (20 if all_logits else 10) * scored * shape.vocabulary
    if isinstance(section, Sft) and section.keep_base.weight:
        # Of both models in 16 bit, in float32, and one more; they come after those of what is learned.
        logits = max(logits, 16 * min(tokens, HELD_ROWS) * shape.vocabulary)
    bytes_each = (2 if section.quantization is Quantization.none else 0.55) if rank else 4
    at_once = 2 * parameters // layers + 2 * hidden * shape.vocabulary
    own = -(-trained // shards)
    return Estimate(
        adapter=4 * own if rank else 0,
        gradients=4 * own,
        optimizer=OPTIMIZER_BYTES.get(section.optim, 8) * own,
        activations=activations,
        logits=logits,
        dequantized=2 * parameters if dequantized else 0,
        fragments=int(FRAGMENTED * (activations + logits)) if on_cpu else 0,
        weights=int(bytes_each * (parameters / shards + at_once)) if shards > 1 else 0,
    )


def adapted(section: Training, shape: Shape) -> list[tuple[int, int]]:
    """Width in and out of each layer that gets an adapter."""
    names = {name.rsplit(".", 1)[-1] for name in section.lora.target_modules}
    return [(ins, outs) for name, ins, outs in shape.projections if name in names]


def too_large(found: Estimate, free: int, remedies: dict[str, Estimate]) -> UserError:
    """The error for a step that takes more than `free` bytes; it names two settings that would make it fit.

    `remedies` maps a setting, such as "sft.max_length=512", to the estimate with it.
    """
    parts = ", ".join(f"{part} {size / GIB:.1f}" for part, size in vars(found).items() if size)
    fitting = [setting for setting, less in remedies.items() if less.total() <= free]
    smallest = sorted(remedies, key=lambda setting: remedies[setting].total())
    named = fitting[:2] or smallest[:2]
    return UserError(
        f"training needs about {found.total() / GIB:.1f} GiB beyond the model ({parts}), but "
        f"{free / GIB:.1f} GiB are free. "
        + (f"Set {' or '.join(named)}" if fitting else f"Set {' and '.join(named)}, and free memory")
    )
