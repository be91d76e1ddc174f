"""ORPO, CPO, SimPO or KTO: one more model that learns from preferences. Off unless preference.enabled is true.

Reads   models/base (which probe-base tried) or models/sft-merged, by preference.start; data/prepared/preferences:
        train.jsonl, and for KTO unpaired.jsonl; conf/accelerate
Writes  models/preference: adapter, tokenizer, lineage.json (which alone says "off" where it is off);
        metrics/preference_log.csv; metrics/preference.json: how exact its arithmetic is, rows, where KTO started
Run     python -m stages.preference preference.enabled=true preference.algorithm=orpo
"""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from stages.lib.every_stage.entry import run
from stages.lib.every_stage.lineage import OFF, arguments_of, refuse_changed_weights, write_lineage
from stages.lib.every_stage.publish import published
from stages.lib.every_stage.records import write_json
from stages.lib.preference_tuning.kto_rows import kto_rows, rows_of_a_pass
from stages.lib.preference_tuning.kto_start import refuse_wrong_kto_start
from stages.lib.preference_tuning.trainers import logged_columns, make_trainer
from stages.lib.schema.choices import Algorithm, StartFrom
from stages.lib.schema.training import BETAS, Preference
from stages.lib.training.launcher import on_all_gpus
from stages.lib.training.parity import answered_rows
from stages.lib.training.processes import count
from stages.lib.training.run import begin
from stages.lib.training.token_rows import pair_lengths, preference_rows

BASE = Path("models/base")
SFT = Path("models/sft-merged")
PROBE = Path("metrics/probe_base.json")  # that it is there says that this base can be trained
PREFERENCES = Path("data/prepared/preferences")
ACCELERATE = Path("conf/accelerate")
OUT = Path("models/preference")
LOG = Path("metrics/preference_log.csv")
METRICS = Path("metrics/preference.json")


@on_all_gpus(ACCELERATE)
def preference(section: Preference, root: Path) -> dict[str, Any]:
    if not section.enabled:
        return publish_nothing(root)
    section = replace(section, start=section.started_from(), beta=section.beta or BETAS[section.algorithm])
    if section.start is StartFrom.sft:
        refuse_changed_weights(SFT, kind="merged")
    base = SFT if section.start is StartFrom.sft else BASE
    return (
        train_on_answers(section, base, root)
        if section.algorithm is Algorithm.kto
        else train_on_pairs(section, base, root)
    )


def train_on_pairs(section: Preference, base: Path, root: Path) -> dict[str, Any]:
    """ORPO, CPO and SimPO: each row is a better and a worse answer to one question."""
    tuning = begin("preference", section, base)
    train = PREFERENCES / "train.jsonl"
    pairs, dropped = preference_rows("preference", {train: 1.0}, tuning.tokenizer, section.max_length)
    lengths = pair_lengths(pairs)
    plan = tuning.plan(lengths, answered_rows(pairs), sequences=2, all_logits=True)
    lineage = tuning.lineage([train], len(pairs), dropped)
    with tuning.checkpoints(plan, lineage) as folder:
        trainer, plan, start = tuning.rehearsed(
            plan,
            lambda plan: make_trainer(tuning, plan, pairs, folder),
            lengths,
            lambda indices: answered_rows([pairs[index] for index in indices]),
        )
        tuning.train(trainer, folder)
        tuning.publish(trainer, root / OUT, lineage)
        tuning.publish_log(trainer, root / LOG, logged_columns(section.algorithm, trainer))
        tuning.publish_metrics(root / METRICS, plan, start, pairs=len(pairs), pairs_too_long=dropped["too_long"])
    return tuning.facts(plan, rows=len(pairs))


def train_on_answers(section: Preference, base: Path, root: Path) -> dict[str, Any]:
    """KTO: each row is one answer that somebody likes or doesn't, of a pair or by itself."""
    own = rows_of_a_pass(section, count())  # this process's part of them
    tuning = begin("preference", replace(section, micro_batch_size=own, kl_batch_size=own), base)
    asked = replace(tuning.section, micro_batch_size=section.micro_batch_size, kl_batch_size=section.kl_batch_size)
    train, unpaired = PREFERENCES / "train.jsonl", PREFERENCES / "unpaired.jsonl"
    material = kto_rows(section, train, unpaired, tuning.tokenizer)
    plan = tuning.plan(material.lengths, material.labelled())
    lineage = tuning.lineage([train, unpaired], len(material.rows), material.dropped)
    lineage["arguments"] = arguments_of(asked)
    with tuning.checkpoints(plan, lineage) as folder:
        trainer, plan, start = tuning.rehearsed(
            plan,
            lambda plan: make_trainer(tuning, plan, material.rows, folder),
            material.lengths,
            material.labelled,
            partial(refuse_wrong_kto_start, section, material.first_labels(plan), plan.torch_compile),
        )
        tuning.train(trainer, folder)
        tuning.publish(trainer, root / OUT, lineage)
        tuning.publish_log(trainer, root / LOG, logged_columns(section.algorithm, trainer))
        tuning.publish_metrics(root / METRICS, plan, start, **start, **material.counts())
    return tuning.facts(plan, rows=len(material.rows))


def publish_nothing(root: Path) -> dict[str, Any]:
    """The outs of a stage that is off: a lineage that says so, and empty figures."""
    with published(root / OUT) as out:
        out.mkdir()
        write_lineage(out, OFF)
    with published(root / LOG) as path:
        path.write_text("step,loss\n", encoding="utf-8")
    with published(root / METRICS) as path:
        write_json(path, {})
    return {"enabled": False}


if __name__ == "__main__":
    run(preference)
