"""The line engine is not used, or not kept, where the optimizer's step is not on a line."""

import numpy as np
import pytest
import torch
from engine_cases import Case, classes, cross_entropy, expected, mlp, probe

RATES = np.geomspace(1e-3, 10.0, 9)


class Bent(torch.optim.Optimizer):
    """Gradient descent at ``bend(rate, parameter)`` instead of the rate."""

    def __init__(self, params, bend):
        super().__init__(params, {"lr": 0.1})
        self.bend = bend

    @torch.no_grad()
    def step(self, closure=None):  # noqa: ARG002 (torch's signature)
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.sub_(parameter.grad * self.bend(group["lr"], parameter))


BENDS = {
    "quadratic in the rate": lambda lr, _: lr**2,
    "capped": lambda lr, _: min(lr, 0.1),
    "capped just below the highest rate": lambda lr, _: min(lr, 9.0),
    "ignoring the rate": lambda *_: 0.1,
    "without a step at tiny rates": lambda lr, _: lr if lr > 5e-3 else 0.0,
    "too long at tiny rates": lambda lr, _: lr if lr > 5e-3 else 1.2 * lr,
    "bent a little": lambda lr, _: lr * (1.0 + 1e-3 * lr),
    "bent in the last tensor only": lambda lr, p: lr**2 if p.numel() == 3 else lr,
    "without any step": lambda *_: 0.0,
    "not finite": lambda lr, _: float("nan") if lr > 5.0 else lr,
}


def make(bend, dtype=torch.float64):
    model = mlp(dtype)
    return Case(model, Bent(model.parameters(), bend), cross_entropy, *classes(16, 5, dtype=dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", BENDS)
def test_the_line_steps_aside_for_a_step(name, dtype):
    def copies():
        case = make(BENDS[name], dtype)
        return case.model, case.optimizer, case.compute_loss

    case = make(BENDS[name], dtype)
    loss_pre, loss_post = expected(copies, case, RATES)
    probed = probe(case, "line", RATES)
    assert probed.engine == "step", name
    np.testing.assert_allclose(probed.loss_pre[0], loss_pre, rtol=1e-6)
    np.testing.assert_allclose(probed.loss_post[0], loss_post, rtol=1e-6)


@pytest.mark.parametrize("num_rows", [2, 5])
def test_a_step_that_is_bent_from_the_last_row_on_is_found_by_the_second_gate(num_rows):
    torch.manual_seed(0)
    batches = [[(*batch, 1.0) for batch in classes(16, 5)] for _ in range(num_rows)]
    batches[-1][0] = (*batches[-1][0][:2], 1e4)  # its gradient is large, and the optimizer answers otherwise

    def weighted(model, batch):
        return batch[2] * cross_entropy(model, batch[:2])

    def copies():
        case = make(lambda lr, p: lr**2 if p.grad.norm() > 10.0 else lr)
        return case.model, case.optimizer, weighted

    case = Case(*copies(), *batches[0])
    probed = probe(case, "line", RATES, num_rows=num_rows, batches=batches)
    assert probed.engine_reason.startswith("the line engine stepped aside: the real step at")
    for row, (case.batch, case.evaluation_batch) in enumerate(batches):
        loss_pre, loss_post = expected(copies, case, RATES, row=row)
        np.testing.assert_allclose([probed.loss_pre[row], *probed.loss_post[row]], [loss_pre, *loss_post], rtol=1e-6)


LIMITS = {
    "on the length of the step": lambda lr, p: min(lr, 1.0 / float(p.grad.norm())),
    "on the length of long steps only": lambda lr, p: lr if p.grad.norm() < 10.0 else min(lr, 1e-4),
}


@pytest.mark.parametrize("limit", LIMITS)
def test_a_row_in_between_whose_step_is_bent_is_probed_by_real_steps(limit):
    torch.manual_seed(0)
    batches = [[(*batch, 1e-3) for batch in classes(16, 5)] for _ in range(5)]
    batches[2][0] = (*batches[2][0][:2], 1e4)  # the limit binds in this row only

    def weighted(model, batch):
        return batch[2] * cross_entropy(model, batch[:2])

    def copies():
        case = make(LIMITS[limit])
        return case.model, case.optimizer, weighted

    case = Case(*copies(), *batches[0])
    probed = probe(case, "line", RATES, num_rows=5, batches=batches)
    assert probed.engine == "line"
    for row, (case.batch, case.evaluation_batch) in enumerate(batches):
        loss_pre, loss_post = expected(copies, case, RATES, row=row)
        np.testing.assert_allclose([probed.loss_pre[row], *probed.loss_post[row]], [loss_pre, *loss_post], rtol=1e-6)


def test_a_model_that_behaves_otherwise_off_the_grid_fails_by_its_losses():
    class Jumps(torch.nn.Module):
        """Its loss looks at the last bits of the weights, in which the line and the real step differ."""

        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.linspace(0.1, 1.0, 64))

        def forward(self, x):
            bits = self.weight.detach().view(torch.int32) & 1
            return (self.weight * x).sum() + bits.sum()

    model = Jumps()
    case = Case(
        model, torch.optim.SGD(model.parameters(), lr=0.1), lambda m, b: m(b) ** 2, torch.rand(64), torch.rand(64)
    )
    assert probe(case, "line", RATES).engine_reason.endswith("on the line")


def test_one_rate_needs_one_step():
    case = make(lambda lr, _: lr)
    assert probe(case, "auto", np.array([0.1])).engine_reason == "one rate needs one step"
    assert probe(case, "line", np.array([0.1])).engine == "line"
