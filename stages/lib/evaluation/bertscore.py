"""BERTScore with a model directory of one's own: similarity of meaning, for references in other words.

Our own, since the package bert-score was last released in 2023 and loads its models from the Hub by name.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.lib.evaluation.scored_rows import ScoredRow
from stages.lib.every_stage.errors import UserError
from stages.lib.every_stage.lineage import weights_sha256
from stages.lib.hardware import device
from stages.lib.models.loading import LOCAL, load_tokenizer, no_code_of_its_own

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BATCH = 32


def add_bert_scores(directory: Path, rows: dict[str, list[ScoredRow]]) -> None:
    """Add BERTScore to every answered row, one model's answers after another's."""
    for held in rows.values():
        answered = [row for row in held if "prediction" in row]
        scores = bert_scores(directory, [row["reference"] for row in answered], [row["prediction"] for row in answered])
        for row, value in zip(answered, scores, strict=True):
            row["scores"]["bertscore"] = round(value, 4)


def bertscore_signature(directory: str) -> dict[str, str]:
    """The signature of BERTScore where it is computed: its model's weights."""
    return {"bertscore": f"last layer|{weights_sha256(Path(directory))}"} if directory else {}


def bert_scores(directory: Path, references: list[str], texts: list[str]) -> list[float]:
    """BERTScore F1 of each text against its reference, without rescaling or idf weights; an empty text scores 0.

    Tokens are vectors of the model's last layer, matched greedily by cosine. Raises UserError for no model.
    Source: Zhang et al., BERTScore, 2020, section 3.
    """
    import torch
    from transformers import AutoModel

    if not (directory / "config.json").is_file():
        raise UserError(f"evaluate.bertscore_model: found no config.json in {directory}, needed a model directory")
    tokenizer = load_tokenizer(directory)
    with no_code_of_its_own(directory):
        model = AutoModel.from_pretrained(directory, dtype=torch.float32, **LOCAL)
    model = model.to(device()).eval()
    pairs = [(reference, text) for reference, text in zip(references, texts, strict=True) if reference and text]
    wanted, found = (vectors(model, tokenizer, list(side)) for side in zip(*pairs, strict=True)) if pairs else ([], [])
    scores = iter([f1(left, right) for left, right in zip(wanted, found, strict=True)])
    return [next(scores) if reference and text else 0.0 for reference, text in zip(references, texts, strict=True)]


def vectors(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[Any]:
    """Unit vectors of each text's tokens, special ones left out: (tokens, width) each."""
    import torch

    result = []
    for start in range(0, len(texts), BATCH):
        batch = tokenizer(
            texts[start : start + BATCH],
            return_tensors="pt",
            padding=True,
            padding_side="right",
            truncation=True,
            max_length=512,
            return_special_tokens_mask=True,
        ).to(model.device)
        keep = (batch.pop("special_tokens_mask") == 0) & (batch["attention_mask"] == 1)
        with torch.inference_mode():
            hidden = torch.nn.functional.normalize(model(**batch).last_hidden_state.float(), dim=-1)
        result += [hidden[row][keep[row]] for row in range(len(hidden))]
    return result


def f1(wanted: Tensor, found: Tensor) -> float:
    """Harmonic mean of how well each token of one side is matched by the other's."""
    similarity = wanted @ found.T
    recall, precision = similarity.max(1).values.mean().item(), similarity.max(0).values.mean().item()
    return 2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0
