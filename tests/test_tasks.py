"""What labels mean: classes, losses, and errors where they do not fit."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from braindecode_biot.losses import balanced_cross_entropy, focal_loss
from braindecode_biot.tasks import Task


@pytest.mark.parametrize(
    ("task", "reference"),
    [
        (Task("abc"[:3]), lambda x, y: F.cross_entropy(x, y)),
        (
            Task([0, 1], "balanced", positive_share=0.2),
            lambda x, y: balanced_cross_entropy(x[:, 0], y.float(), 0.2),
        ),
        (
            Task([False, True], "focal", alpha=0.6, gamma=2),
            lambda x, y: focal_loss(x[:, 0], y.float(), 0.6, 2),
        ),
    ],
    ids=["cross entropy", "balanced", "focal"],
)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_losses_of_windows_average_to_the_loss(task, reference, dtype):
    logits = torch.randn(9, task.n_outputs, dtype=dtype)
    targets = torch.arange(9) % len(task.classes)

    losses = task.losses(logits, targets)

    assert losses.shape == (9,)
    assert losses.dtype == torch.promote_types(dtype, torch.float32)
    wide = logits.to(losses.dtype)
    torch.testing.assert_close(losses.mean(), reference(wide, targets).to(wide.dtype))


def test_labels_of_any_kind_get_the_number_of_their_class():
    assert Task(["w", "n1"]).encode(np.array(["n1", "w"])).tolist() == [1, 0]
    assert Task(np.array([4, 2, 7])).encode([7, 2, 2]).tolist() == [2, 1, 1]
    assert Task(["a", 1]).encode([1, "a"]).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ((["a"],), "at least two classes, each once"),
        ((["a", "a"],), "at least two classes, each once"),
        (([1, 2, 3], "focal"), r"'focal' is for two classes, got \[1, 2, 3\]"),
        (([1, 2], "hinge"), "got 'hinge'"),
        (([1, 2], "focal", 0), "weight must be positive, got 0"),
        (([1, 2], "focal", float("inf")), "weight must be positive"),
        (([1, 2], "focal", 1, "tcp-17"), "tcp-17"),
        (([1, 2], "balanced", 1, None, None, 1.0), "positive_share must be"),
        (([1, 2], "focal", 1, None, None, 0.5, 7), "alpha must be between"),
        (([1.0, float("nan")],), "NaN is no class"),
    ],
)
def test_wrong_tasks(arguments, match):
    with pytest.raises(ValueError, match=match):
        Task(*arguments)


def test_labels_that_do_not_fit_are_named_with_the_classes():
    with pytest.raises(ValueError, match=r"\['c', 'd'\] are none of .*\['a', 'b'\]"):
        Task(["a", "b"]).encode(["a", "c", "d", "c"])


def test_labels_in_columns():
    with pytest.raises(ValueError, match=r"the shape \(2, 2\), expected \(n_win"):
        Task([0, 1]).encode([[0, 1], [1, 0]])
