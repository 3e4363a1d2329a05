"""The losses against values worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from wbcpipe.classify.training.distill import (
    cross_entropy_over_heads,
    distillation_loss,
    fused_distillation_loss,
    fused_log_probability,
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
    expected = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(
        0.25 / 0.5
    )  # the second head agrees: 0
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


def test_no_gradient_reaches_the_teacher() -> None:
    teacher = torch.randn(2, 3, 4, requires_grad=True)
    student = torch.randn(2, 3, 4, requires_grad=True)
    distillation_loss(student, teacher, 3.0).backward()  # type: ignore[no-untyped-call]
    assert teacher.grad is None
    assert student.grad is not None


def test_the_gradient_at_high_temperature_stays_of_one_size() -> None:
    """Why the paper multiplies by T squared: the soft targets' gradient tends to (z - v) / K,
    whatever T is.
    """
    student, teacher = torch.zeros(1, 1, 2, requires_grad=True), torch.tensor([[[1.0, -1.0]]])
    for temperature in (20.0, 40.0):
        loss = temperature**2 * distillation_loss(student, teacher, temperature)
        (gradient,) = torch.autograd.grad(loss, student)
        assert gradient[0, 0, 0].item() == pytest.approx(-0.5, rel=0.01)


def test_fused_teacher_is_the_mean_probability() -> None:
    fused = fused_log_probability(logits_of([[0.9, 0.1], [0.5, 0.5]]))
    assert fused.shape == (1, 1, 2)
    assert fused.exp().flatten().tolist() == pytest.approx([0.7, 0.3])


def test_the_weight_of_distillation_scales_it() -> None:
    teacher, student, labels = (
        torch.tensor([[[2.0, 0.0]]]),
        torch.tensor([[[0.0, 1.0]]]),
        torch.tensor([[0]]),
    )
    bare = total_loss(student, labels).item()
    one, half = (total_loss(student, labels, teacher, weight=w).item() for w in (1.0, 0.5))
    assert one - bare == pytest.approx(2 * (half - bare), rel=1e-5)


def test_the_fused_output_is_taught_on_rows_that_show_one_cell() -> None:
    student = logits_of([[0.9, 0.1], [0.3, 0.7]], [[0.5, 0.5], [0.1, 0.9]])  # fused: 0.6, 0.4
    teacher = torch.tensor([[[0.75, 0.25]], [[0.2, 0.8]]]).log()
    first = torch.tensor([True, False])
    divergence = 0.75 * math.log(0.75 / 0.6) + 0.25 * math.log(0.25 / 0.4)
    found = fused_distillation_loss(student, teacher, first, 1.0)
    assert found.item() == pytest.approx(divergence / 2, rel=1e-5)  # a batch of two
    assert fused_distillation_loss(student, teacher, ~first & first, 1.0).item() == 0.0
    # at T = 2 both are softened: 0.75 to 0.25 becomes the ratio of their roots
    soft = [math.sqrt(0.75), math.sqrt(0.25)], [math.sqrt(0.6), math.sqrt(0.4)]
    target, mean = ([value / sum(pair) for value in pair] for pair in soft)
    by_hand = sum(t * math.log(t / m) for t, m in zip(target, mean, strict=True))
    softened = fused_distillation_loss(student, teacher, first, 2.0)
    assert softened.item() == pytest.approx(by_hand / 2, rel=1e-5)
