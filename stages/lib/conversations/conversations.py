"""Chats that can be trained on, or the reason why not.

{"prompt": "What is inflation?", "prompt_id": "cae8059e…", "messages": [{"content": "What is inflation?",
 "role": "user"}, {"content": "Inflation is …", "role": "assistant"}]}
prompt and prompt_id may be missing: the first question and its SHA-256 stand in for them. shapes.py has the other
shapes that chats are read in.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from stages.lib.data.characters import fix
from stages.lib.data.columns import Reading, Unfit
from stages.lib.data.jsonl_reader import Line, Rejected, as_text
from stages.lib.data.shapes import as_chat
from stages.lib.models.chat_template import Messages

ROLES = {"system", "user", "assistant"}
UNREADABLE = ("invalid_json", "duplicate_key", "invalid_unicode", "invalid_row", "line_too_long", "missing_field",
              "unread_field", "wrong_type", "mojibake")  # fmt: skip
USUAL = ("messages", "prompt", "prompt_id")
"""The names that the columns have where nothing needs to be said about them."""
MALFORMED = (
    "unknown_role",
    "system_not_first",
    "turns_do_not_alternate",
    "no_answer",
    "blank_content",
    "prompt_differs",
)


@dataclass
class Conversation:
    """One admitted chat, its messages clean, ending with an answer."""

    where: str
    id: str
    messages: Messages
    fixed: list[str]
    question: str
    """The first thing the user says, as it came: comparisons leave a folded system message out."""

    def conversations(self) -> list[Messages]:
        """What training makes of the row."""
        return [self.messages]

    def dropped(self, reason: str, detail: str, text: str) -> Rejected:
        """The row as it goes into rejects.jsonl."""
        return Rejected(self.where, reason, detail, text)

    def record(self) -> dict[str, Any]:
        """The record that training reads."""
        return {"id": self.id, "messages": self.messages}


def admit_conversation(line: Line, reading: Reading) -> Conversation | Rejected:
    """Check one value. A last turn without an answer is dropped and the conversation kept."""
    try:
        return conversation(line, reading)
    except Unfit as unfit:
        reason, detail = unfit.args
        return Rejected(line.where, reason, detail, as_text(line.value))


def conversation(line: Line, reading: Reading) -> Conversation:
    """The conversation in a value of any shape. Raises Unfit."""
    row = as_chat(line, reading)
    messages, done = read_messages(row["messages"])
    while messages and messages[-1]["role"] != "assistant":
        messages.pop()
        done.add("unanswered_tail")
    refuse_malformed(messages)
    first = next(message["content"] for message in messages if message["role"] == "user")
    prompt = row.get("prompt")
    if isinstance(prompt, str) and fix(prompt).text != first:
        raise Unfit("prompt_differs", f"prompt is {prompt[:40]!r}, the first question {first[:40]!r}")
    identity = row.get("prompt_id")
    if not isinstance(identity, str | int | None):
        raise Unfit("wrong_type", f"'prompt_id' is a {type(identity).__name__}, needed a text")
    if identity is None or identity == "":
        identity = hashlib.sha256(first.encode()).hexdigest()
    return Conversation(line.where, str(identity), messages, sorted(done), first)


def read_messages(values: object) -> tuple[Messages, set[str]]:
    """Roles and fixed contents, and what was fixed. Raises Unfit for a wrong type or text that can't be read."""
    if not isinstance(values, list):
        raise Unfit("wrong_type", f"'messages' is a {type(values).__name__}, needed a list")
    messages: Messages = []
    done: set[str] = set()
    for number, value in enumerate(values, start=1):
        if not isinstance(value, dict) or not isinstance(value.get("content"), str):
            raise Unfit("wrong_type", f"message {number} isn't an object with a role and a text as content")
        role = value.get("role")
        if not isinstance(role, str) or role not in ROLES:
            raise Unfit("unknown_role", f"message {number} has the role {role!r}, needed one of {sorted(ROLES)}")
        fixed = fix(value["content"])
        if fixed.unreadable:
            raise Unfit("mojibake", f"message {number}: {fixed.unreadable}")
        done |= set(fixed.done)
        messages.append({"role": value["role"], "content": fixed.text})
    return messages, done


def refuse_malformed(messages: Messages) -> None:
    """Raise Unfit unless user and assistant take turns after at most one system message, each saying something."""
    roles = [message["role"] for message in messages]
    if roles[:1] == ["system"]:
        roles = roles[1:]
    if "assistant" not in roles:
        raise Unfit("no_answer", "the assistant says nothing")
    if "system" in roles:
        raise Unfit("system_not_first", "a system message stands after the first message")
    if roles != ["user", "assistant"] * (len(roles) // 2):
        raise Unfit("turns_do_not_alternate", " ".join(roles[:12]))
    for number, message in enumerate(messages, start=1):
        if not message["content"]:
            raise Unfit("blank_content", f"message {number} of {len(messages)} is blank")


def without_last_exchange(messages: Messages) -> Messages:
    """The conversation without its last question and answer; empty if there is no other one.

    Nothing smaller is ever dropped: a part of an answer teaches the model not to stop.
    """
    return messages[:-2] if len(messages) > 3 else []
