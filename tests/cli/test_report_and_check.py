"""``autolr report`` and ``autolr check``: saved results are told again, and compared."""

import numpy as np
import pytest
import torch

from autolr import LossDifferentials, TuningResult, find_lr
from autolr.cli import main
from autolr.cli._results import in_a_shell

RATES = np.geomspace(0.01, 10.0, 13)  # four in a decade


def tuning(best=0.1, spread=0.02, rates=RATES):
    """Return a result whose differential is a parabola in log10 of the rate; the minima of the rows lie around one."""
    minima = np.log10(best) + spread * np.linspace(-1.0, 1.0, 20)[:, None]
    return TuningResult(LossDifferentials(rates, np.full(20, 2.0), 1.0 + (np.log10(rates) - minima) ** 2))


@pytest.fixture(scope="module")
def search(tmp_path_factory):
    path = tmp_path_factory.mktemp("search") / "s.json"
    X = torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
    model = torch.nn.Linear(3, 1)
    torch.nn.init.zeros_(model.weight)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    found = find_lr(model, torch.nn.MSELoss(), optimizer, (X, X.sum(1, keepdim=True)), total_steps=50, rng=0)
    found.evidence.save(path)
    return path


def test_a_tuning_is_told_again_drawn_and_written_as_a_page(run, folder):
    result = tuning()
    result.save("r.json")
    status, out, _ = run("report", "r.json", "--html", "r.html", "--plot", "r.png")
    assert status == 0
    assert in_a_shell(str(result)) in out
    assert "0.1 *" in out
    assert out.endswith("Report: r.html\nPicture: r.png\n")
    assert (folder / "r.html").read_text().startswith("<!DOCTYPE html>")
    assert (folder / "r.png").read_bytes().startswith(b"\x89PNG")
    result.to_html("again.html")
    assert (folder / "again.html").read_bytes() == (folder / "r.html").read_bytes()


def test_rates_of_a_dense_grid_have_as_many_digits_as_tell_them_apart(run):
    rates = np.geomspace(0.1, 0.101, 5)
    delta = np.linspace(-1.0, -2.0, 5) + np.linspace(0.0, 0.1, 20)[:, None]
    TuningResult(LossDifferentials(rates, np.full(20, 2.0), 2.0 + delta)).save("r.json")
    rows = run("report", "r.json")[1].partition("\n\n")[0].splitlines()[1:]
    assert [row.split()[0] for row in rows] == ["0.1", "0.1002", "0.1005", "0.1007", "0.101"]


def test_a_page_on_standard_output_is_alone_there(folder, capfd):
    tuning().save("r.json")
    tuning().to_html("r.html")
    assert main(["report", "r.json", "--html", "-"]) == 0
    captured = capfd.readouterr()
    assert captured.out == (folder / "r.html").read_text()
    assert "Learning rate 0.1" in captured.err


def test_a_search_is_told_again_with_what_it_tried(run, folder, search):
    status, out, _ = run("report", search, "--html", "s.html")
    assert status == 0
    assert "for 50 steps under the schedule constant" in out
    assert out.splitlines()[0].split() == [
        "rate",
        "(*",
        "in",
        "the",
        "interval)",
        "steps",
        "last_loss",
        "held_out_loss",
    ]
    assert (folder / "s.html").exists()


def test_another_method_is_that_of_the_verdict_the_picture_and_the_page(run, folder):
    result = tuning(spread=0.5)
    result.save("r.json")
    status, out, _ = run("report", "r.json", "--method", "median", "--html", "r.html")
    assert status == 0
    assert in_a_shell(str(result.suggest("median"))) in out
    result.to_html("again.html", method="median")
    assert (folder / "again.html").read_bytes() == (folder / "r.html").read_bytes()


def test_a_result_without_a_decision_is_status_1(run):
    tuning(best=20.0).save("edge.json")
    status, out, _ = run("report", "edge.json")
    assert status == 1
    assert "I cannot tell" in out


@pytest.mark.parametrize(
    ("old", "status", "says"),
    [
        (tuning(0.1), 0, "No change: the old pick is inside."),
        (tuning(0.101, rates=np.geomspace(0.012, 8.0, 40)), 0, "No change: the old pick is inside."),
        (tuning(1.0), 1, "A change: the old pick is outside."),
        (tuning(50.0, rates=10.0 * RATES), 1, "A change: the old pick is outside."),  # it is not on the new grid
    ],
    ids=["the same", "another grid", "moved", "beyond the grid"],
)
def test_an_old_pick_is_kept_where_the_nearest_rate_is_among_the_best(run, old, status, says):
    old.save("old.json")
    tuning(0.1).save("new.json")
    found, out, err = run("check", "old.json", "new.json")
    assert (found, err) == (status, "")
    first, second = out.splitlines()
    assert first.startswith("Old pick ")
    assert first.endswith(", new pick 0.1; the best rates are now 0.1 only (95%).")
    assert second == says


def test_several_best_rates_are_told_by_their_ends(run):
    tuning(0.13, spread=1.0).save("new.json")
    out = run("check", "new.json", "new.json")[1]
    best = tuning(0.13, spread=1.0).suggest().best_set
    assert len(best) > 1
    assert f"the best rates are now between {best[0]:.2g} and {best[-1]:.2g} (95%)." in out


def test_searches_are_compared_by_their_intervals(run, search, folder):
    status, out, _ = run("check", search, search)
    assert status == 0
    assert "; the best rate is now between " in out
    moved = search.read_text().replace('"learning_rate": ', '"learning_rate": 9', 1)
    (folder / "old.json").write_text(moved)
    status, out, _ = run("check", "old.json", search)
    assert status == 1
    assert out.endswith("A change: the old pick is outside.\n")


@pytest.mark.parametrize(("place", "name"), [(0, "OLD"), (1, "NEW")])
def test_a_result_that_cannot_tell_is_no_answer(run, place, name):
    results = [tuning(), tuning()]
    results[place] = tuning(best=20.0)
    for path, result in zip(("old.json", "new.json"), results, strict=True):
        result.save(path)
    status, out, _ = run("check", "old.json", "new.json")
    assert status == 1
    first, second = out.splitlines()
    assert first == f"Cannot tell: {name} has no pick to rely on."
    assert second.startswith(f"{name}: I cannot tell: the pick")


def test_a_method_without_a_candidate_is_no_answer(run):
    result = TuningResult(LossDifferentials([0.1, 1.0], np.ones(5), np.full((5, 2), np.inf)))
    result.save("r.json")
    status, out, _ = run("check", "r.json", "r.json")
    assert status == 1
    assert out.startswith("Cannot tell: OLD has no pick to rely on.\nOLD: ")


def test_results_of_two_kinds_are_an_error(refused, search):
    tuning().save("r.json")
    assert refused("check", "r.json", search) == "`NEW` must be a TuningResult, as OLD is, got 'SearchResult'."
    assert refused("check", search, search, "--method", "median") == (
        "`--method` must be left out with the result of a search, got 'median'."
    )


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, "[Errno 2] No such file or directory: 'r.json'"),
        ("{", "`path` must name a complete JSON file, got 'r.json': "),
        ("{}", "`path` must name a file with the schema 'autolr.TuningResult' or 'autolr.SearchResult', got 'r.json'."),
        (
            '{"schema": "autolr.TuningResult", "version": 9}',
            "`path` must name a file of schema version 1 or older, got",
        ),
        (
            '{"schema": "autolr.SearchResult", "version": 1}',
            "`path` must name an undamaged result, got 'r.json' without",
        ),
    ],
)
def test_a_file_that_is_no_result_is_one_line(refused, folder, content, text):
    if content is not None:
        (folder / "r.json").write_text(content)
    for words in (["report", "r.json"], ["check", "r.json", "r.json"]):
        assert refused(*words).startswith(text)


@pytest.mark.parametrize("option", ["--html", "--plot"])
def test_a_path_that_cannot_be_written_is_refused_before_the_result_is_read(refused, option):
    assert refused("report", "none.json", option, "x.txt").startswith(f"`{option}` must end in .")
