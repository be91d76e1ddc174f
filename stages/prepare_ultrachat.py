"""Multi-turn chats for SFT, and held-out ones that show what tuning made the model forget.

Reads   UltraChat 200k from the hub, or a file in its schema (prompt, prompt_id, messages)
Writes  data/prepared/ultrachat: train.jsonl, evaluation.jsonl, report.json
Run     python -m stages.prepare_ultrachat
"""

from collections import Counter
from pathlib import Path
from typing import Any

from stages.lib.entry import run
from stages.lib.errors import UserError
from stages.lib.publish import published
from stages.lib.records import normalised, write_json, write_jsonl
from stages.lib.rows import load_rows
from stages.lib.schema import PrepareUltrachat

SOURCE = Path("data/raw/ultrachat")
OUT = Path("data/prepared/ultrachat")


def prepare_ultrachat(section: PrepareUltrachat, root: Path) -> dict[str, Any]:
    train, dropped_train = clean(load_rows(section.train))
    evaluation, dropped_evaluation = clean(load_rows(section.evaluation))
    refuse_overlap(train, evaluation)
    report = {
        "train": {"kept": len(train), "dropped": dropped_train},
        "evaluation": {"kept": len(evaluation), "dropped": dropped_evaluation},
    }
    with published(root / OUT) as out:
        out.mkdir()
        write_jsonl(out / "train.jsonl", train)
        write_jsonl(out / "evaluation.jsonl", evaluation)
        write_json(out / "report.json", report)
    return report


def clean(rows: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Keep the conversations that can be trained on.

    Returns records of `id` and `messages`, and the number dropped by reason; kept and dropped add up to the rows.
    A last turn without an answer is cut off and the conversation kept.
    """
    kept, dropped, seen = [], Counter[str](), set()
    for row in rows:
        messages = [{"role": m["role"], "content": m["content"].strip()} for m in row.get("messages") or []]
        while messages and messages[-1]["role"] != "assistant":
            messages.pop()
        reason = defect(messages)
        prompt = normalised(messages[0]["content"]) if messages else ""
        if not reason and prompt in seen:
            reason = "duplicate_prompt"
        if reason:
            dropped[reason] += 1
            continue
        seen.add(prompt)
        kept.append({"id": row["prompt_id"], "messages": messages})
    return kept, dict(dropped)


def defect(messages: list[dict[str, str]]) -> str:
    """The reason code of what makes a conversation unfit for training, or an empty string."""
    roles = [message["role"] for message in messages]
    if roles[:1] == ["system"]:
        roles = roles[1:]
    if not roles:
        return "no_answer"
    if not set(roles) <= {"user", "assistant"}:
        return "unknown_role"
    if roles != ["user", "assistant"] * (len(roles) // 2):
        return "turns_do_not_alternate"
    if not all(message["content"] for message in messages):
        return "blank_content"
    return ""


def refuse_overlap(train: list[dict[str, Any]], evaluation: list[dict[str, Any]]) -> None:
    """Raise UserError naming the conversations that are in both sets, by id or by normalised first prompt."""
    ids = {row["id"] for row in train}
    prompts = {normalised(row["messages"][0]["content"]) for row in train}
    shared = [r["id"] for r in evaluation if r["id"] in ids or normalised(r["messages"][0]["content"]) in prompts]
    if shared:
        raise UserError(
            f"{len(shared)} conversations are in both training and evaluation: {', '.join(shared[:5])}. "
            "Give prepare_ultrachat.evaluation rows that train does not have (skip, take, split)"
        )


if __name__ == "__main__":
    run(prepare_ultrachat)
