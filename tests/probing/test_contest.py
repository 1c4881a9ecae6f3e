"""The fastest of several ways is found on the first rows."""

from autolr.probing.contest import Contest


def run(contest, seconds, num_rows):
    turns = []
    for _ in range(num_rows):
        turns.append(contest.turn)
        contest.note(turns[-1], seconds[turns[-1]])
    return turns


def test_each_has_two_rows_and_the_fastest_all_others():
    contest = Contest("line", "batched")
    assert run(contest, {"line": 3e-3, "batched": 2e-3}, 6) == ["line", "batched", "line", "batched"] + ["batched"] * 2
    assert contest.leader == "batched"
    assert contest.reason == "the fastest for the losses of a row: line 3 ms, batched 2 ms"


def test_one_is_not_timed():
    contest = Contest("line")
    assert run(contest, {"line": 1.0}, 3) == ["line"] * 3
    assert contest.reason == ""


def test_who_withdraws_leaves_the_rows_to_the_other():
    contest = Contest("line", "batched")
    contest.withdraw("batched", "line", "it cannot")
    assert run(contest, {"line": 1.0}, 3) == ["line"] * 3
    assert contest.reason == "batched stepped aside: it cannot"
    alone = Contest("batched")
    alone.withdraw("batched", "line", "it cannot")
    assert alone.turn == alone.leader == "line"
