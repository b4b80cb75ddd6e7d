"""The contribution mechanism against the written formula, and the laws that the authors' code breaks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from umair.model.contribution import (
    AttentionContribution,
    AttentionExpert,
    ExpertContribution,
    ItemContribution,
    SenetExpert,
    masked_softmax,
    weights_of,
)

ROWS, MODALITIES, WIDTH = 5, 4, 8


def attention(experts: int = 1, dropout: float = 0.5, *, scaled: bool = False) -> AttentionContribution:
    return AttentionContribution(experts, dropout, scaled).eval()


@pytest.fixture
def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(3)
    known_BM = torch.ones(ROWS, MODALITIES, dtype=torch.bool)
    known_BM[1, 0] = known_BM[2, :3] = False  # row 2 has its profile alone
    return (torch.randn(ROWS, WIDTH, generator=draw), torch.randn(ROWS, MODALITIES, WIDTH, generator=draw), known_BM)


def written_out(user: np.ndarray, modalities: np.ndarray, known: np.ndarray, *, scaled: bool) -> tuple[np.ndarray, np.ndarray]:
    """Eq. 6 and 7 for one row, over its known modalities alone, in float64."""
    weights = np.zeros(len(modalities))
    scores = np.array([user @ modality for modality in modalities[known]]) / (len(user) ** 0.5 if scaled else 1)
    weights[known] = np.exp(scores) / np.exp(scores).sum()
    return sum(weight * modality for weight, modality in zip(weights, modalities, strict=True)), weights


@pytest.mark.parametrize("scaled", [False, True])
def test_equals_the_formula(inputs, scaled):
    wanted = [written_out(user.double().numpy(), modalities.double().numpy(), known.numpy(), scaled=scaled)
              for user, modalities, known in zip(*inputs, strict=True)]
    mixed_BD, weight_BM = attention(scaled=scaled)(*inputs)
    np.testing.assert_allclose(mixed_BD.numpy(), [mixed for mixed, _ in wanted], rtol=0, atol=1e-6)
    np.testing.assert_allclose(weight_BM.numpy(), [weights for _, weights in wanted], rtol=0, atol=1e-6)


def test_weights_sum_to_one_and_unknown_modalities_have_none(inputs):
    known_BM = inputs[2]
    _, weight_BM = attention()(*inputs)
    torch.testing.assert_close(weight_BM.sum(1), torch.ones(ROWS))
    assert (weight_BM[~known_BM] == 0).all()
    assert (weight_BM[known_BM] > 0).all()
    assert weight_BM[2].tolist() == [0, 0, 0, 1]


def test_an_unknown_modality_is_never_seen(inputs):
    user_BD, modality_BMD, known_BM = inputs
    other_BMD = modality_BMD.masked_fill(~known_BM[:, :, None], 1e4)
    torch.testing.assert_close(attention()(user_BD, other_BMD, known_BM)[0], attention()(*inputs)[0], rtol=0, atol=0)


def test_a_row_does_not_feel_the_other_users_of_its_batch(inputs):
    user_BD, modality_BMD, known_BM = inputs
    strangers_BD = torch.cat([user_BD[:1], torch.randn(ROWS - 1, WIDTH)])
    torch.testing.assert_close(attention()(strangers_BD, modality_BMD, known_BM)[0][0], attention()(*inputs)[0][0])
    alone, _ = attention()(user_BD[:1], modality_BMD[:1], known_BM[:1])
    assert alone.shape == (1, WIDTH)
    torch.testing.assert_close(alone[0], attention()(*inputs)[0][0])
    own = attention()(strangers_BD, modality_BMD, known_BM)[0][1]
    assert not torch.allclose(own, attention()(*inputs)[0][1])  # it does feel its own


@pytest.mark.parametrize("experts", [2, 3, 4])
def test_attention_experts_are_one_expert_after_training(inputs, experts):
    torch.testing.assert_close(attention(experts)(*inputs)[0], attention(1)(*inputs)[0])


def test_experts_differ_by_their_dropout_while_training(inputs):
    torch.manual_seed(0)
    mixed_BD, weight_BM = attention(3).train()(*inputs)
    calm_BD, calm_BM = attention(3)(*inputs)
    torch.testing.assert_close(weight_BM, calm_BM)  # the weights that are shown have no dropout in them
    assert not torch.allclose(mixed_BD, calm_BD)


def test_the_experts_gate_weighs_what_they_found(inputs):
    user_BD, modality_BMD, _ = inputs
    torch.manual_seed(5)
    mixed_BD, weight_BM = attention(2).train()(*inputs)
    torch.manual_seed(5)
    dropped_BKM = torch.nn.functional.dropout(weight_BM[:, None].expand(-1, 2, -1), 0.5)
    expert_BKD = torch.einsum("bkm,bmd->bkd", dropped_BKM, modality_BMD)
    gate_BK = torch.einsum("bd,bkd->bk", user_BD, expert_BKD).softmax(1)
    torch.testing.assert_close(mixed_BD, (gate_BK[:, :, None] * expert_BKD).sum(1))


def test_without_dropout_training_and_evaluation_agree(inputs):
    torch.testing.assert_close(attention(3, dropout=0).train()(*inputs)[0], attention(3)(*inputs)[0])


def test_nothing_known_mixes_to_zero_with_finite_gradients(inputs):
    user_BD, modality_BMD, known_BM = inputs
    user_BD.requires_grad_()
    mixed_BD, weight_BM = attention()(user_BD, modality_BMD, torch.zeros_like(known_BM))
    assert (mixed_BD == 0).all()
    assert (weight_BM == 0).all()
    mixed_BD.sum().backward()
    assert user_BD.grad.isfinite().all()


def test_huge_scores_saturate_without_overflow():
    weight_BM = masked_softmax(torch.tensor([[3e38, -3e38, 0.0]]), torch.tensor([[True, True, False]]))
    assert weight_BM.tolist() == [[1, 0, 0]]


# ---------------------------------------------------------------- other experts
def test_senet_weighs_modalities_by_all_their_means_and_the_user(inputs):
    user_BD, modality_BMD, known_BM = inputs
    expert = SenetExpert(MODALITIES, WIDTH, summed=False)
    mixed_BD, weight_BM = expert(*inputs)
    first, second = ((layer.weight.detach().double().numpy(), layer.bias.detach().double().numpy())
                     for layer in (expert.squeeze, expert.excite))
    for row in range(ROWS):
        known, modalities = known_BM[row].numpy(), modality_BMD[row].double().numpy()
        mean = modalities.mean(1) * known
        score = second[0] @ np.maximum((first[0] @ mean + first[1]) * user_BD[row].double().numpy(), 0) + second[1]
        weight = np.where(known, np.exp(score), 0) / np.exp(score)[known].sum()
        np.testing.assert_allclose(weight_BM[row].detach().numpy(), weight, atol=1e-6)
        np.testing.assert_allclose(mixed_BD[row].detach().numpy(), weight @ modalities / MODALITIES, atol=1e-6)
    torch.testing.assert_close(SenetExpert(MODALITIES, WIDTH, summed=True)(*inputs)[1].sum(1), torch.ones(ROWS))
    assert sum(weight.numel() for weight in SenetExpert(4, 64, summed=False).parameters()) == 580


def test_summed_senet_is_as_many_times_the_averaged_as_there_are_modalities(inputs):
    averaged, summed = SenetExpert(MODALITIES, WIDTH, summed=False), SenetExpert(MODALITIES, WIDTH, summed=True)
    summed.load_state_dict(averaged.state_dict())
    torch.testing.assert_close(summed(*inputs)[0], MODALITIES * averaged(*inputs)[0])


@pytest.mark.parametrize("scaled", [False, True])
def test_plain_experts_in_a_mixture_are_the_attention_they_are_computed_as(inputs, scaled):
    experts = [AttentionExpert(WIDTH, 0.5, scaled=scaled) for _ in range(3)]
    mixture = ExpertContribution(experts, scaled=scaled, batch_mean=False).eval()
    for found, expected in zip(mixture(*inputs), attention(3, scaled=scaled)(*inputs), strict=True):
        torch.testing.assert_close(found, expected)


def test_projected_experts_differ_after_training_too_and_the_gate_mixes_their_weights(inputs):
    user_BD, _, known_BM = inputs
    torch.manual_seed(0)
    experts = [AttentionExpert(WIDTH, 0.5, scaled=False, projected=True).eval() for _ in range(2)]
    one, other = (expert(*inputs) for expert in experts)
    assert not torch.allclose(one[1], other[1])
    gate_BK = torch.stack([(user_BD * mixed_BD).sum(1) for mixed_BD in (one[0], other[0])], 1).softmax(1)
    mixed_BD, weight_BM = ExpertContribution(experts, scaled=False, batch_mean=False)(*inputs)
    torch.testing.assert_close(mixed_BD, gate_BK[:, :1] * one[0] + gate_BK[:, 1:] * other[0])
    torch.testing.assert_close(weight_BM, gate_BK[:, :1] * one[1] + gate_BK[:, 1:] * other[1])
    torch.testing.assert_close(weight_BM.sum(1), torch.ones(ROWS))
    assert not weight_BM[~known_BM].any()


def test_hadamard_gives_each_number_a_softmax_of_its_own(inputs):
    user_BD, modality_BMD, known_BM = inputs
    mixed_BD, weight_BM = AttentionExpert(WIDTH, 0.5, scaled=False, hadamard=True).eval()(*inputs)
    for row in range(ROWS):
        known, modalities = known_BM[row].numpy(), modality_BMD[row].double().numpy()
        score = user_BD[row].double().numpy() * modalities
        weight = np.exp(score) * known[:, None] / (np.exp(score) * known[:, None]).sum(0)
        np.testing.assert_allclose(mixed_BD[row].numpy(), (weight * modalities).sum(0), atol=1e-6)
        np.testing.assert_allclose(weight_BM[row].numpy(), weight.mean(1), atol=1e-6)


def test_the_authors_batch_mean_by_hand_and_that_rows_feel_each_other(inputs):
    user_BD, modality_BMD, known_BM = inputs
    expert = AttentionExpert(WIDTH, 0.5, scaled=False, batch_mean=True).eval()
    mixed_BD, _ = expert(*inputs)
    for row in range(ROWS):
        found = [written_out(user.double().numpy(), modality_BMD[row].double().numpy(), known_BM[row].numpy(), scaled=False)[0]
                 for user in user_BD]
        np.testing.assert_allclose(mixed_BD[row].numpy(), np.mean(found, 0), atol=1e-6)
    strangers_BD = torch.cat([torch.randn(1, WIDTH), user_BD[1:]])
    assert not torch.allclose(expert(strangers_BD, modality_BMD, known_BM)[0][1], mixed_BD[1])
    alone = [part[1:2] for part in inputs]
    torch.testing.assert_close(expert(*alone)[0], AttentionExpert(WIDTH, 0.5, scaled=False).eval()(*alone)[0])


@pytest.mark.parametrize("scaled", [False, True])
def test_the_authors_batch_mean_gates_each_row_by_the_mean_of_all_users_gates(inputs, scaled):
    """Row b's gate is the mean over the users q of softmax_k(u_q . what expert k found for row b): as in their code."""
    user_BD, modality_BMD, known_BM = inputs
    torch.manual_seed(0)
    experts = [AttentionExpert(WIDTH, 0.5, scaled=False, projected=True).eval() for _ in range(2)]
    mixture = ExpertContribution(experts, scaled=scaled, batch_mean=True)
    found, weights = (np.stack([part.detach().double().numpy() for part in parts], 1)
                      for parts in zip(*(expert(*inputs) for expert in experts), strict=True))  # [B, K, D], [B, K, M]
    mixed_BD, weight_BM = mixture(*inputs)
    own = []
    for row in range(ROWS):
        score = np.array([found[row] @ user for user in user_BD.double().numpy()]) / (WIDTH ** 0.5 if scaled else 1)  # [users, K]
        gate = np.exp(score) / np.exp(score).sum(1, keepdims=True)
        own.append(gate[row] @ found[row])
        np.testing.assert_allclose(mixed_BD[row].detach().numpy(), gate.mean(0) @ found[row], atol=1e-6)
        np.testing.assert_allclose(weight_BM[row].detach().numpy(), gate.mean(0) @ weights[row], atol=1e-6)
    assert abs(mixed_BD.detach().numpy() - own).max() > 0.01  # what the rows' own users would have
    strangers_BD = torch.cat([-user_BD[:1], user_BD[1:]])
    assert not torch.allclose(mixture(strangers_BD, modality_BMD, known_BM)[0][1], mixed_BD[1])


def test_plain_attention_fusion_weighs_by_the_illustration_alone(inputs):
    user_BD, modality_BMD, known_BM = inputs
    fusion = ItemContribution(WIDTH)
    mixed_BD, weight_BM = fusion(*inputs)
    assert torch.equal(fusion(torch.zeros_like(user_BD), modality_BMD, known_BM)[0], mixed_BD)
    key, bias, query = (tensor.detach().double().numpy() for tensor in (fusion.key.weight, fusion.key.bias, fusion.query.weight[0]))
    for row in range(ROWS):
        known, modalities = known_BM[row].numpy(), modality_BMD[row].double().numpy()
        score = np.tanh(modalities @ key.T + bias) @ query
        weight = np.where(known, np.exp(score), 0) / np.exp(score)[known].sum()
        np.testing.assert_allclose(weight_BM[row].detach().numpy(), weight, atol=1e-6)
        np.testing.assert_allclose(mixed_BD[row].detach().numpy(), weight @ modalities, atol=1e-6)


def test_the_authors_dropout_meets_each_users_weights_before_their_mean(inputs):
    """Of B users' weights with dropout p, a mean scatters by sqrt(p / (1 - p) / B) of one weight, not by sqrt(p / (1 - p))."""
    torch.manual_seed(0)
    rows = 128
    query_BD, value_BMD, known_BM = torch.zeros(rows, WIDTH), torch.randn(rows, 4, WIDTH), torch.ones(rows, 4, dtype=torch.bool)
    weight_BM, dropped_BM = weights_of(query_BD, value_BMD, known_BM, scaled=False, batch_mean=True, dropout=0.5)
    assert torch.equal(weight_BM, torch.full((rows, 4), 0.25))
    assert (dropped_BM / 0.25 - 1).std().item() == pytest.approx(rows ** -0.5, rel=0.15)
    weight_BM, dropped_BM = weights_of(query_BD, value_BMD, known_BM, scaled=False, batch_mean=False, dropout=0.5)
    assert torch.equal(weight_BM, torch.full((rows, 4), 0.25))
    assert (dropped_BM / 0.25 - 1).std().item() == pytest.approx(1.0, rel=0.05)


@pytest.mark.parametrize(("shape", "dim"), [((6, 4), -1), ((6, 5, 4), -1), ((6, 4, 5), 1)])
def test_weights_lie_as_their_scores_do_and_are_the_softmax_of_the_known_ones(shape, dim):
    """Dropout fills in the order of memory: weights in another layout would be another training, and a slower one."""
    torch.manual_seed(0)
    score, known = torch.randn(shape), torch.rand(shape) > 0.3
    found = masked_softmax(score, known, dim)
    power = score.double().exp() * known
    expected = power / power.sum(dim, keepdim=True).clamp(min=1e-300)
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-7)
    assert found.stride() == score.stride()
