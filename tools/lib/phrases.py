"""What the terminal chat says, in Korean or English."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass
class Phrases:
    """One language's sentences; names in braces are filled in."""

    loading: str
    greeting: str
    suggestions: str
    invented: str
    help: str
    cleared: str
    prompt: str
    empty: str
    interrupted: str
    how_to_end: str
    dropped: str
    too_long: str
    limit: str
    goodbye: str


KOREAN = Phrases(
    loading="{model} 모델을 불러오는 중입니다…",
    greeting="안녕하세요. {model} 모델과 이야기합니다. 끝내려면 종료, exit, quit 또는 Ctrl-D, 답을 멈추려면 Ctrl-C.",
    suggestions="이렇게 물어보세요: {questions}",
    invented="(기본 데이터의 시민청은 지어낸 곳입니다.)",
    help="/clear 새 대화 · /help 이 도움말 · 종료, exit, quit 또는 Ctrl-D 끝내기 · Ctrl-C 답 멈추기",
    cleared="[새 대화를 시작합니다]",
    prompt="나> ",
    empty="입력이 비어 있습니다. 메시지를 입력해 주세요.",
    interrupted="[답을 멈췄습니다]",
    how_to_end="끝내려면 종료를 입력하거나 Ctrl-D를 누르세요.",
    dropped="[대화가 길어져 가장 오래된 메시지 {turns}개를 제외했습니다]",
    too_long="[메시지가 너무 깁니다: {tokens}토큰인데 이 모델은 {room}토큰까지 받습니다. 줄여서 다시 보내 주세요.]",
    limit="[{tokens}토큰에서 끊었습니다. --max-new-tokens로 늘릴 수 있습니다]",
    goodbye="안녕히 가세요.",
)
ENGLISH = Phrases(
    loading="Loading the model {model}…",
    greeting="Hello. You talk to the model {model}. exit, quit, 종료 or Ctrl-D ends the chat, Ctrl-C stops an answer.",
    suggestions="You could ask: {questions}",
    invented="(The office of the default data is invented.)",
    help="/clear: a new conversation · /help: this · exit, quit, 종료 or Ctrl-D ends · Ctrl-C stops an answer",
    cleared="[a new conversation]",
    prompt="you> ",
    empty="Nothing was typed. Say something.",
    interrupted="[stopped]",
    how_to_end="To end, type exit or press Ctrl-D.",
    dropped="[the conversation is long: its oldest turns, {turns} of them, are left out]",
    too_long="[the message is too long: {tokens} tokens, this model takes {room}. Shorten it and send it again.]",
    limit="[truncated at {tokens} tokens; --max-new-tokens allows more]",
    goodbye="Goodbye.",
)


def is_korean(environment: Mapping[str, str]) -> bool:
    """Whether the locale of messages is Korean, by POSIX's order of variables."""
    locale = next((environment[name] for name in ("LC_ALL", "LC_MESSAGES", "LANG") if environment.get(name)), "")
    return locale.lower().startswith("ko")


def phrases_of(environment: Mapping[str, str]) -> Phrases:
    """Korean where the locale of messages is Korean, else English."""
    return KOREAN if is_korean(environment) else ENGLISH
