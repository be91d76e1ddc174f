"""Each of trl's losses has its start, and another model as reference is refused by it."""

import math

import pytest
from conftest import tiny_training

from stages.dpo import make_trainer
from stages.lib.dpo_start import AT_START, loss_at_start, refuse_wrong_reference
from stages.lib.every_stage.errors import UserError
from stages.lib.models.loading import load_tokenizer
from stages.lib.schema.choices import DpoLoss, Dtype, Quantization
from stages.lib.schema.training import Dpo
from stages.lib.training.parity import answered_rows
from stages.lib.training.run import begin
from stages.lib.training.token_rows import pair_lengths
from stages.lib.training.trl_trainer import batch_of


def section(**changes):
    return Dpo(**tiny_training(**{"beta": 0.1, **changes}))


def figures(margin):
    return {"rewards/margins": margin, "loss": math.log(1 + math.exp(-margin))}


@pytest.mark.parametrize(("margin", "compiled"), [(0.0, False), (0.0004, True)])
def test_rounding_is_no_other_model(margin, compiled):
    start = refuse_wrong_reference(section(), figures(margin), compiled)
    assert start["step0_margin"] == margin


@pytest.mark.parametrize(("margin", "compiled"), [(0.0004, False), (0.05, True), (-0.05, True), (math.nan, True)])
def test_another_reference_is_refused(margin, compiled):
    with pytest.raises(UserError, match="before the first step the reward margin"):
        refuse_wrong_reference(section(), figures(margin), compiled)


def test_the_starts_are_those_that_were_measured():
    """design: beta 0.1, and a smoothing of 0.1 for exo_pair."""
    found = {loss.value: round(start(0.1, 0.1), 4) for loss, start in AT_START.items()}
    ln_2 = round(math.log(2), 4)
    assert found == {
        "sigmoid": ln_2, "sigmoid_norm": ln_2, "robust": ln_2, "aot": ln_2, "aot_unpaired": ln_2, "hinge": 1.0,
        "ipo": 25.0, "nca_pair": 1.3863, "bco_pair": 1.3863, "sppo_hard": 50.0, "apo_zero": 1.0, "apo_down": 1.0,
        "discopop": 0.8466, "exo_pair": 0.5108,
    }  # fmt: skip
    assert set(AT_START) == {*DpoLoss} - {DpoLoss.sft}


@pytest.fixture(scope="module")
def trl(prepared, tmp_path_factory):
    """trl's own trainer on the tiny model with a new adapter, and a batch of two pairs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(prepared)
        tokenizer = load_tokenizer(prepared / "models/base")
        ids = [tokenizer(text)["input_ids"] for text in ("언제?", "아홉 시.", "I like doors, and I say so.", "삼 층")]
        pairs = [
            {"prompt_ids": ids[0], "chosen_ids": ids[1], "rejected_ids": ids[2]},
            {"prompt_ids": ids[0], "chosen_ids": ids[3], "rejected_ids": ids[1]},
        ]
        tuning = begin("dpo", section(quantization=Quantization.none, dtype=Dtype.float32), prepared / "models/base")
        plan = tuning.plan(pair_lengths(pairs), answered_rows(pairs), sequences=2)
        trainer = make_trainer(tuning, plan, pairs, tmp_path_factory.mktemp("checkpoints"))
        yield trainer, batch_of(trainer, [trainer.train_dataset[0], trainer.train_dataset[1]])


def asked(trl, chosen):
    """The loss that trl computes for the losses of a section."""
    trainer, batch = trl
    trainer.loss_types = [loss.value for loss in chosen.loss_type]
    trainer.loss_weights = chosen.loss_weights or [1.0] * len(chosen.loss_type)
    trainer.beta, trainer.label_smoothing = chosen.beta, chosen.label_smoothing
    return float(trainer.compute_loss(trainer.model, batch).detach())


@pytest.mark.parametrize("beta", [0.1, 0.5])
@pytest.mark.parametrize("smoothing", [0.1, 0.3])
@pytest.mark.parametrize("loss", list(AT_START))
def test_trls_own_loss_starts_there_where_nothing_was_learned(trl, loss, beta, smoothing):
    chosen = section(loss_type=[loss], beta=beta, label_smoothing=smoothing)
    found = asked(trl, chosen)
    assert found == pytest.approx(AT_START[loss](beta, smoothing), rel=1e-6)
    assert refuse_wrong_reference(chosen, {"rewards/margins": 0.0, "loss": found}, compiled=False)
    for wrong in (found * 1.03, found * 0.97):  # of another reference, and of another loss than was asked for
        with pytest.raises(UserError, match=f"which {loss.value} gives"):
            refuse_wrong_reference(chosen, {"rewards/margins": 0.0, "loss": wrong}, compiled=False)


def test_losses_add_up_by_their_weights(trl):
    chosen = section(loss_type=[DpoLoss.ipo, DpoLoss.bco_pair], loss_weights=[0.2, 2.0])
    needed, known = loss_at_start(chosen)
    assert known and needed == pytest.approx(0.2 * 25 + 2.0 * 2 * math.log(2))
    assert asked(trl, chosen) == pytest.approx(needed, rel=1e-6)


def test_beside_a_cross_entropy_the_rest_is_the_least(trl):
    chosen = section(loss_type=[DpoLoss.sigmoid, DpoLoss.sft], loss_weights=[1.0, 0.5])
    needed, known = loss_at_start(chosen)
    found = asked(trl, chosen)
    assert not known and needed == pytest.approx(math.log(2)) and found > needed + 1
    refuse_wrong_reference(chosen, {"rewards/margins": 0.0, "loss": found}, compiled=False)
    with pytest.raises(UserError, match=r"needed 0 and at least 0.6931, which sigmoid \+ sft gives"):
        refuse_wrong_reference(chosen, {"rewards/margins": 0.0, "loss": 0.69}, compiled=False)
    with pytest.raises(UserError, match="the reward margin is 0.0100"):
        refuse_wrong_reference(chosen, {"rewards/margins": 0.01, "loss": found}, compiled=False)
