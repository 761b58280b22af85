"""Losses equal naive loops, and keep what they promise at the limits."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from braindecode_biot.losses import (
    alignment,
    balanced_cross_entropy,
    focal_loss,
    info_nce,
    spread,
    uniformity,
)

SIZES = st.tuples(st.integers(2, 7), st.integers(1, 5), st.integers(0, 10_000))


def embeddings(n, size, seed, n_views=2):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n_views, n, size, generator=generator, dtype=torch.double)


def naive_info_nce(anchors, candidates, temperature, first=0):
    def cosine(u, v):
        return sum(a * b for a, b in zip(u, v, strict=True)) / (
            math.sqrt(sum(a * a for a in u)) * math.sqrt(sum(b * b for b in v))
        )

    total = 0.0
    for i, anchor in enumerate(anchors.tolist()):
        terms = [
            math.exp(cosine(anchor, other) / temperature)
            for other in candidates.tolist()
        ]
        total -= math.log(terms[first + i] / sum(terms))
    return total / len(anchors)


@given(SIZES, st.floats(0.05, 5))
@settings(deadline=None, max_examples=40)
def test_info_nce_equals_a_double_loop(sizes, temperature):
    a, b = embeddings(*sizes)

    assert info_nce(a, b, temperature).item() == pytest.approx(
        naive_info_nce(a, b, temperature), rel=1e-9, abs=1e-12
    )


def test_info_nce_of_a_part_of_the_anchors_equals_a_double_loop():
    a, b = embeddings(6, 4, 0)

    parts = [info_nce(a[i : i + 2], b, 0.2, first=i) for i in (0, 2, 4)]

    for i, part in zip((0, 2, 4), parts, strict=True):
        expected = naive_info_nce(a[i : i + 2], b, 0.2, first=i)
        assert part.item() == pytest.approx(expected, rel=1e-9)
    assert torch.stack(parts).mean().item() == pytest.approx(info_nce(a, b).item())


def test_excluded_candidates_do_not_count_but_for_ones_own():
    a, b = embeddings(5, 4, 3)
    excluded = torch.zeros(5, 5, dtype=torch.bool)
    excluded[0, [0, 2, 3]] = True
    excluded[4] = True

    loss = info_nce(a, b, excluded=excluded)

    expected = [
        naive_info_nce(a[:1], b[[0, 1, 4]], 0.2),
        *(naive_info_nce(a[i : i + 1], b, 0.2, first=i) for i in (1, 2, 3)),
        0,  # of nothing else
    ]
    assert loss.item() == pytest.approx(np.mean(expected), rel=1e-9)


@given(SIZES)
@settings(deadline=None, max_examples=25)
def test_info_nce_ignores_the_order_and_the_length_of_embeddings(sizes):
    a, b = embeddings(*sizes)
    order = torch.randperm(len(a))
    lengths = torch.rand(2, len(a), 1, dtype=torch.double) + 0.1

    expected = info_nce(a, b)

    torch.testing.assert_close(info_nce(a[order], b[order]), expected)
    torch.testing.assert_close(info_nce(a * lengths[0], b * lengths[1]), expected)


def test_swapping_the_views_transposes_the_similarities():
    a, b = embeddings(5, 3, 1)
    similarity = F.normalize(a, dim=1) @ F.normalize(b, dim=1).T / 0.2

    torch.testing.assert_close(
        info_nce(b, a), F.cross_entropy(similarity.T, torch.arange(5))
    )
    assert info_nce(a, b) != info_nce(b, a)
    # Where similarities are symmetric, so is the loss.
    torch.testing.assert_close(info_nce(a, -a), info_nce(-a, a))


def test_temperature_limits():
    a, b = embeddings(6, 4, 2)
    cosines = F.normalize(a, dim=1) @ F.normalize(b, dim=1).T

    hot = info_nce(a, b, 1e6)
    cold = info_nce(a, b, 1e-4) * 1e-4

    assert hot.item() == pytest.approx(math.log(6), abs=1e-5)
    # Only the most similar candidate is left: T times the loss is by how much it leads.
    lead = (cosines.max(1).values - cosines.diagonal()).mean()
    assert cold.item() == pytest.approx(lead.item(), abs=1e-4)


def test_info_nce_is_finite_with_finite_gradients_in_half_precision():
    a = torch.randn(8, 16, dtype=torch.bfloat16, requires_grad=True)
    b = torch.randn(8, 16, dtype=torch.bfloat16)

    with torch.autocast("cpu", torch.bfloat16):
        loss = info_nce(a, b)
    loss.backward()

    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(info_nce(a.float(), b.float()).item())
    assert a.grad.isfinite().all()


@pytest.mark.parametrize("n", [0, 1])
def test_no_negatives_is_an_error_with_the_remedy(n):
    with pytest.raises(ValueError, match=rf"batch of {n}.*batch_size of at least 2"):
        info_nce(torch.ones(n, 3), torch.ones(n, 3))


def test_wrong_arguments_of_info_nce():
    x = torch.eye(3)
    with pytest.raises(ValueError, match="temperature must be positive, got 0"):
        info_nce(x, x, 0)
    with pytest.raises(ValueError, match="3 anchors from candidate 1 on need 4"):
        info_nce(x, x, first=1)


LOGITS = st.lists(st.tuples(st.floats(-30, 30), st.booleans()), min_size=1, max_size=6)


@given(LOGITS, st.floats(0.05, 0.95), st.floats(0, 3))
@settings(deadline=None, max_examples=60)
def test_focal_loss_equals_its_formula(pairs, alpha, gamma):
    expected = []
    for logit, y in pairs:
        p = 1 / (1 + np.exp(-np.longdouble(logit)))
        q = 1 / (1 + np.exp(np.longdouble(logit)))
        expected.append(
            -alpha * q**gamma * np.log(p) if y else -(1 - alpha) * p**gamma * np.log(q)
        )
    logits, targets = torch.tensor(pairs, dtype=torch.double).T

    loss = focal_loss(logits, targets, alpha, gamma, reduction="none")

    np.testing.assert_allclose(loss, np.array(expected, float), rtol=1e-9, atol=1e-15)


def test_focal_loss_without_focus_is_half_the_cross_entropy():
    logits, targets = torch.tensor([-3.0, 0.5, 2.0]), torch.tensor([1.0, 0.0, 1.0])

    half = F.binary_cross_entropy_with_logits(logits, targets) / 2

    torch.testing.assert_close(focal_loss(logits, targets, 0.5, 0), half)


@given(LOGITS, st.floats(0.05, 0.95))
@settings(deadline=None, max_examples=40)
def test_balanced_cross_entropy_equals_the_weighted_one(pairs, share):
    logits, targets = torch.tensor(pairs, dtype=torch.double).T
    weight = torch.where(targets == 1, 1 / share, 1 / (1 - share)) / 2

    loss = balanced_cross_entropy(logits, targets, share)

    expected = F.binary_cross_entropy_with_logits(logits, targets, weight)
    torch.testing.assert_close(loss, expected)


def test_balance_gives_both_classes_the_same_pull():
    targets = torch.tensor([1.0] + [0.0] * 9)
    logits = torch.zeros(10, requires_grad=True)

    balanced_cross_entropy(logits, targets, 0.1).backward()

    assert logits.grad.sum().item() == pytest.approx(0, abs=1e-8)
    plain = balanced_cross_entropy(logits.detach(), targets)
    assert plain.item() == pytest.approx(math.log(2))


@pytest.mark.parametrize("loss", [focal_loss, balanced_cross_entropy])
@pytest.mark.parametrize("logit", [-100.0, 100.0])
@pytest.mark.parametrize("target", [0.0, 1.0])
def test_binary_losses_are_stable(loss, logit, target):
    logits = torch.tensor([logit], requires_grad=True)

    value = loss(logits, torch.tensor([target]))
    value.backward()

    wrong = (logit > 0) != bool(target)
    weights = {
        focal_loss: {0.0: 0.2, 1.0: 0.8},
        balanced_cross_entropy: {0.0: 1, 1.0: 1},
    }
    expected = 100 * weights[loss][target] if wrong else 0
    assert value.item() == pytest.approx(expected, rel=1e-5, abs=1e-20)
    slope = math.copysign(weights[loss][target], logit) if wrong else 0
    assert logits.grad.item() == pytest.approx(slope, rel=1e-5, abs=1e-20)


@pytest.mark.parametrize("loss", [focal_loss, balanced_cross_entropy])
def test_reductions_and_wrong_arguments_of_binary_losses(loss):
    logits, targets = torch.tensor([-1.0, 2.0, 0.5]), torch.tensor([0.0, 1.0, 1.0])
    each = loss(logits, targets, reduction="none")

    assert each.shape == (3,)
    torch.testing.assert_close(loss(logits, targets), each.mean())
    torch.testing.assert_close(loss(logits, targets, reduction="sum"), each.sum())
    with pytest.raises(ValueError, match=r"one shape, got \(3, 1\) and \(3,\)"):
        loss(logits[:, None], targets)
    with pytest.raises(ValueError, match=r"reduction is .* got 'max'"):
        loss(logits, targets, reduction="max")


@pytest.mark.parametrize("share", [0, 1, -0.2, math.nan])
def test_share_must_leave_both_classes(share):
    with pytest.raises(ValueError, match="positive_share must be between 0 and 1"):
        balanced_cross_entropy(torch.zeros(1), torch.zeros(1), share)


@given(SIZES)
@settings(deadline=None, max_examples=25)
def test_measures_equal_double_loops(sizes):
    a, b = embeddings(*sizes)
    u, v = F.normalize(a, dim=1), F.normalize(b, dim=1)
    pairs = [
        math.exp(-2 * float((u[i] - u[j]).square().sum()))
        for i in range(len(u))
        for j in range(i)
    ]

    assert uniformity(a).item() == pytest.approx(math.log(np.mean(pairs)), abs=1e-9)
    apart = [float((x - y).square().sum()) for x, y in zip(u, v, strict=True)]
    assert alignment(a, b).item() == pytest.approx(np.mean(apart), abs=1e-9)
    variance = np.var(u.numpy(), axis=0).sum()
    assert spread(a).item() == pytest.approx(math.sqrt(variance), abs=1e-9)


def test_measures_tell_a_collapse():
    one_point = torch.ones(64, 32) + 1e-4 * torch.randn(64, 32)
    even = torch.randn(512, 32)

    assert uniformity(one_point) > -1e-3
    assert uniformity(even) < -3
    assert spread(one_point) < 1e-3
    assert spread(even) > 0.95
    assert alignment(even, torch.randn(512, 32)).item() == pytest.approx(2, abs=0.1)
