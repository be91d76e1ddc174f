"""A model card as the Hugging Face Hub reads it: metadata in YAML, then what was measured."""

import json
from typing import Any

from stages.lib.every_stage.foreign_text import in_markdown
from stages.lib.reports.evidence import SETS, Evidence, kind_of, listing, table, wrong_answers
from stages.lib.reports.numbers import MARKS
from stages.lib.reports.verdict import in_words
from stages.lib.schema.evaluation import Report

RESULTS = [
    ("seen", "key_exact", "text-generation", "Facts stated exactly"),
    ("seen", "chrf", "text-generation", "chrF++"),
    ("unseen", "key_exact", "text-generation", "Facts stated exactly"),
    ("unanswerable", "refusal_rate", "text-generation", "Unanswerable questions refused"),
    ("preferences", "accuracy", "text-generation", "Preference accuracy"),
]
"""Split, figure, the Hub's task and the name of each result in the metadata."""


def model_card(section: Report, evidence: Evidence) -> str:
    """README.md for the tuned model. Raises ValueError for metadata that the Hub would not read."""
    data = metadata(section, evidence)
    base = evidence.lineages["base"]
    made_from = in_markdown(base["name"]) + (f" at commit {in_markdown(base['commit'])}" if base["commit"] else "")
    rows = "\n".join(f"- {in_markdown(name)}: {digest}" for name, digest in evidence.detail["weights_sha256"].items())
    left = {name: count for name, steps in evidence.funnels.items() for _, count in steps[-1:]}
    made = "\n".join(f"- {in_markdown(name)}: {count} rows" for name, count in left.items())
    caveats = "\n".join(f"- {in_markdown(line.en)}" for line in evidence.warnings)
    caveats = caveats or "Nothing was found; read the table all the same."
    wrong = wrong_answers(evidence)
    question = json.dumps(evidence.detail["demo"]["question"], ensure_ascii=False)  # a literal of Python too
    return f"""---
{data.to_yaml()}
---

# {in_markdown(data.model_name)}

{made_from}, tuned with SFT, then DPO. All below was written by the pipeline from what it measured.

Licence of the base model: {in_markdown(base["license_name"] or base["license"])}.

## Use

It answers by the chat template in its own directory; generation ends on the tokens in generation_config.json.

```python
from transformers import pipeline

chat = pipeline("text-generation", model="models/dpo-merged")
chat([{{"role": "user", "content": {question}}}], do_sample=False)
```

## Scores

{in_words(evidence.detail, "ko")}

{in_words(evidence.detail, "en")}

{table(evidence)}

{MARKS} Intervals are over facts: Wilson's of shares, else bootstrap.

{chr(10).join(f"- {name}: {meaning}" for name, meaning in SETS.items())}

## Limits

{caveats}

Wrong answers on facts that it was trained on, the worst of {len(wrong)}:

{listing(wrong[:3])}

## Made of

{made}

Weights by SHA-256:

{rows}
{terms(evidence)}"""


def terms(evidence: Evidence) -> str:
    """What the base model's terms ask of who passes the tuned one on; nothing where it has none."""
    found = evidence.lineages["base"]["source"].get("terms")
    if not found:
        return ""
    return f"""
## Terms

{found["notice"]}. This model was made of it by changing its weights. Whoever gets this model must get these terms
({found["url"]}) with it: pass on the folder `license` of its directory.
"""


def metadata(section: Report, evidence: Evidence) -> Any:
    """The card's metadata, as huggingface_hub.ModelCardData. Raises ValueError for what the Hub would not read."""
    from huggingface_hub import EvalResult, ModelCardData

    base = evidence.lineages["base"]
    figures = evidence.detail["models"][evidence.tuned]
    results = [
        EvalResult(
            task_type=task,
            dataset_type=split,
            dataset_name=f"{split}: {SETS[kind_of(split)]}",
            metric_type=name,
            metric_value=figures[split][name]["value"],
            metric_name=told,
        )
        for split, name, task, told in RESULTS
        if name in figures.get(split, {})
    ]
    return ModelCardData(
        base_model=base["name"] if base["name"].count("/") == 1 else None,  # the Hub takes ids alone
        license=base["license"],
        license_name=base["license_name"] or None,
        language=section.languages,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["graft", "sft", "dpo"],
        model_name=f"{base['name'].split('/')[-1]}-graft",
        eval_results=results,
    )
