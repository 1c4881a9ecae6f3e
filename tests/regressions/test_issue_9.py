"""What the matrix of restores, faults and bad input found: wrong for the user before, and mended."""

import numpy as np
import torch
from harness import unchanged
from torch import nn

import autolr

RATES = [0.1, 1.0, 3.0]


def test_the_momentum_of_sparse_gradients_is_warmed_up_as_that_of_dense_ones():
    """`tune(warmup_steps=2)` of SGD with momentum on a sparse embedding ended in an error of torch's own."""
    losses = []
    for sparse in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Embedding(7, 3, sparse=sparse), nn.Tanh()).double()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        X, Y = torch.randint(7, (40,)), torch.randint(3, (40,))
        tuner = autolr.AutoLRTuner(model, nn.CrossEntropyLoss(), optimizer, rng=0)
        with unchanged(model, optimizer):
            result = tuner.tune(X, Y, learning_rates=RATES, num_subsamples=3, batch_size=8, warmup_steps=2)
        losses.append(result.differentials.loss_post)
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-12)
