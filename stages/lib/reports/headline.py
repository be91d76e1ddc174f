"""The ten figures that a run is judged by, of the hundreds that are measured: DVC's tables show these."""

from stages.lib.family import STARTED_FROM, TUNED
from stages.lib.reports.numbers import Detail

OF_THE_TUNED = (
    ("seen", "key_exact"),
    ("seen", "over_refusal_rate"),
    ("seen", "stop_rate"),
    ("unanswerable", "refusal_rate"),
    ("control_en", "perplexity"),
    ("control_ko", "perplexity"),
    ("preferences", "accuracy"),
)
OF_THE_ONE_BEFORE = (("seen", "key_exact"), ("unanswerable", "refusal_rate"), ("preferences", "accuracy"))
"""What DPO is for, as it was before DPO."""


def headline(detail: Detail) -> dict[str, dict[str, dict[str, float]]]:
    """Model, set and figure as metrics/eval.json has them; sets that weren't scored are left out."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for model, figures in ((STARTED_FROM[TUNED], OF_THE_ONE_BEFORE), (TUNED, OF_THE_TUNED)):
        scored = detail["models"].get(model, {})
        for name, figure in figures:
            if figure in scored.get(name, {}):
                found.setdefault(model, {}).setdefault(name, {})[figure] = round(scored[name][figure]["value"], 4)
    return found
