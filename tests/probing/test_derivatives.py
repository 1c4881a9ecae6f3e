"""Slope and curvature by the rate are the derivatives of the loss along real steps, and nothing is left behind."""

import copy
import logging

import model_cases
import numpy as np
import oracles
import pytest
import torch
from engine_cases import F64, Case, classes, cross_entropy, expected, make_case, mlp, sgd, train
from harness import unchanged
from torch import nn, optim
from torch.utils.checkpoint import checkpoint

from autolr.probing.taylor import differentiate, twice_differentiable
from autolr.training import check_training

FORWARD, DOUBLE = "forward mode over reverse mode", "double backward"

OPTIMIZERS = {
    "SGD": (optim.SGD, {}),
    "nesterov": (optim.SGD, {"momentum": 0.9, "nesterov": True}),
    "weight decay": (optim.SGD, {"weight_decay": 0.1}),
    "maximize": (optim.SGD, {"maximize": True}),
    "Adam": (optim.Adam, {"weight_decay": 0.1}),
    "AdamW": (optim.AdamW, {"weight_decay": 0.1}),
    "NAdam": (optim.NAdam, {}),
    "RAdam": (optim.RAdam, {}),
    "Adamax": (optim.Adamax, {}),
    "Muon": (optim.Muon, {}),
    "RMSprop": (optim.RMSprop, {"centered": True, "momentum": 0.9}),
    "Adagrad": (optim.Adagrad, {}),
    "Adadelta": (optim.Adadelta, {}),
}


def long_short_term_memory():
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.recurrent, self.head = nn.LSTM(5, 4, batch_first=True), nn.Linear(4, 3)

        def forward(self, x):
            return self.head(self.recurrent(x)[0][:, -1])

    return make_case(Recurrent(), batches=classes(6, 3, 5))


def convolutions_with_batch_norm():
    layers = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.Conv2d(4, 4, 2), nn.BatchNorm2d(4), nn.Flatten()
    return make_case(nn.Sequential(*layers, nn.Linear(36, 3)), batches=classes(8, 2, 6, 6))


def attention(dropout=0.0):
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=dropout, batch_first=True, activation=torch.tanh)
    return make_case(nn.Sequential(layer, nn.Flatten(), nn.Linear(32, 3)), batches=classes(6, 4, 8))


def attention_with_dropout():
    return attention(0.2)


def complex_weights():
    class Amplitudes(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(5, 3, dtype=torch.complex128))

        def forward(self, x):
            return (x.to(torch.complex128) @ self.weight).abs()

    model = Amplitudes()
    return Case(model, sgd(model), cross_entropy, *classes(8, 5))


def sparse_gradients():
    tokens = [(torch.randint(10, (6, 2)), torch.randint(3, (6,))) for _ in range(2)]
    model = nn.Sequential(nn.Embedding(10, 4, sparse=True), nn.Flatten(), nn.Tanh(), nn.Linear(8, 3))
    return make_case(model, batches=tokens)


def recomputed_activations():
    model = mlp()
    return make_case(
        model, loss=lambda m, batch: nn.functional.cross_entropy(checkpoint(m, batch[0], use_reentrant=False), batch[1])
    )


class Cube(torch.autograd.Function):
    """Has no rule for forward mode."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, gradient):
        return 3.0 * ctx.saved_tensors[0] ** 2 * gradient


def own_function_of_a_weight():
    model = mlp()  # a weight that is handed to no function of torch, and so is not seen to be used
    return make_case(model, loss=lambda m, batch: cross_entropy(m, batch) + Cube.apply(m[0].weight).sum())


def own_function_of_an_activation():
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))
    return make_case(
        model, loss=lambda m, batch: nn.functional.cross_entropy(m[2](Cube.apply(m[:2](batch[0]))), batch[1])
    )


def gradient_penalty():
    def loss(model, batch):
        x = batch[0].clone().requires_grad_()
        with torch.enable_grad():
            (slope,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
        return cross_entropy(model, batch) + slope.square().mean()

    return make_case(mlp(), loss=loss)


# the losses of these are computed by forward mode, or by double backward, as torch has its rules
CASES = {
    "multilayer_perceptron": FORWARD,
    "dropout": FORWARD,
    "tied_weights": FORWARD,
    "frozen_parameters_with_stale_gradients": FORWARD,
    "groups_with_rates_of_their_own": FORWARD,
    "rate_as_a_tensor": FORWARD,
    "weight_norm": DOUBLE,
    "model_that_writes_into_its_batch": FORWARD,
    "loss_that_empties_its_batch": FORWARD,
    "lazily_registered_buffer": FORWARD,
    "mixed_modes": FORWARD,
    "warmup_scheduler_at_zero": FORWARD,
    long_short_term_memory: FORWARD,
    convolutions_with_batch_norm: FORWARD,
    attention: FORWARD,
    attention_with_dropout: FORWARD,
    complex_weights: FORWARD,
    sparse_gradients: DOUBLE,
    recomputed_activations: DOUBLE,
    own_function_of_a_weight: DOUBLE,
    own_function_of_an_activation: DOUBLE,
    gradient_penalty: FORWARD,
}


def derivatives(case):
    """Return loss, slope and curvature, and assert that nothing is changed."""
    training = check_training(case.model, None, case.optimizer, compute_loss=case.compute_loss)
    preserved = unchanged(case.model, case.optimizer, extra=case.extra)
    with preserved, training.preserved() as start, twice_differentiable():
        start.randomness.fork(np.random.SeedSequence(0))
        start.objective.check(case.batch)
        return differentiate(start, case.batch)


def derivatives_by_copies(case, reach):
    """Return the derivatives at 0 of the polynomial through the losses of real steps at 9 rates up to ``reach``."""
    rates = reach * (1.0 - np.cos(np.linspace(0.0, np.pi, 9))) / 2.0
    both = Case(case.model, case.optimizer, case.compute_loss, case.batch, case.batch)
    copies = oracles.copies_of(case.model, case.optimizer, case.compute_loss)
    loss, losses = expected(copies, both, rates[1:], needs_graph=True)
    polynomial = np.polynomial.Polynomial.fit(rates, [loss, *losses], 8)
    return loss, polynomial.deriv(1)(0.0), polynomial.deriv(2)(0.0)


def assert_are_those_of_real_steps(case, rtol=1e-5):
    found = derivatives(case)
    reach = 0.2 * min(1.0, abs(found.slope / found.curvature))
    np.testing.assert_allclose(found, derivatives_by_copies(case, reach), rtol=rtol)


@pytest.mark.parametrize("case", CASES, ids=lambda case: getattr(case, "__name__", case))
def test_the_derivatives_are_those_of_losses_after_real_steps(case, caplog):
    torch.manual_seed(0)
    made = getattr(model_cases, case)() if isinstance(case, str) else case()
    with caplog.at_level(logging.DEBUG, logger="autolr"):
        assert_are_those_of_real_steps(made)
    assert CASES[case] in caplog.text


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_direction_is_that_of_the_optimizer(name, warm):
    kind, options = OPTIMIZERS[name]
    torch.manual_seed(0)
    model = mlp(bias=name != "Muon")
    case = make_case(model, kind(model.parameters(), lr=0.01, **options))
    assert_are_those_of_real_steps(train(case) if warm else case)


def test_the_curvature_is_that_of_the_dense_hessian():
    torch.manual_seed(0)
    case = make_case(mlp())
    case = train(Case(case.model, optim.AdamW(case.model.parameters(), lr=0.01), cross_entropy, *classes(8, 5)))
    shapes = [p.shape for p in case.model.parameters()]
    names = [name for name, _ in case.model.named_parameters()]

    def loss(vector):
        parts = [part.view(s) for part, s in zip(vector.split([s.numel() for s in shapes]), shapes, strict=True)]
        weights = dict(zip(names, parts, strict=True))
        return cross_entropy(lambda x: torch.func.functional_call(case.model, weights, x), case.batch)

    def vector_of(model):
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    model, optimizer = copy.deepcopy((case.model, case.optimizer))
    optimizer.zero_grad()
    cross_entropy(model, case.batch).backward()
    optimizer.param_groups[0]["lr"] = 1.0
    optimizer.step()
    before = vector_of(case.model)
    direction = before - vector_of(model)
    gradient = torch.autograd.functional.jacobian(loss, before)
    hessian = torch.autograd.functional.hessian(loss, before)
    closed = loss(before), -gradient @ direction, direction @ hessian @ direction
    np.testing.assert_allclose(derivatives(case), [float(value) for value in closed], rtol=1e-10)


KINDS = [(torch.float64, 1e-9), (torch.float32, 1e-5), (torch.bfloat16, 0.05)]


@pytest.mark.parametrize(
    ("dtype", "rtol", "scale"),
    [
        *((*kind, scale) for scale in (1e-6, 1e-3, 1.0, 1e3, 1e6) for kind in KINDS),
        *((torch.float64, 1e-9, scale) for scale in (1e-30, 1e30)),
    ],
)
def test_rounding_does_not_spoil_the_slope(dtype, rtol, scale):
    torch.manual_seed(0)
    model = mlp(dtype)
    batch, _ = classes(16, 5, dtype=dtype)
    # of unit length without the scale
    gradients = torch.autograd.grad(cross_entropy(model, batch), list(model.parameters()))
    factor = scale / float(torch.cat([g.flatten() for g in gradients]).norm())
    case = Case(model, sgd(model), lambda m, b: factor * cross_entropy(m, b), batch, batch)
    exact = sum((factor * g.double()).square().sum() for g in gradients)
    assert derivatives(case).slope == pytest.approx(-float(exact), rel=rtol)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_a_step_that_does_not_move_has_no_slope_and_no_curvature(weight, dtype):
    model = nn.Linear(3, 1).to(dtype)
    for parameter in model.parameters():
        nn.init.constant_(parameter, weight)
    x = torch.ones(4, 3, dtype=dtype)
    case = Case(model, sgd(model, 1e-3), lambda m, b: (0.0 * m(b)).mean(), x, x)
    assert derivatives(case) == (0.0, 0.0, 0.0)


def test_a_loss_of_weights_that_the_optimizer_does_not_hold_has_no_slope():
    model = mlp()
    case = make_case(model, optim.SGD(model[2].parameters(), lr=0.1), lambda m, batch: m[0](batch[0]).square().mean())
    loss, slope, curvature = derivatives(case)
    assert loss > 0.0
    assert (slope, curvature) == (0.0, 0.0)


@pytest.mark.parametrize("constant", [torch.Tensor.detach, torch.no_grad])
def test_what_is_detached_or_computed_without_gradients_is_a_constant(constant, rng):
    x = torch.from_numpy(rng.normal(size=(6, 3)))
    model = nn.Linear(3, 1, bias=False).to(F64)

    def loss(m, batch):
        output = m(batch)
        if constant is torch.no_grad:
            with torch.no_grad():
                target = 1.0 * output + 0.0 * m(batch)
        else:
            target = output.detach()
        return (output - target).square().mean()

    case = Case(model, sgd(model, weight_decay=0.5), loss, x, x)
    along = 0.5 * x @ model.weight.detach().flatten()  # of d, which is the weight decay, as the gradient is 0
    found = derivatives(case)
    assert (found.loss, found.slope) == (0.0, 0.0)
    assert found.curvature == pytest.approx(2.0 * float(along.square().mean()), rel=1e-12)


def test_a_recurrent_layer_in_float32_goes_by_double_backward(caplog):
    torch.manual_seed(0)
    wide = long_short_term_memory()
    model = copy.deepcopy(wide.model).float()
    batch = wide.batch[0].float(), wide.batch[1]
    with caplog.at_level(logging.DEBUG, logger="autolr"):
        narrow = derivatives(Case(model, sgd(model), cross_entropy, batch, batch))
    assert "forward mode fails: Trying to use forward AD with mkldnn_rnn_layer" in caplog.text
    np.testing.assert_allclose(narrow, derivatives(wide), rtol=1e-4)


def test_a_compiled_model_is_differentiated_as_it_is_written():
    torch.manual_seed(0)
    case = make_case(mlp())
    model = torch.compile(case.model, backend="aot_eager")
    compiled = Case(model, case.optimizer, cross_entropy, case.batch, case.batch)
    np.testing.assert_allclose(derivatives(compiled), derivatives(case), rtol=1e-12)


def test_a_clipping_hook_of_the_optimizer_shortens_the_direction():
    torch.manual_seed(0)
    free = derivatives(make_case(mlp(), loss=lambda m, batch: 100.0 * cross_entropy(m, batch)))
    torch.manual_seed(0)
    clipped = derivatives(model_cases.clipping_hook())  # to the length 1
    length = np.sqrt(-free.slope)
    np.testing.assert_allclose(clipped, [free.loss, -length, free.curvature / length**2], rtol=1e-5)


def test_a_hook_of_a_weight_changes_the_direction_but_not_the_loss():
    torch.manual_seed(0)
    case = make_case(mlp())
    weights = list(case.model.parameters())
    loss = cross_entropy(case.model, case.batch)
    gradients = torch.autograd.grad(loss, weights, create_graph=True)
    direction = [gradients[0].detach().clamp(-1e-3, 1e-3), *(g.detach() for g in gradients[1:])]
    curved = torch.autograd.grad(gradients, weights, direction)
    products = [sum((v * d).sum().item() for v, d in zip(p, direction, strict=True)) for p in (gradients, curved)]
    slope, curvature = -products[0], products[1]
    seen = []
    weights[0].register_hook(lambda gradient: (seen.append(1), gradient.clamp(-1e-3, 1e-3))[1])
    np.testing.assert_allclose(derivatives(case), [loss.item(), slope, curvature], rtol=1e-10)
    hooks = len(seen)
    cross_entropy(case.model, case.batch).backward()
    assert len(seen) == hooks + 1, "the hook is still there"


def test_a_penalty_on_weights_that_are_kept_in_a_list_counts():
    def penalized(weights):
        return lambda m, batch: cross_entropy(m, batch) + 0.1 * sum(w.square().sum() for w in weights or m.parameters())

    torch.manual_seed(0)
    case = make_case(mlp(), loss=penalized(None))
    kept = Case(case.model, case.optimizer, penalized(list(case.model.parameters())), case.batch, case.batch)
    np.testing.assert_allclose(derivatives(kept), derivatives_by_copies(case, 0.2), rtol=1e-5)


def test_the_curvature_of_a_piecewise_linear_network_is_that_of_its_piece():
    weight, x = 2.0, torch.tensor([[3.0]], dtype=F64)
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.ReLU()).to(F64)
    nn.init.constant_(model[0].weight, weight)
    case = Case(model, sgd(model), lambda m, batch: m(batch).square().mean(), x, x)
    gradient = 2.0 * weight * 9.0  # of 9 w^2, where w is positive
    assert derivatives(case) == pytest.approx((36.0, -(gradient**2), 18.0 * gradient**2), rel=1e-12)


@pytest.mark.parametrize("name", ["Rprop", "ASGD", "Adafactor", "LBFGS"])
def test_steps_that_are_not_proportional_to_the_rate_are_refused(name):
    model = mlp()
    case = train(make_case(model, getattr(optim, name)(model.parameters(), lr=0.01)))
    with pytest.raises(ValueError, match=rf"`optimizer` must take steps that are proportional to the .*, got '{name}'"):
        derivatives(case)


def test_a_limit_on_the_length_of_a_step_is_refused():
    case = make_case(mlp())

    def limit(*_):
        with torch.no_grad():
            for parameter in case.model.parameters():
                parameter.clamp_(-0.5, 0.5)

    case.optimizer.register_step_post_hook(limit)
    with pytest.raises(ValueError, match=r"the real step at .* is off the line by"):
        derivatives(case)


def test_a_sparse_parameter_is_refused():
    model = nn.Linear(3, 1).to(F64)
    sparse = nn.Parameter(torch.eye(3, dtype=F64).to_sparse())
    optimizer = optim.SGD([*model.parameters(), sparse], lr=0.1)
    x = torch.ones(2, 3, dtype=F64)
    with pytest.raises(ValueError, match="`optimizer` must hold no sparse parameters, got 'SGD'"):
        derivatives(Case(model, optimizer, lambda m, b: m(b).mean(), x, x))


def test_a_loss_that_torch_cannot_differentiate_twice_is_refused():
    with pytest.raises(ValueError, match=r"`model` must have a loss that torch can differentiate twice \(the deriv"):
        derivatives(model_cases.sparse_embedding())


def test_a_loss_that_hides_weights_in_a_reentrant_checkpoint_is_refused():
    def loss(model, batch):
        hidden = checkpoint(model[0], batch[0].clone().requires_grad_(), use_reentrant=True)
        return nn.functional.cross_entropy(model[1:](hidden), batch[1])

    with pytest.raises(
        ValueError, match=r"`model` must have a loss that .* twice \(checkpoints need use_reentrant=Fal"
    ):
        derivatives(make_case(mlp(), loss=loss))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_has_no_derivatives(value):
    case = make_case(mlp(), loss=lambda m, batch: value * cross_entropy(m, batch))
    loss, slope, curvature = derivatives(case)
    assert not np.isfinite([loss, slope, curvature]).any()


def test_a_gradient_that_is_not_finite_has_no_slope():
    case = make_case(mlp(), loss=lambda m, batch: (m(batch[0]) - m(batch[0]).detach()).abs().sqrt().sum())
    loss, slope, curvature = derivatives(case)
    assert loss == 0.0
    assert np.isnan([slope, curvature]).all()


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("call", range(1, 5))
def test_everything_is_put_back_where_the_loss_raises(call, error):
    case = model_cases.dropout()
    case.optimizer = optim.Adam(case.model.parameters(), lr=0.01)
    case = train(case)
    calls = []

    def loss(model, batch):
        calls.append(1)
        value = cross_entropy(model, batch)
        if len(calls) >= call:
            raise error("in the middle")
        return value

    case.compute_loss = loss
    with pytest.raises(error, match="in the middle"):
        derivatives(case)
    assert len(calls) >= call


def test_running_out_of_memory_is_not_taken_for_a_missing_rule(monkeypatch):
    def short(*_, **__):
        raise torch.OutOfMemoryError("no memory is left")

    monkeypatch.setattr(torch.autograd, "grad", short)
    for case in (make_case(mlp()), model_cases.weight_norm()):
        with pytest.raises(torch.OutOfMemoryError, match="no memory is left"):
            derivatives(case)
