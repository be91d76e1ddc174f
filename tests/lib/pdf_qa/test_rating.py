"""A rating is read or named as unreadable, and the lowest score decides."""

import pytest

from stages.lib.pdf_qa.rating import make_rate, scores_in

GOOD = '{"clear": 5, "complete": 4, "grounded": 5}'


def rated(response: str, least: int = 4) -> tuple[dict[str, int], str, str]:
    return make_rate(lambda prompt, usable=None: response, least)("질문?", "답", "글")


@pytest.mark.parametrize("response", [GOOD, f"```json\n{GOOD}\n```", f"<think>{{}} hm</think>{GOOD}", f"Sure: {GOOD}."])
def test_scores_are_read_whatever_is_around_them(response: str) -> None:
    assert rated(response) == ({"clear": 5, "complete": 4, "grounded": 5}, "", "")


@pytest.mark.parametrize(
    ("response", "reason"),
    [
        (GOOD.replace('"clear": 5', '"clear": 3'), "rated_unclear"),
        (GOOD.replace("4", "1"), "rated_incomplete"),
        (GOOD.replace('"grounded": 5', '"grounded": 2'), "rated_ungrounded"),
    ],
)
def test_a_low_score_is_a_reason(response: str, reason: str) -> None:
    scores, found, detail = rated(response)
    assert found == reason and "of 5, needed 4" in detail and scores
    assert rated(response, least=1)[1] == ""


@pytest.mark.parametrize(
    "response", ["네, 좋습니다.", '{"clear": 5, "complete": 4}', GOOD.replace("4", "6"), GOOD.replace("4", "true"), ""]
)
def test_what_is_no_rating_is_named_and_asked_for_again(response: str) -> None:
    assert rated(response)[1] == "unreadable_rating" and scores_in(response) == {}
    seen = []
    make_rate(lambda prompt, usable: seen.append(usable(response)) or response, 4)("질문?", "답", "글")
    assert seen == [False]
