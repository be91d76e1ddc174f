"""The shapes that people have questions, chats and pairs of answers in, each as the one shape that the gates read.

questions    Alpaca (instruction, input, output), question and answer, prompt and completion, SQuAD and KorQuAD (nested
             or flat), and a chat of one question and one answer
chats        OpenAI messages (role, content; content in parts), ShareGPT conversations (from, value), and all of the
             above as one exchange, after its `history` if it has one
pairs        instruction, input, chosen, rejected; trl's prompt, chosen, rejected as texts or lists of messages, and
             without a prompt; UltraFeedback with scores, or with its completions; HH's dialogues as one text
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from stages.lib.data.columns import (
    ABOUT_PAIRS,
    ABOUT_SQUAD,
    ABOUT_TEXT,
    Reading,
    Unfit,
    blank,
    cell_value,
    content_text,
)
from stages.lib.data.jsonl_reader import Line, Rejected
from stages.lib.schema.choices import Column

if TYPE_CHECKING:
    from collections.abc import Mapping

QUESTION = (Column.question, Column.input, Column.answer, Column.id, Column.fact_id, Column.key, Column.answerable,
            Column.source)  # fmt: skip
ASKED_IN_CHAT = (Column.messages,)
CHAT = (Column.messages, Column.prompt_id, Column.system, Column.question, Column.history, Column.input, Column.answer)
PAIR = (Column.question, Column.input, Column.system, Column.messages, Column.history, Column.chosen, Column.rejected,
        Column.chosen_score, Column.rejected_score, Column.status, Column.in_gsm8k_train)  # fmt: skip
TEXT = (Column.text,)
TURN = (Column.role, Column.content)
ROLES = {"human": "user", "prompter": "user", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant",
         "model": "assistant", "bing": "assistant", "bard": "assistant", "ai": "assistant",
         "developer": "system"}  # fmt: skip
HH_TURN = re.compile(r"\n\n(Human|Assistant):")

Message = dict[str, Any]


def expanded(lines: Iterable[Line | Rejected]) -> Iterator[Line | Rejected]:
    """Yield the lines, each question of an article of SQuAD's nested shape as a line of its own.

    {"title": "…", "paragraphs": [{"context": "…", "qas": [{"id": "1", "question": "…", "answers": [{"text": "…"}]}]}]}
    """
    count = 0
    for line in lines:
        row = line.value if isinstance(line, Line) else None
        parts = row.get("paragraphs", [row] if "qas" in row else None) if isinstance(row, dict) else None
        if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
            yield line
            continue
        path = line.where.rpartition(":")[0]
        for part in parts:
            questions = part.get("qas")
            for asked in questions if isinstance(questions, list) else [questions]:
                count += 1
                whole = {"context": part.get("context"), **asked} if isinstance(asked, dict) else asked
                yield Line(f"{path}:{count}", whole)


def as_question(line: Line, reading: Reading) -> dict[str, Any]:
    """The row's fields under the names of qa_rows.Fields, `input` beside them. Raises Unfit."""
    row = as_object(line)
    plan, left = reading.plan(row, QUESTION)
    if Column.answer not in plan or not {Column.question, Column.input} & set(plan):
        chat, left_of_chat = reading.plan(row, ASKED_IN_CHAT)
        if Column.messages not in chat:
            example = f"{{{next(iter(row), 'q')}: question}}"
            if Column.text in reading.plan(row, TEXT)[0]:
                example += "; raw text, which asks nothing, is trained on with prepare_pdf_qa.raw_text=true"
            raise Unfit("missing_field", f"found keys {sorted(map(str, row))}, needed a question and an answer; "
                        f"{reading.setting} says which column is which, e.g. {example}")  # fmt: skip
        return asked_in_chat(line, chat, left_of_chat, reading)
    values = {name: row[column] for name, column in plan.items()}
    if line.cells:
        values = {name: cell_value(name, value) for name, value in values.items()}
    question, context = content_text(values.get(Column.question)), content_text(values.get(Column.input))
    if Column.question not in values:
        question, context = context, None
    if not isinstance(context, str | None):
        raise Unfit("wrong_type", f"{plan[Column.input]!r} is a {type(context).__name__}: needed a text")
    answer = content_text(answer_text(values[Column.answer], row))
    about = ABOUT_SQUAD if Column.input in plan else frozenset()
    reading.refuse_unread(row, left, about, [text for text in (question, answer) if isinstance(text, str)])
    reading.note(plan)
    named = {name: values.get(name) for name in (Column.id, Column.fact_id, Column.key, Column.answerable)}
    return {
        "instruction": question, "input": context or "", "output": answer,
        "source": values.get(Column.source) if isinstance(values.get(Column.source), dict) else None,
        **{name.value: None if value == "" else value for name, value in named.items()},
    }  # fmt: skip


def as_raw_text(line: Line, reading: Reading) -> str | None:
    """The text of a row of raw text, {"text": "…"}; None for any other row. Raises Unfit for a column that isn't read.

    A text beside an answer or a chat is none: Alpaca's `text` repeats its row.
    """
    row = line.value
    if not isinstance(row, dict) or not all(isinstance(key, str) for key in row):
        return None
    plan, left = reading.plan(row, TEXT)
    others = {*reading.plan(row, QUESTION)[0], *reading.plan(row, ASKED_IN_CHAT)[0]}
    if Column.text not in plan or not isinstance(row[plan[Column.text]], str):
        return None
    if {Column.question, Column.answer, Column.messages} & others:
        return None
    text: str = row[plan[Column.text]]
    reading.refuse_unread(row, left, ABOUT_TEXT, [])
    reading.note(plan)
    return text


def asked_in_chat(line: Line, plan: dict[Column, str], left: list[str], reading: Reading) -> dict[str, Any]:
    """A chat of one question and one answer as a row of Q&A. Raises Unfit for any other."""
    row = line.value
    messages = turns(cell_value(Column.messages, row[plan[Column.messages]]), plan[Column.messages], reading)
    roles = [message["role"] for message in messages]
    if roles != ["user", "assistant"]:
        raise Unfit("not_one_question", f"a chat of {' '.join(map(str, roles[:8])) or 'nothing'}, needed one question "
                    "and its answer; chats belong in prepare_ultrachat.train")  # fmt: skip
    question, answer = (message["content"] for message in messages)
    reading.refuse_unread(row, [key for key in left if key != "id"], frozenset(), [question, answer])
    reading.note(plan)
    return {"instruction": question, "input": "", "output": answer, "id": row.get("id"), "fact_id": None, "key": None,
            "answerable": None, "source": None}  # fmt: skip


def answer_text(value: object, row: Mapping[str, object]) -> Any:
    """The text of an answer, of SQuAD's in any of its forms the first. Raises Unfit where there is none."""
    if isinstance(value, dict) and "text" in value:
        value = value["text"]
    if isinstance(value, list) and all(isinstance(one, dict) and "answer_start" in one for one in value):
        value = [one.get("text") for one in value]
    elif not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        return value
    if not value:
        raise Unfit(
            "no_answer", "the text holds no answer (is_impossible)" if row.get("is_impossible") else "no answer"
        )
    return value[0]


def as_chat(line: Line, reading: Reading) -> dict[str, Any]:
    """The row as {"messages": [{"role", "content"}], "prompt", "prompt_id"}. Raises Unfit."""
    row = as_object(line)
    plan, left = reading.plan(row, CHAT)
    values = {name: row[column] for name, column in plan.items()}
    if line.cells:
        values = {name: cell_value(name, value) for name, value in values.items()}
    prompt = values.get(Column.question)
    if Column.messages in plan:
        messages = turns(values[Column.messages], plan[Column.messages], reading)
        left = left + [plan[name] for name in (Column.history, Column.input, Column.answer) if name in plan]
        if not isinstance(prompt, str) and Column.question in plan:
            left = [*left, plan[Column.question]]
    elif Column.answer in plan and {Column.question, Column.input} & set(plan):
        messages = exchange(values, plan, reading)
        prompt = None
    else:
        raise Unfit("missing_field", f"found keys {sorted(map(str, row))}, needed 'messages', or a question and an "
                    f"answer; {reading.setting} says which column is which")  # fmt: skip
    if not blank(values.get(Column.system)):
        if messages and messages[0].get("role") == "system":
            raise Unfit("system_not_first", f"{plan[Column.system]!r} and the first message are both the system's")
        messages = [{"role": "system", "content": values[Column.system]}, *messages]
    said = [message["content"] for message in messages if isinstance(message.get("content"), str)]
    reading.refuse_unread(row, left, frozenset(), said)
    reading.note(plan)
    return {"messages": messages, "prompt": prompt, "prompt_id": values.get(Column.prompt_id)}


def exchange(values: dict[Column, object], plan: dict[Column, str], reading: Reading) -> list[Message]:
    """The messages of a row that holds one question and one answer, after the earlier ones of its history."""
    asked, answered = values.get(Column.question), values[Column.answer]
    if isinstance(asked, list) and isinstance(answered, list):  # trl's prompt and completion as messages
        return [*turns(asked, plan[Column.question], reading), *turns(answered, plan[Column.answer], reading)]
    context = content_text(values.get(Column.input))
    question = with_input(asked, context) if Column.question in values else context
    messages = past(values.get(Column.history))
    return [*messages, {"role": "user", "content": question}, {"role": "assistant", "content": content_text(answered)}]


def past(history: object) -> list[Message]:
    """Earlier turns, given as pairs of question and answer, as messages. Raises Unfit for another form."""
    pairs, messages = history or [], list[Message]()
    if not isinstance(pairs, list | tuple) or any(
        not isinstance(pair, list | tuple) or len(pair) != 2 for pair in pairs
    ):
        raise Unfit("wrong_type", "'history' isn't a list of pairs of question and answer")
    for pair in pairs:
        messages += [{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}]
    return messages


def turns(values: object, column: str, reading: Reading) -> list[Message]:
    """Messages as {"role", "content"}, roles in OpenAI's names. Raises Unfit for what isn't a list of messages."""
    if not isinstance(values, list):
        raise Unfit("wrong_type", f"{column!r} is a {type(values).__name__}, needed a list")
    messages = []
    for number, value in enumerate(values, start=1):
        if not isinstance(value, dict):
            raise Unfit("wrong_type", f"message {number} isn't an object with a role and a text as content")
        plan, left = reading.plan(value, TURN)
        role, content = (value.get(plan.get(name, "")) for name in TURN)
        content = content_text(content)
        if not isinstance(content, str):
            raise Unfit("wrong_type", f"message {number} isn't an object with a role and a text as content")
        for key in left:
            learned = key in ("weight", "loss") and value[key] in (None, 1)  # 0 means: not to be learned
            if not learned and key != "name" and (key in ("weight", "loss") or not blank(value[key])):
                raise Unfit("unread_field", f"message {number} holds {key!r} and nothing reads it")
        role = ROLES.get(role.casefold(), role) if isinstance(role, str) else role
        messages.append({"role": role, "content": content})
    return messages


def as_pair(line: Line, reading: Reading) -> dict[str, Any]:
    """The row's columns under the names of preference_pairs.Columns, with `history`, the turns before the question.

    Raises Unfit.
    """
    row = as_object(line)
    if isinstance(row.get("completions"), list) and "chosen" not in row:
        row = from_completions(row)
    plan, left = reading.plan(row, PAIR)
    missing = [name.value for name in (Column.chosen, Column.rejected) if name not in plan]
    if missing:
        raise Unfit("missing_field", f"found keys {sorted(map(str, row))}, needed {missing}; "
                    f"{reading.setting} says which column is which")  # fmt: skip
    values = {name: row[column] for name, column in plan.items()}
    if line.cells:
        values = {name: cell_value(name, value) for name, value in values.items()}
    answers = [values[Column.chosen], values[Column.rejected]]
    if all(isinstance(answer, str) for answer in answers) and not (
        {Column.question, Column.input, Column.messages} & set(plan)
    ):
        answers = without_prompt(answers[0], answers[1], sorted(map(str, row)))
    if (
        any(isinstance(answer, list | dict) for answer in answers)
        or not isinstance(values.get(Column.question, ""), str)
        or (Column.messages in plan and not {Column.question, Column.input} & set(plan))
    ):
        fields = from_messages(answers, values, plan, reading)
    else:
        context = values.get(Column.input)
        question = with_input(values[Column.question], context) if Column.question in values else context
        fields = {"system": values.get(Column.system), "history": past(values.get(Column.history)), "input": question,
                  "chosen": answers[0], "rejected": answers[1]}  # fmt: skip
    score, other = values.get(Column.chosen_score), values.get(Column.rejected_score)
    status = values.get(Column.status)
    if status is None and score is not None and score == other:
        status = "tie"
    said = [text for text in (fields["input"], *answers) if isinstance(text, str)]
    reading.refuse_unread(row, left, ABOUT_PAIRS, said)
    reading.note(plan)
    rated = {"chosen_score": score} if Column.chosen_score in plan else {}
    return fields | rated | {"status": status, "in_gsm8k_train": values.get(Column.in_gsm8k_train)}


def from_messages(
    answers: list[object], values: dict[Column, object], plan: dict[Column, str], reading: Reading
) -> dict[str, Any]:
    """Fields of a pair whose prompt or answers are messages. Raises Unfit unless only the last answer differs."""
    sides = []
    for name, answer in zip((Column.chosen, Column.rejected), answers, strict=True):
        messages = [answer] if isinstance(answer, dict) else answer
        if isinstance(messages, str):
            messages = [{"role": "assistant", "content": messages}]
        sides.append(turns(messages, plan[name], reading))
    if not all(sides):
        raise Unfit("blank_content", "'chosen' or 'rejected' is empty")
    shared = 0
    while shared < min(map(len, sides)) - 1 and sides[0][shared] == sides[1][shared]:
        shared += 1
    prompt = sides[0][:shared]
    asked = values.get(Column.question, values.get(Column.messages, values.get(Column.input)))
    if isinstance(asked, list):
        given = turns(asked, plan.get(Column.question, plan.get(Column.messages, "")), reading)
        prompt = prompt if prompt[: len(given)] == given else [*given, *prompt]
    elif isinstance(asked, str) and asked.strip():
        asked = with_input(asked, values.get(Column.input)) if Column.question in values else asked
        users = [message["content"].strip() for message in prompt if message["role"] == "user"]
        if not users:
            prompt = [*prompt, {"role": "user", "content": asked}]
        elif asked.strip() not in (users[0], users[-1]):
            raise Unfit("prompt_differs", f"the prompt is {asked[:40]!r}, the answers' messages ask {users[0][:40]!r}")
    if not blank(values.get(Column.system)):
        prompt = [{"role": "system", "content": values[Column.system]}, *prompt]
    last = [side[shared:] for side in sides]
    if any(len(side) != 1 or side[0]["role"] != "assistant" for side in last):
        raise Unfit("more_than_an_answer", "chosen and rejected differ in more than the last answer")
    system = prompt.pop(0)["content"] if prompt and prompt[0]["role"] == "system" else ""
    roles = [message["role"] for message in prompt]
    if roles != ["user", *["assistant", "user"] * (len(roles) // 2)]:
        raise Unfit("turns_do_not_alternate", f"the prompt is {' '.join(map(str, roles[:12])) or 'missing'}")
    return {"system": system, "history": prompt[:-1], "input": prompt[-1]["content"], "chosen": last[0][0]["content"],
            "rejected": last[1][0]["content"]}  # fmt: skip


def without_prompt(chosen: str, rejected: str, keys: list[str]) -> list[Any]:
    """The messages of two texts that hold their prompt: HH's dialogues, or what both begin with, up to a line's end.

    {"chosen": "\\n\\nHuman: Where?\\n\\nAssistant: Here.", "rejected": "\\n\\nHuman: Where?\\n\\nAssistant: No."}
    """
    sides = [hh_turns(text) for text in (chosen, rejected)]
    if all(sides):
        return sides
    shared = 0
    while shared < min(len(chosen), len(rejected)) and chosen[shared] == rejected[shared]:
        shared += 1
    ends = [found.end() for found in re.finditer(r"[?？]\s+|\n+", chosen[:shared])]
    if not ends or not chosen[: ends[-1]].strip():
        raise Unfit(
            "missing_field", f"found keys {keys}, needed a prompt, or two dialogues that begin with the same text"
        )
    prompt = {"role": "user", "content": chosen[: ends[-1]].strip()}
    return [[prompt, {"role": "assistant", "content": text[ends[-1] :]}] for text in (chosen, rejected)]


def hh_turns(text: str) -> list[Message]:
    """The messages of a dialogue in one text, empty if it is none."""
    if not HH_TURN.match(text):
        return []
    parts = HH_TURN.split(text)[1:]
    roles = {"Human": "user", "Assistant": "assistant"}
    return [{"role": roles[role], "content": said.strip()} for role, said in zip(parts[0::2], parts[1::2], strict=True)]


def from_completions(row: dict[str, Any]) -> dict[str, Any]:
    """A row of UltraFeedback with its best and its worst completion as chosen and rejected. Raises Unfit.

    {"instruction": "…", "completions": [{"response": "…", "overall_score": 8.5, "model": "…"}, …]}
    """
    completions = row["completions"]
    if len(completions) < 2 or not all(
        isinstance(one, dict) and isinstance(one.get("overall_score"), int | float) for one in completions
    ):
        raise Unfit("wrong_type", "'completions' isn't a list of two or more objects with response and overall_score")
    best = max(completions, key=lambda one: one["overall_score"])
    worst = min(completions, key=lambda one: one["overall_score"])
    return {
        **{key: value for key, value in row.items() if key != "completions"},
        "chosen": best.get("response"), "chosen_score": float(best["overall_score"]),
        "rejected": worst.get("response"), "rejected_score": float(worst["overall_score"]),
    }  # fmt: skip


def with_input(question: object, context: object) -> Any:
    """A question with what it is about below it; a question that is no text is left for the type check."""
    if isinstance(question, str) and isinstance(context, str) and context.strip():
        return f"{question.rstrip()}\n\n{context.strip()}"
    return question


def as_object(line: Line) -> dict[str, Any]:
    """The line's value. Raises Unfit if it is no object."""
    if not isinstance(line.value, dict):
        raise Unfit("wrong_type", f"found a {type(line.value).__name__}, needed an object in braces")
    return line.value
