"""A long loop says how many rows are done and how long it will take; a short one says nothing."""

from stages.lib.evaluation.progress import progress


def test_a_line_every_ten_seconds_with_the_time_left(capsys):
    times = iter([0.0, 4.0, 12.0, 15.0, 130.0, 200.0])
    advance = progress("evaluate: sft", "answers", 100, clock=lambda: next(times))
    for count in (2, 10, 8, 30, 50):
        advance(count)
    assert capsys.readouterr().out.splitlines() == [
        "evaluate: sft: 12 of 100 answers, about 0:01:28 left",
        "evaluate: sft: 50 of 100 answers, about 0:02:10 left",
    ]


def test_a_short_loop_says_nothing(capsys):
    times = iter([0.0, 3.0, 6.0, 9.0])
    advance = progress("evaluate: sft", "answers", 3, clock=lambda: next(times))
    for _ in range(3):
        advance(1)
    assert capsys.readouterr().out == ""
