"""The losses against values worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from wbcpipe.classify.training.distill import (
    Distillation,
    cross_entropy_over_heads,
    decoupled_loss,
    distillation_loss,
    fused_log_probability,
    standardise_logits,
    total_loss,
)


def logits_of(*probabilities: list[list[float]]) -> torch.Tensor:
    """Logits (B, heads, K) whose softmax is what is given."""
    return torch.tensor(probabilities).log()


def test_cross_entropy_is_summed_over_heads_and_averaged_over_cells() -> None:
    logits = logits_of([[0.5, 0.5], [0.25, 0.75]], [[0.5, 0.5], [0.25, 0.75]])
    labels = torch.tensor([[0, 0], [1, 1]])
    # cell 1: ln 2 + ln 4; cell 2: ln 2 + ln(4/3)
    expected = (math.log(2) + math.log(4) + math.log(2) + math.log(4 / 3)) / 2
    assert cross_entropy_over_heads(logits, labels).item() == pytest.approx(expected, rel=1e-6)


def test_distillation_is_the_divergence_of_student_from_teacher() -> None:
    teacher = logits_of([[0.75, 0.25], [0.5, 0.5]])
    student = logits_of([[0.5, 0.5], [0.5, 0.5]])
    expected = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)  # the second head agrees: 0
    assert distillation_loss(student, teacher, 1.0).item() == pytest.approx(expected, rel=1e-6)
    # the other way round it would be 0.5 ln(0.5 / 0.75) + 0.5 ln(0.5 / 0.25)
    other = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)
    assert distillation_loss(teacher, student, 1.0).item() == pytest.approx(other, rel=1e-6)


def test_temperature_softens_both_and_scales_by_its_square() -> None:
    teacher = torch.tensor([[[2 * math.log(3.0), 0.0]]])  # at T = 2: 3 to 1
    student = torch.tensor([[[0.0, 0.0]]])
    divergence = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    labels = torch.tensor([[0]])
    assert distillation_loss(student, teacher, 2.0).item() == pytest.approx(divergence, rel=1e-5)
    loss = total_loss(student, labels, teacher, temperature=2.0)
    assert loss.item() == pytest.approx(math.log(2) + 4 * divergence, rel=1e-5)
    assert total_loss(student, labels).item() == pytest.approx(math.log(2), rel=1e-6)


def test_label_smoothing_spreads_the_target() -> None:
    logits = logits_of([[0.8, 0.2]])
    expected = -(0.95 * math.log(0.8) + 0.05 * math.log(0.2))
    assert cross_entropy_over_heads(logits, torch.tensor([[0]]), label_smoothing=0.1).item() == pytest.approx(expected)


def test_no_gradient_reaches_the_teacher() -> None:
    teacher = torch.randn(2, 3, 4, requires_grad=True)
    student = torch.randn(2, 3, 4, requires_grad=True)
    distillation_loss(student, teacher, 3.0).backward()  # type: ignore[no-untyped-call]
    assert teacher.grad is None
    assert student.grad is not None


def test_the_gradient_at_high_temperature_stays_of_one_size() -> None:
    """Why the paper multiplies by T squared: the soft targets' gradient tends to (z - v) / K, whatever T is."""
    student, teacher = torch.zeros(1, 1, 2, requires_grad=True), torch.tensor([[[1.0, -1.0]]])
    for temperature in (20.0, 40.0):
        loss = temperature**2 * distillation_loss(student, teacher, temperature)
        (gradient,) = torch.autograd.grad(loss, student)
        assert gradient[0, 0, 0].item() == pytest.approx(-0.5, rel=0.01)


def test_fused_teacher_is_the_mean_probability() -> None:
    fused = fused_log_probability(logits_of([[0.9, 0.1], [0.5, 0.5]]))
    assert fused.shape == (1, 1, 2)
    assert fused.exp().flatten().tolist() == pytest.approx([0.7, 0.3])


def test_decoupled_parts_add_up_to_the_whole_divergence() -> None:
    teacher, student = logits_of([[0.6, 0.3, 0.1]]), logits_of([[0.5, 0.1, 0.4]])
    labels = torch.tensor([[0]])
    target = 0.6 * math.log(0.6 / 0.5) + 0.4 * math.log(0.4 / 0.5)
    others = 0.75 * math.log(0.75 / 0.2) + 0.25 * math.log(0.25 / 0.8)
    found = decoupled_loss(student, teacher, labels, 1.0, 2.0, 3.0).item()
    assert found == pytest.approx(2 * target + 3 * others, rel=1e-5)
    # Weighed by the teacher's doubt, 0.4, the parts are the whole.
    whole = distillation_loss(student, teacher, 1.0).item()
    assert decoupled_loss(student, teacher, labels, 1.0, 1.0, 0.4).item() == pytest.approx(whole, rel=1e-5)


def test_decoupled_loss_is_its_authors_summed_over_heads() -> None:
    """Against the formula as they wrote it: softmax, the right class masked out by a large number, KL of both parts."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn((6, 3, 5), generator=generator) * 2 for _ in range(2))
    labels = torch.randint(5, (6, 3), generator=generator)
    expected = 0.0
    for head in range(3):
        right = functional.one_hot(labels[:, head], 5).float()
        pairs, others = [], []
        for logits in (student[:, head] / 2.5, teacher[:, head] / 2.5):
            probability = logits.softmax(1)
            pairs.append(torch.stack([(probability * right).sum(1), (probability * (1 - right)).sum(1)], dim=1))
            others.append((logits - 1000 * right).log_softmax(1))
        target = functional.kl_div(pairs[0].log(), pairs[1], reduction="batchmean")
        among = functional.kl_div(others[0], others[1], reduction="batchmean", log_target=True)
        expected += float(target + 8 * among)
    assert decoupled_loss(student, teacher, labels, 2.5, 1.0, 8.0).item() == pytest.approx(expected, rel=1e-4)


def test_decoupled_gradients_are_finite_where_the_teacher_is_certain() -> None:
    student = torch.zeros(1, 1, 3, requires_grad=True)
    teacher = torch.tensor([[[200.0, 0.0, 0.0]]])
    decoupled_loss(student, teacher, torch.tensor([[0]]), 1.0, 1.0, 8.0).backward()  # type: ignore[no-untyped-call]
    assert student.grad is not None
    assert torch.isfinite(student.grad).all()


def test_standardised_logits_know_neither_shift_nor_scale() -> None:
    teacher, labels = torch.tensor([[[3.0, 1.0, -2.0]]]), torch.tensor([[0]])
    options = Distillation(standardise=True)
    assert torch.allclose(standardise_logits(teacher), standardise_logits(5 * teacher - 7), atol=1e-6)
    taught = [
        total_loss(student, labels, teacher, options=options) - cross_entropy_over_heads(student, labels)
        for student in (0.2 * teacher + 1, -teacher)
    ]
    assert taught[0].item() == pytest.approx(0.0, abs=1e-4)
    assert taught[1].item() > 1.0


def test_standardised_gradients_are_finite_where_all_logits_are_equal() -> None:
    student = torch.ones(2, 1, 3, requires_grad=True)
    teacher = torch.tensor([[[3.0, 1.0, -2.0]], [[1.0, 1.0, 1.0]]])
    total_loss(student, torch.tensor([[0], [1]]), teacher, options=Distillation(standardise=True)).backward()  # type: ignore[no-untyped-call]
    assert student.grad is not None
    assert torch.isfinite(student.grad).all()


def test_the_weight_of_distillation_scales_it() -> None:
    teacher, student, labels = torch.tensor([[[2.0, 0.0]]]), torch.tensor([[[0.0, 1.0]]]), torch.tensor([[0]])
    bare = total_loss(student, labels).item()
    one, half = (total_loss(student, labels, teacher, options=Distillation(weight=w)).item() for w in (1.0, 0.5))
    assert one - bare == pytest.approx(2 * (half - bare), rel=1e-5)
