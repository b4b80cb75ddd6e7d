"""The cross network against the written formula, and what makes it a cross."""

from __future__ import annotations

import numpy as np
import torch

from umair.model.cross_network import CrossNetMix, tanh
from umair.model.ranker import count_parameters


def written_out(x0: np.ndarray, net: CrossNetMix) -> np.ndarray:
    """Wang et al. 2021, eq. 4 and 5, one row, one expert and one layer at a time, in float64."""
    down, core, up, bias, gates = (weight.detach().numpy() for weight in (
        net.down_LDER, net.core_LERR, net.up_LERD, net.bias_LD, net.gate.weight))
    x = x0
    for layer in range(net.layers):
        scores = np.exp(gates @ x)
        mixture = np.zeros_like(x0)
        for expert in range(net.experts):
            low = np.tanh(down[layer, :, expert].T @ x)
            low = np.tanh(core[layer, expert].T @ low)
            mixture += scores[expert] / scores.sum() * x0 * (up[layer, expert].T @ low + bias[layer])
        x = x + mixture
    return x


def random_net(width: int, layers: int, rank: int, experts: int) -> CrossNetMix:
    torch.manual_seed(1)
    net = CrossNetMix(width, layers, rank, experts).double()
    torch.nn.init.normal_(net.bias_LD)  # zero at the start, where it could not be seen
    return net


def test_equals_the_formula_row_by_row():
    net, x_BD = random_net(width=10, layers=3, rank=4, experts=5), torch.randn(7, 10, dtype=torch.float64)
    wanted = np.stack([written_out(row, net) for row in x_BD.numpy()])
    np.testing.assert_allclose(net(x_BD).detach().numpy(), wanted, rtol=0, atol=1e-12)
    single = net.float()(x_BD.float()).detach().numpy()
    np.testing.assert_allclose(single, wanted, rtol=1e-6, atol=1e-5)


def test_has_the_papers_74496_weights_at_width_128():
    assert count_parameters(CrossNetMix(128, layers=2, rank=32, experts=4)) == {"trainable": 74_496, "keras": 74_496}


def test_one_expert_is_the_plain_low_rank_layer():
    net, x_BD = random_net(width=6, layers=1, rank=2, experts=1), torch.randn(4, 6, dtype=torch.float64)
    low_BR = torch.tanh(torch.tanh(x_BD @ net.down_LDER[0, :, 0]) @ net.core_LERR[0, 0])
    torch.testing.assert_close(net(x_BD), x_BD * (low_BR @ net.up_LERD[0, 0] + net.bias_LD[0]) + x_BD)


def test_a_zero_input_number_stays_zero_through_all_layers():
    net, x_BD = random_net(width=6, layers=3, rank=2, experts=3), torch.randn(4, 6, dtype=torch.float64)
    x_BD[:, 2] = 0
    crossed_BD = net(x_BD)
    assert (crossed_BD[:, 2] == 0).all()  # everything that is added is multiplied by the input itself
    assert (crossed_BD[:, [0, 1, 3, 4, 5]] != x_BD[:, [0, 1, 3, 4, 5]]).all()


def test_experts_differ_and_every_weight_learns():
    net, x_BD = random_net(width=6, layers=2, rank=2, experts=3), torch.randn(9, 6, dtype=torch.float64)
    net(x_BD).pow(2).sum().backward()
    for name, weight in net.named_parameters():
        assert weight.grad is not None, name
        assert (weight.grad != 0).all(), name


def test_tanh_and_its_slope_are_those_of_float64_within_a_few_roundings():
    x = torch.cat([torch.linspace(-20, 20, 100_001), torch.logspace(-9, 1, 1_001), torch.tensor([-torch.inf, torch.inf, 0.0])])
    x.requires_grad_()
    found = tanh(x)
    found.sum().backward()
    exact = x.detach().double().tanh()
    assert (found - exact).abs().max() < 2e-7  # the spacing of float32 below 1 is 6e-8
    assert (x.grad - (1 - exact.square())).abs().max() < 5e-7
    assert found[-3:].tolist() == [-1, 1, 0]
    assert tanh(torch.tensor([float("nan")])).isnan().all()


def test_tanh_of_other_numbers_is_torchs_own():
    for kind in (torch.float64, torch.bfloat16):
        x = torch.linspace(-1e-2, 1e-2, 101, dtype=kind)
        assert torch.equal(tanh(x), torch.tanh(x))
