"""find_lr: the rate of a run, from a model that ends as it began."""

import itertools
import json
import math
import re

import numpy as np
import pytest
import torch
from harness import unchanged
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import autolr
from autolr import DivergedError, SearchResult, find_lr
from autolr.picker import correction
from autolr.probing.courses import Course
from autolr.scan import Scan, exponent, search_stream
from autolr.schedules.make import schedule_factors
from autolr.search_decision import decide_search


def regression(num=600, *, seed=0, noise=0.1):
    generator = torch.Generator().manual_seed(seed)
    X = torch.randn(num, 4, generator=generator)
    return X, X.sum(1, keepdim=True) + noise * torch.randn(num, 1, generator=generator)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 1))


def found(model=None, data=None, *, optimizer=None, loss_fn=None, rng=0, **options):
    model = network() if model is None else model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1) if optimizer is None else optimizer
    options = {"total_steps": 1000, **options}
    loss = nn.MSELoss() if loss_fn is None and "compute_loss" not in options else loss_fn
    with unchanged(model, optimizer):
        return find_lr(model, loss, optimizer, regression() if data is None else data, rng=rng, **options)


OPTIMIZERS = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "Adam": lambda p: torch.optim.Adam(p, lr=1e-3),
    "AdamW amsgrad": lambda p: torch.optim.AdamW(p, lr=1e-3, amsgrad=True),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=1e-3),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=1e-2),
    "Adadelta": lambda p: torch.optim.Adadelta(p, lr=1.0),
    "ASGD": lambda p: torch.optim.ASGD(p, lr=0.1),
    "Rprop": lambda p: torch.optim.Rprop(p, lr=1e-2),
    "LBFGS": lambda p: torch.optim.LBFGS(p, lr=0.1, max_iter=2),
    "Muon-like groups": lambda p: torch.optim.SGD([{"params": list(p)[:2], "lr": 1.0}, {"params": [], "lr": 0.1}]),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_ends_as_it_began_and_gets_a_rate(name):
    model = network()
    optimizer = OPTIMIZERS[name](model.parameters())
    suggestion = found(model, optimizer=optimizer, effort="fast")
    assert 1e-6 < float(suggestion) < 100.0
    assert suggestion.low < float(suggestion) < suggestion.high


def test_an_optimizer_with_state_and_a_scheduler_ends_as_it_began():
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 100)
    X, Y = regression()
    for _ in range(5):
        optimizer.zero_grad()
        nn.functional.mse_loss(model(X), Y).backward()
        optimizer.step()
        scheduler.step()
    with unchanged(model, optimizer, scheduler=scheduler):
        find_lr(model, nn.MSELoss(), optimizer, (X, Y), total_steps=1000, rng=0)


@pytest.mark.parametrize("error", [ValueError("mine"), KeyboardInterrupt()])
@pytest.mark.parametrize("call", [0, 1, 7, 25, 60, 120, 220])
def test_an_error_of_the_users_passes_and_everything_is_put_back(error, call):
    calls = []

    def loss_fn(output, target):
        calls.append(1)
        if len(calls) == call + 1:
            raise error
        return nn.functional.mse_loss(output, target)

    with pytest.raises(type(error)) as raised:
        found(loss_fn=loss_fn)
    assert raised.value is error


def test_the_trace_holds_every_loss():
    evidence = found().evidence
    trace, settings = evidence.trace, evidence.settings
    steps = trace[trace["stage"].isin(["scan", "final", "anneal"])]
    assert set(trace["stage"]) == {"untrained", "scan", "final", "anneal", "held-out"}
    assert len(steps) == settings["num_gradients"]
    assert (trace.query("stage == 'untrained'")["learning_rate"] == 0.0).all()
    assert steps["learning_rate"].nunique() == settings["num_rates"]
    assert trace.query("stage == 'scan'")["step"].max() == 19
    assert trace.query("stage == 'anneal'")["step"].min() == settings["final_steps"]
    assert f"{settings['num_rates']} learning rates" in repr(evidence)


def test_the_same_rng_gives_the_same_answer_and_a_generator_advances():
    first, again, other = (found(rng=rng) for rng in (0, 0, 1))
    assert float(first) == float(again) != float(other)
    assert first.evidence.trace.equals(again.evidence.trace)
    rng = np.random.default_rng(0)
    assert float(found(rng=rng)) != float(found(rng=rng))


def test_a_quadratic_bowl_gets_the_rate_that_descends_it_fastest():
    # of a bowl with curvature 2 in all directions, gradient descent is at the bottom after one step at 0.5
    model = nn.Linear(4, 1, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    X = torch.eye(4).repeat(100, 1) * 2.0  # of batches of 4, each holds one of each
    batches = [(X[i : i + 4], X[i : i + 4].sum(1, keepdim=True) + 0.01) for i in range(0, 400, 4)]
    suggestion = found(model, batches, optimizer=optimizer, target="training", total_steps=80)
    assert suggestion.low <= 0.5 <= suggestion.high


class Observations(Dataset):
    def __init__(self, X, Y):
        self.X, self.Y = X, Y

    def __len__(self):
        return len(self.X)

    def __getitem__(self, index):
        return self.X[index], self.Y[index]


class Stream(IterableDataset):
    def __init__(self, X, Y):
        self.X, self.Y = X, Y

    def __iter__(self):
        return iter(zip(self.X, self.Y, strict=True))


def of_lambda(functions):
    return {"schedule": "lambda", "schedule_options": {"lr_lambda": functions}}


KINDS = {
    "pair": lambda X, Y: (X, Y),
    "arrays": lambda X, Y: (X.numpy().astype(np.float64), Y.numpy()),
    "dataset": Observations,
    "stream": Stream,
    "loader": lambda X, Y: DataLoader(TensorDataset(X, Y), batch_size=25, shuffle=True),
    "list": lambda X, Y: [(X[i : i + 20], Y[i : i + 20]) for i in range(0, len(X), 20)],
    "generator": lambda X, Y: ((X[i : i + 20], Y[i : i + 20]) for i in range(0, len(X), 20)),
}


@pytest.mark.parametrize("validation", [None, "pair", "loader"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_data_trains_and_is_held_out(kind, validation):
    val_data = None if validation is None else KINDS[validation](*regression(200, seed=1))
    suggestion = found(data=KINDS[kind](*regression()), val_data=val_data, effort="fast")
    assert suggestion.evidence.settings["held_out"] == ("kept apart" if validation is None else "val_data")
    assert suggestion.evidence.decision["judged_by"] == "held-out"
    assert 1e-4 < float(suggestion) < 10.0


@pytest.mark.parametrize("kind", ["pair", "dataset", "loader", "list"])
def test_nothing_is_trained_on_that_is_held_out_and_every_rate_sees_the_same(kind):
    X, Y = regression(400)
    X[:, 0] = torch.arange(400.0)
    seen = {True: [], False: []}

    def compute_loss(model, batch):
        x, y = batch
        seen[model.training and torch.is_grad_enabled()].append(tuple(x[:, 0].int().tolist()))
        return nn.functional.mse_loss(model(torch.cat([x[:, :1] / 400.0, x[:, 1:]], 1)), y)

    suggestion = found(data=KINDS[kind](X, Y), compute_loss=compute_loss)
    trained = {index for batch in seen[True] for index in batch}
    held = {index for batch in seen[False][-4:] for index in batch}  # the last finalist's
    assert held
    assert not trained & held
    # all courses go through the same batches: from one to the next (in circles, where they end), to the first (another
    # rate), or to where a finalist goes on after the scan
    order = {batch: number for number, batch in enumerate(dict.fromkeys(seen[True]))}
    path = [order[batch] for batch in seen[True]]
    assert all(then in ((now + 1) % len(order), 0, 20 % len(order)) for now, then in itertools.pairwise(path))
    assert path.count(0) >= suggestion.evidence.settings["num_rates"]


def test_without_enough_to_hold_out_it_is_judged_online_and_says_so():
    X, Y = regression(60)
    suggestion = found(data=[(X[:30], Y[:30]), (X[30:], Y[30:])])
    assert suggestion.evidence.settings["held_out"] == "none"
    assert suggestion.evidence.decision["judged_by"] == "online"
    assert any("nothing to hold out" in caveat for caveat in suggestion.caveats)
    assert (suggestion.evidence.trace["stage"] != "held-out").all()


@pytest.mark.parametrize(
    ("schedule", "options"),
    [
        ("constant", {}),
        ("cosine", {}),
        ("constant", {"factor": 0.5, "total_iters": 2000}),
        ("cosine", {"warmup_steps": 100}),
        ("step", {}),
        ("multistep", {}),
        ("exponential", {}),
        ("warm_restarts", {}),
        ("onecycle", {}),
        ("lambda", {"lr_lambda": lambda step: 1.0 / (1.0 + step)}),
        ("plateau", {}),
    ],
)
def test_the_rate_is_the_vertex_by_the_law_of_its_schedule(schedule, options):
    suggestion = found(schedule=schedule, schedule_options=options, total_steps=5000)
    decision, settings = suggestion.evidence.decision, suggestion.evidence.settings
    factors = np.ones(1) if schedule == "plateau" else schedule_factors(schedule, total_steps=5000, **options)
    decays = factors[-max(1, len(factors) // 10) :].mean() < 0.5 * factors.max()
    law = (80 / 5000) ** (0.35 if decays else 0.4) / factors.mean()
    assert settings["mean_factor"] == pytest.approx(factors.mean())
    largest = max(item["learning_rate"] for item in decision["finalists"] if item["loss"] is not None)
    assert float(suggestion) == pytest.approx(min(decision["vertices"][0] * law, largest))
    assert decision["capped"] == (decision["vertices"][0] * law >= largest)
    assert ("plateau depends on the losses" in str(suggestion)) == (schedule == "plateau")


def test_of_functions_for_each_group_the_first_one_counts():
    model = network()
    optimizer = torch.optim.SGD([{"params": model[:2].parameters()}, {"params": model[2:].parameters()}], lr=0.1)
    shapes = [lambda _: 0.5, lambda step: 1.0 / (1.0 + step)]
    suggestion = found(model, optimizer=optimizer, **of_lambda(shapes))
    assert suggestion.evidence.settings["mean_factor"] == 0.5


def test_a_constant_schedule_is_not_simulated():
    assert float(found(total_steps=10**12)) > 0.0


def test_the_rate_falls_with_the_length_of_the_run_but_not_for_the_training_loss():
    short, long = (found(total_steps=steps) for steps in (1000, 100_000))
    assert float(short) / float(long) == pytest.approx(100.0**0.4)
    short, long = (found(total_steps=steps, target="training") for steps in (1000, 100_000))
    assert float(short) == float(long)
    assert math.log10(short.high / short.low) == pytest.approx(1.3)
    assert "best training loss" in str(short)


@pytest.mark.parametrize(("effort", "steps"), [("fast", 50), ("default", 80), ("thorough", 100)])
def test_the_effort_is_the_steps_of_the_finalists(effort, steps):
    suggestion = found(effort=effort, total_steps=10_000)
    assert suggestion.horizon == steps
    longest = suggestion.evidence.trace.query("stage == 'held-out'")["step"]
    assert (longest == steps + round(0.2 * steps)).all()
    assert suggestion.evidence.num_evaluations < 500


def test_a_run_of_untold_length_is_assumed_and_said():
    suggestion = found(total_steps=None)
    assert float(suggestion) == float(found(total_steps=1000))
    assert "The length of the run was not told; 1000 steps are assumed." in str(suggestion)


@pytest.mark.parametrize("total_steps", [5, 60, 300, 600])
def test_a_run_that_is_too_short_for_the_search_gets_the_fast_way(total_steps):
    suggestion = found(total_steps=total_steps)
    settings = suggestion.evidence.settings
    assert settings["effort"] == "fast"
    assert "costs more than a third of the run: this one is fast." in str(suggestion)
    assert suggestion.horizon <= min(50, total_steps)
    assert f" {100 * settings['num_evaluations'] / total_steps:.0f}% of the run." in str(suggestion)


def test_streams_are_averaged_and_their_spread_is_in_the_interval():
    suggestion = found(num_streams=3, total_steps=10_000)
    decision = suggestion.evidence.decision
    assert len(decision["vertices"]) == 3
    center = np.mean(np.log10(decision["vertices"])) + 0.4 * math.log10(80 / 10_000)
    assert math.log10(float(suggestion)) == pytest.approx(center)
    assert sorted(suggestion.evidence.trace["stream"].unique()) == [0, 1, 2]


@pytest.mark.parametrize("most", [1, 60, 120, 200, 260])
def test_a_budget_cuts_the_search_short_and_says_so(most):
    suggestion = found(max_evaluations=most, total_steps=10_000)
    assert suggestion.evidence.num_evaluations < max(most, 40) + 45
    assert "The budget ended the search early" in str(suggestion)
    assert 1e-5 < float(suggestion) < 10.0


def test_a_budget_for_one_stream_makes_one():
    suggestion = found(max_evaluations=350, num_streams=4, total_steps=10_000)
    assert "The budget ended the search after 1 of 4 streams." in suggestion.caveats


def test_a_time_budget_ends_it_soon():
    suggestion = found(time_budget=0.05, total_steps=10_000, num_streams=50)
    assert suggestion.evidence.settings["seconds"] < 1.0
    assert "The budget ended the search" in str(suggestion)


@pytest.mark.parametrize("most", [None, 10**6])
def test_a_run_that_is_too_short_for_finals_says_so_rather_than_blame_a_budget(most):
    text = str(found(total_steps=12, max_evaluations=most))
    assert "The run is too short for a longer look: rates were compared after 12 steps." in text
    assert "budget" not in text


def test_a_stream_that_diverges_leaves_the_others_their_say(monkeypatch):
    calls = []

    def sometimes(*arguments, **options):
        calls.append(1)
        scan = search_stream(*arguments, **options)
        if len(calls) == 2:
            for course in scan.courses.values():
                course.given_up = 0
        return scan

    monkeypatch.setattr("autolr.search.search_stream", sometimes)
    suggestion = found(num_streams=3, total_steps=10_000)
    decision = suggestion.evidence.decision
    assert len(decision["vertices"]) == 2
    assert "Training diverged at every rate on 1 of 3 streams; only the others count." in suggestion.caveats
    assert len(set(suggestion.evidence.trace["stream"])) == 3


@pytest.mark.parametrize(("end", "beyond"), [(max, "larger"), (min, "smaller")])
def test_a_best_rate_at_an_end_of_the_finalists_is_said(monkeypatch, end, beyond):
    def at_the_end(*arguments, **options):
        scan = search_stream(*arguments, **options)
        scan.vertex = exponent(end(scan.finalists))
        return scan

    sentence = f"est rate of the finals was the best of them: a {beyond} one may be better."
    assert sentence not in str(found(total_steps=10_000, rng=2))  # three finalists, the middle one is best
    monkeypatch.setattr("autolr.search.search_stream", at_the_end)
    assert sentence in str(found(total_steps=10_000, rng=2))


def test_what_diverges_below_the_pick_is_no_edge():
    def stream(given_up):
        courses = {}
        for number in range(-6, 1):
            courses[number] = Course(10.0 ** exponent(number), None, losses=[1.0])
            courses[number].given_up = 0 if number in given_up else None
        return Scan(courses, scan_steps=1, best=-3, vertex=exponent(-3), best_loss=1.0, untrained=2.0)

    law = correction(np.ones(1), 1, "training")
    edges = {(0, -1): (10.0**0.0, 10.0**0.5), (-6,): (10.0, None), (0, -2, -6): (10.0**0.5, 10.0), (): (10.0, None)}
    for given_up, (stable, diverged) in edges.items():
        decision = decide_search([stream(given_up)], law, "training")
        assert decision["max_stable_lr"] == pytest.approx(stable)
        assert decision["smallest_diverged"] == pytest.approx(diverged)


def test_data_on_which_every_rate_diverges_is_an_error_that_names_the_smallest():
    X, Y = regression()
    with pytest.raises(DivergedError, match=r"Training diverged at every learning rate down to 1e-8"):
        found(nn.Linear(4, 1), data=(1e18 * X, 1e18 * Y))


@pytest.mark.parametrize(("scale", "expected"), [(1e-2, 1e3), (1e-1, 10.0), (30.0, 1e-4)])
def test_the_range_is_extended_both_ways(scale, expected):
    X, Y = regression(noise=0.0)
    model = nn.Linear(4, 1, bias=False)
    suggestion = found(model, data=(scale * X, Y), target="training")
    assert expected / 10.0 < float(suggestion) < 20.0 * expected


def test_a_loss_that_is_at_its_minimum_is_flat():
    X = torch.randn(600, 4, generator=torch.Generator().manual_seed(0))
    model = nn.Linear(4, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(1.0)
    noise = torch.randn(600, 1, generator=torch.Generator().manual_seed(1))
    suggestion = found(model, data=(X, X.sum(1, keepdim=True) + noise))
    assert suggestion.doubt == "flat"
    assert str(suggestion).startswith("I cannot tell: at no rate does training lower the loss")


@pytest.mark.parametrize("offset", [-100.0, -0.05])
def test_losses_below_zero_are_compared_by_the_gain(offset):
    suggestion = found(loss_fn=lambda output, target: nn.functional.mse_loss(output, target) + offset)
    plain = found()
    assert suggestion.evidence.decision["measure"] == "share of the gain"
    assert any("not above 0 everywhere" in caveat for caveat in suggestion.caveats)
    assert abs(math.log10(float(suggestion) / float(plain))) < 0.7


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions(dtype):
    model = network().to(dtype)
    X, Y = regression()
    suggestion = found(model, data=(X.to(dtype), Y.to(dtype)))
    assert abs(math.log10(float(suggestion) / float(found()))) < 0.7


def test_sparse_gradients():
    model = nn.Sequential(nn.EmbeddingBag(50, 4, sparse=True), nn.Linear(4, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    generator = torch.Generator().manual_seed(0)
    X = torch.randint(50, (500, 6), generator=generator)
    suggestion = found(model, (X, X[:, 0] % 3), optimizer=optimizer, loss_fn=nn.CrossEntropyLoss())
    assert 1e-3 < float(suggestion) < 100.0


def test_batches_of_outliers_and_unscaled_inputs_are_survived():
    X, Y = regression()
    Y[::150] *= 100.0
    assert 1e-5 < float(found(data=(X, Y))) < 1.0
    X, Y = regression()
    X = X * torch.tensor([1.0, 10.0, 100.0, 1000.0])
    suggestion = found(nn.Linear(4, 1), data=(X, Y))
    assert 1e-9 < float(suggestion) < 1e-4


def test_a_network_that_dies_at_once_is_not_taken_for_progress():
    # at 10 and below, the first step throws all units off: the loss then sits at that of a constant, a little below
    # the untrained one
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 3))
    X = torch.randn(800, 4, generator=torch.Generator().manual_seed(0))
    Y = X[:, :3].argmax(1)
    suggestion = found(model, (X, Y), loss_fn=nn.CrossEntropyLoss())
    assert 5e-3 < float(suggestion) < 1.5


def test_a_network_that_dies_with_the_output_that_it_began_with_does_not_end_the_scan():
    # its last layer is 0, and after a large step all its units are off: the output is 0 again
    torch.manual_seed(2)
    model = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 1, bias=False))
    nn.init.zeros_(model[4].weight)
    X, Y = regression()
    suggestion = found(model, (0.1 * X, Y), rng=2, total_steps=10_000)
    assert suggestion.doubt is None
    assert 1e-2 < float(suggestion) < 1.0


def test_data_that_is_not_finite_before_any_step_is_an_error_that_names_the_batch():
    X, Y = regression()
    batches = [(X[i : i + 20], Y[i : i + 20].clone()) for i in range(0, 600, 20)]
    batches[10][1][0] = math.nan  # the first 7 of 30 are held out
    with pytest.raises(ValueError, match=r"`data` must give finite losses before any step, got nan on batch 3\."):
        found(data=batches)
    model = network()
    with torch.no_grad():
        model[0].weight[0, 0] = math.nan
    with pytest.raises(ValueError, match=r"got nan on batch 0\."):
        found(model)


def test_the_loss_may_be_in_the_models_output():
    class Carrier(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 1)

        def forward(self, x, y):
            return {"loss": nn.functional.mse_loss(self.layer(x), y)}

    model = Carrier()
    X, Y = regression()
    batches = [{"x": X[i : i + 20], "y": Y[i : i + 20]} for i in range(0, 600, 20)]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    assert 1e-3 < float(find_lr(model, None, optimizer, batches, total_steps=1000, rng=0)) < 1.0


def test_the_result_survives_its_file_and_says_the_same(tmp_path):
    result = found().evidence
    result.save(tmp_path / "search.json")
    loaded = SearchResult.load(tmp_path / "search.json")
    assert str(loaded) == str(result)
    assert loaded.trace.equals(result.trace)
    assert dict(loaded.settings) == dict(result.settings)
    assert loaded.suggestion.learning_rate == result.suggestion.learning_rate
    json.loads((tmp_path / "search.json").read_text())
    with pytest.raises(ValueError, match=r"name a file with the schema 'autolr\.TuningResult'"):
        autolr.TuningResult.load(tmp_path / "search.json")


def test_losses_and_decisions_that_are_not_finite_survive_their_file(tmp_path):
    result = found().evidence
    trace = result.trace.copy()
    trace.loc[:2, "loss"] = [-math.inf, math.inf, math.nan]
    decision = {**result.decision, "loss": -math.inf, "untrained_loss": math.inf, "vertices": [math.nan, 0.1]}
    SearchResult(trace, decision, dict(result.settings)).save(tmp_path / "search.json")
    loaded = SearchResult.load(tmp_path / "search.json")
    assert loaded.trace.equals(trace)
    assert str(dict(loaded.decision)) == str(decision)


def test_the_suggestion_is_applied_and_makes_a_schedule():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    suggestion = found(model, optimizer=optimizer, schedule="cosine")
    suggestion.apply(optimizer)
    assert optimizer.param_groups[0]["lr"] == float(suggestion)
    scheduler = suggestion.scheduler(optimizer, "cosine", total_steps=1000)
    assert scheduler.get_last_lr() == [float(suggestion)]


def test_the_verdict_in_full():
    lines = str(found(schedule="cosine", total_steps=10_000)).splitlines()
    assert lines[0].startswith("Learning rate 0.0")
    assert lines[0].endswith(", for 10000 steps under the schedule cosine and the best held-out loss.")
    assert re.fullmatch(
        r"Between \S+ and \S+ lies a rate within 5% of the best loss, for about 90% of benchmark tasks\.", lines[1]
    )
    assert lines[2].startswith("Training diverges from ")
    assert "gradient evaluations in" in lines[3]
    assert lines[3].endswith(("2% of the run.", "3% of the run."))
    assert lines[4:] == ["Next: train with it; suggestion.apply(optimizer) sets it."]


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"total_steps": 0}, ValueError, "`total_steps` must be at least 1, got 0."),
        ({"total_steps": 1e4}, TypeError, "`total_steps` must be an integer, got 10000.0."),
        ({"schedule": "linear"}, ValueError, "`schedule` must be one of 'constant', "),
        ({"schedule": "lambda"}, TypeError, "`lr_lambda`"),
        ({"schedule_options": 3}, TypeError, "`schedule_options` must be a mapping with strings as keys, or None, got"),
        ({"schedule_options": {1: 2}}, TypeError, "`schedule_options` must be a mapping with strings as keys, or None"),
        ({"schedule_options": {"total_steps": 2}}, ValueError, "`schedule_options` must not hold 'total_steps', got"),
        ({"schedule_options": {"optimizer": 2}}, ValueError, "`schedule_options` must not hold 'optimizer', got"),
        ({"schedule_options": {"gamma": 2}}, TypeError, "`gamma` must be left out of name='constant'"),
        (
            {"schedule_options": {"warmup_steps": 2000}, "total_steps": None},
            ValueError,
            "`warmup_steps` must be below `total_steps`, which is not given (1000 are assumed), got 2000.",
        ),
        ({"schedule_options": {"warmup_steps": 1000}}, ValueError, "`warmup_steps` must be below `total_steps` (1000)"),
        ({"schedule_options": {"warmup_steps": 1.5}}, TypeError, "`warmup_steps` must be an integer, got 1.5."),
        (of_lambda(lambda _: 0.0), ValueError, "`schedule` must have a factor above 0, got 0.0."),
        (of_lambda(lambda _: -1.0), ValueError, "`schedule` must have finite factors of at least 0, got -1.0."),
        (of_lambda(lambda _: math.nan), ValueError, "`schedule` must have finite factors of at least 0, got nan."),
        (of_lambda([lambda _: 1.0] * 2), ValueError, "`lr_lambda` must have 1 entries, one for each parameter group"),
        (
            {"schedule": "plateau", "schedule_options": {"factor": 3.0}},
            ValueError,
            "`factor` must be finite and above 0 and below 1",
        ),
        ({"schedule": "plateau", "schedule_options": {"gamma": 1}}, TypeError, "`gamma` must be left out of"),
        ({"batch_size": 0}, ValueError, "`batch_size` must be at least 1, got 0."),
        ({"batch_size": 2.5}, TypeError, "`batch_size` must be an integer, got 2.5."),
        ({"target": "test"}, ValueError, "`target` must be one of 'validation', 'training', got 'test'."),
        ({"effort": "high"}, ValueError, "`effort` must be one of 'fast', 'default', 'thorough', got 'high'."),
        ({"num_streams": 0}, ValueError, "`num_streams` must be at least 1, got 0."),
        ({"max_evaluations": 0}, ValueError, "`max_evaluations` must be at least 1, got 0."),
        ({"time_budget": -1}, ValueError, "`time_budget` must be finite and above 0, got -1."),
        ({"progress": "yes"}, TypeError, "`progress` must be True or False, got 'yes'."),
        ({"data": []}, ValueError, "`data` must yield at least one batch, got none."),
        ({"val_data": []}, ValueError, "`val_data` must yield at least one batch, got none."),
        ({"batch_size": 10_000}, ValueError, "`batch_size` must be at most the 600 observations, got 10000."),
        ({"data": [1], "batch_size": 3}, ValueError, "`batch_size` must be left out where `data` brings its own"),
        ({"rng": "0"}, TypeError, "`rng` must be"),
    ],
)
def test_what_is_wrong_is_named_before_anything_is_spent(options, error, text):
    def loss_fn(*_):
        raise AssertionError

    with pytest.raises(error) as raised:
        found(loss_fn=loss_fn, **options)
    assert text in str(raised.value)


def test_what_the_first_batch_raises_says_what_the_batch_was():
    X, Y = regression()
    with pytest.raises(RuntimeError) as raised:
        found(data=(X[:, :3], Y))
    assert raised.value.__notes__ == ["autolr: raised by the first training batch, (float32 [32, 3], float32 [32, 1])."]


def test_a_loss_that_broadcasts_on_the_data_to_judge_by_is_refused():
    X, Y = regression()
    with pytest.raises(ValueError, match="`loss_fn` must compare output and target of one shape") as raised:
        found(val_data=(X, Y[:, 0]), loss_fn=lambda output, target: ((output - target) ** 2).mean())
    assert raised.value.__notes__[0].startswith("autolr: raised by the first validation batch")


def test_swapped_arguments_are_refused():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(TypeError, match="`loss_fn` must be a function"):
        find_lr(model, optimizer, nn.MSELoss(), regression())


def test_the_bar_counts_evaluations(capsys):
    found(progress=True)
    assert "gradient evaluations" in capsys.readouterr().err
    found()
    assert capsys.readouterr().err == ""
