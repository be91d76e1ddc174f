"""Where KTO must start: the policy is its reference, so that no answer has a reward yet, and the KL is 0."""

from stages.lib.dpo_start import COMPILED_MARGIN_LIMIT, MARGIN_LIMIT
from stages.lib.every_stage.errors import UserError
from stages.lib.schema.training import Preference


def refuse_wrong_kto_start(
    section: Preference, labels: list[bool], compiled: bool, figures: dict[str, float]
) -> dict[str, float]:
    """Check a pass before training over answers of these `labels`, by `compiled` layers or not; return it as metrics.

    A new adapter adds nothing yet, so the rewards beta (log policy - log reference) and the KL are 0, and each loss is
    its weight times 1 - sigmoid(0), a half (Ethayarajh et al. 2024, arXiv 2402.01306, equation 7). Raises UserError
    otherwise: the reference is then another model than the one that is tuned, or the adapter does not start at zero.
    """
    limit = COMPILED_MARGIN_LIMIT if compiled else MARGIN_LIMIT
    weights = [section.desirable_weight if label else section.undesirable_weight for label in labels]
    needed = 0.5 * sum(weights) / len(weights)
    loss, kl = figures["loss"], figures["kl"]
    rewards = [figures[key] for key in ("rewards/chosen", "rewards/rejected") if key in figures]
    fits = abs(loss - needed) <= limit * max(weights) and abs(kl) <= limit / section.beta
    if not (fits and all(abs(reward) <= limit for reward in rewards)):  # NaN is refused too
        told = ", ".join(f"{reward:.4f}" for reward in rewards)
        raise UserError(
            f"before the first step KTO's loss is {loss:.4f}, its KL {kl:.4f} and its rewards {told}; needed "
            f"{needed:.4f}, 0 and 0, since policy and reference are the same model then. Make the adapter start at "
            "zero (lora's default initialisation) and the reference the model that it is added to"
        )
    return {"step0_loss": round(loss, 6), "step0_kl": round(kl, 6)}
