"""What pretraining minimises, and what it watches, as pure functions of tensors.

Owns InfoNCE (:func:`info_nce`), the losses of the official recipe for two classes
(:func:`focal_loss`, :func:`balanced_cross_entropy`), and three measures that tell a
collapse (:func:`alignment`, :func:`uniformity`, :func:`spread`). Must not know models,
data, nor how many processes there are.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "alignment",
    "balanced_cross_entropy",
    "focal_loss",
    "info_nce",
    "spread",
    "uniformity",
]


def info_nce(
    anchors: Tensor,
    candidates: Tensor,
    temperature: float = 0.2,
    first: int = 0,
    excluded: Tensor | None = None,
) -> Tensor:
    r"""Tell each window's other view from those of all other windows.

    With :math:`u_i, v_j` the anchors and candidates at length one, the mean over
    anchors of

    .. math::
        -\log \frac{\exp(u_i \cdot v_{i} / T)}{\sum_j \exp(u_i \cdot v_j / T)}

    (van den Oord et al. 2018, doi:10.48550/arXiv.1807.03748; paper, section 2.4).

    Parameters
    ----------
    anchors : Tensor, shape (n, emb_size)
        Embeddings of windows.
    candidates : Tensor, shape (n_candidates, emb_size)
        Embeddings of other views, at least two; of all processes, if there are several.
    temperature : float
        :math:`T`. Small ones look at the most similar candidates alone.
    first : int
        Which candidate belongs to the first anchor; the others follow.
    excluded : Tensor of bool, shape (n, n_candidates) | None
        Candidates that an anchor is not told from, as other views of the same window.
        Its own always counts.

    Returns
    -------
    Tensor, shape ()
        In nats, in float32 at least: :math:`\log` ``n_candidates`` is chance.

    Raises
    ------
    ValueError
        If there are no other candidates, one is missing, or the temperature is not
        positive.

    Examples
    --------
    >>> views = torch.eye(4)
    >>> info_nce(views, views, temperature=0.1) < 0.001
    tensor(True)
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature!r}.")
    n, n_candidates = len(anchors), len(candidates)
    if n_candidates < 2:
        raise ValueError(
            f"InfoNCE got a batch of {n_candidates}: a window is told from the others "
            "of its batch, and there are none. Use a batch_size of at least 2; the "
            "more, the better. Accumulating gradients over batches does not add any."
        )
    if not 0 <= first <= n_candidates - n:
        raise ValueError(
            f"{n} anchors from candidate {first} on need {first + n} candidates, got "
            f"{n_candidates}."
        )
    # Half precision would round similarities by more than they differ.
    with torch.autocast(anchors.device.type, enabled=False):
        similarity = _unit(anchors) @ _unit(candidates).mT
        own = torch.arange(first, first + n, device=anchors.device)
        if excluded is not None:
            excluded = excluded.scatter(1, own[:, None], False)
            similarity = similarity.masked_fill(excluded, -torch.inf)
        return F.cross_entropy(similarity / temperature, own)


def focal_loss(
    logits: Tensor,
    targets: Tensor,
    alpha: float = 0.8,
    gamma: float = 0.7,
    reduction: str = "mean",
) -> Tensor:
    r"""Binary cross-entropy that looks away from what is easy.

    With :math:`p = \sigma(\mathrm{logit})`

    .. math::
        -\alpha (1 - p)^\gamma y \log p - (1 - \alpha) p^\gamma (1 - y) \log(1 - p)

    (Lin et al. 2017, doi:10.48550/arXiv.1708.02002). The defaults are those of the
    official recipe for CHB-MIT. Finite, with finite gradients, for any finite logit.

    Parameters
    ----------
    logits, targets : Tensor, of the same shape
        Log-odds of the positive class; 1 where it is that, else 0.
    alpha : float
        Weight of the positive class; the other's is ``1 - alpha``.
    gamma : float
        How much what is known already is looked away from. 0 is not at all.
    reduction : "mean" | "sum" | "none"
        What becomes of the elements.

    Returns
    -------
    Tensor, shape () or that of the logits
        Loss in nats.

    Raises
    ------
    ValueError
        If shapes differ or the reduction is none of these.

    Examples
    --------
    >>> focal_loss(torch.tensor([100.0, -100.0]), torch.tensor([1.0, 1.0]))
    tensor(40.)
    """
    _check_same_shape(logits, targets)
    yes, no = F.logsigmoid(logits), F.logsigmoid(-logits)  # log p, log(1 - p)
    positive = alpha * (gamma * no).exp() * yes
    negative = (1 - alpha) * (gamma * yes).exp() * no
    return _reduce(-targets * positive - (1 - targets) * negative, reduction)


def balanced_cross_entropy(
    logits: Tensor,
    targets: Tensor,
    positive_share: float = 0.5,
    reduction: str = "mean",
) -> Tensor:
    r"""Binary cross-entropy in which both classes weigh alike.

    .. math::
        -\frac{y}{2s} \log p - \frac{1 - y}{2 (1 - s)} \log(1 - p)

    with :math:`s` the share of the positive class. A half leaves plain cross-entropy,
    which the official recipe has for TUAB. Finite for any finite logit.

    Parameters
    ----------
    logits, targets : Tensor, of the same shape
        Log-odds of the positive class; 1 where it is that, else 0.
    positive_share : float
        Share of the positive class in the data, between 0 and 1.
    reduction : "mean" | "sum" | "none"
        What becomes of the elements.

    Returns
    -------
    Tensor, shape () or that of the logits
        Loss in nats.

    Raises
    ------
    ValueError
        If shapes differ, the share is not between 0 and 1, or the reduction is none of
        these.

    Examples
    --------
    >>> balanced_cross_entropy(torch.tensor([-100.0]), torch.tensor([1.0]), 0.25)
    tensor(200.)
    """
    _check_same_shape(logits, targets)
    if not 0 < positive_share < 1:
        raise ValueError(
            f"positive_share must be between 0 and 1, got {positive_share!r}: it is "
            "the share of the positive class in the data, which needs both classes."
        )
    positive = F.logsigmoid(logits) / (2 * positive_share)
    negative = F.logsigmoid(-logits) / (2 - 2 * positive_share)
    return _reduce(-targets * positive - (1 - targets) * negative, reduction)


def alignment(x: Tensor, y: Tensor) -> Tensor:
    """Return how far two views of the same windows are from each other.

    The mean squared distance at length one (Wang & Isola 2020,
    doi:10.48550/arXiv.2005.10242): 0 where all agree, 2 by chance, 4 at most.

    Parameters
    ----------
    x, y : Tensor, shape (n, emb_size)
        Embeddings of the two views.

    Returns
    -------
    Tensor, shape ()
        The less, the more alike.

    Examples
    --------
    >>> alignment(torch.eye(3), 2 * torch.eye(3))
    tensor(0.)
    """
    return (_unit(x) - _unit(y)).square().sum(-1).mean()


def uniformity(x: Tensor, t: float = 2.0) -> Tensor:
    """Return how evenly windows are spread over the sphere.

    The logarithm of the mean over pairs of ``exp(-t * distance²)`` at length one (Wang
    & Isola 2020, doi:10.48550/arXiv.2005.10242): 0 where all windows are one point, and
    near ``-2 * t`` where they are spread evenly over many dimensions.

    Parameters
    ----------
    x : Tensor, shape (n, emb_size)
        Embeddings of at least two windows.
    t : float
        How far a pair still counts.

    Returns
    -------
    Tensor, shape ()
        The less, the more evenly.

    Examples
    --------
    >>> uniformity(torch.ones(5, 3))
    tensor(0.)
    """
    # Distances from products would make a square root's gradient infinite at zero.
    distances = torch.pdist(_unit(x)).square()
    return distances.mul(-t).exp().mean().log()


def spread(x: Tensor) -> Tensor:
    """Return how far embeddings vary, beside what is possible.

    The root of the variance over windows, summed over features, at length one: 0 where
    all windows are one point, and 1 where their mean is the origin.

    Parameters
    ----------
    x : Tensor, shape (n, emb_size)
        Embeddings.

    Returns
    -------
    Tensor, shape ()
        From 0 to 1.

    Examples
    --------
    >>> spread(torch.tensor([[1.0, 0.0], [-3.0, 0.0]]))
    tensor(1.)
    """
    return _unit(x).var(0, correction=0).sum().sqrt()


def _unit(x: Tensor) -> Tensor:
    """Scale embeddings to length one, in single precision at least."""
    return F.normalize(x.to(torch.promote_types(x.dtype, torch.float32)), dim=-1)


def _check_same_shape(logits: Tensor, targets: Tensor) -> None:
    # Broadcasting (n, 1) against (n,) would pair each window with each label.
    if logits.shape != targets.shape:
        raise ValueError(
            f"Expected logits and targets of one shape, got {tuple(logits.shape)} and "
            f"{tuple(targets.shape)}."
        )


def _reduce(values: Tensor, reduction: str) -> Tensor:
    if reduction == "none":
        return values
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction is 'mean', 'sum' or 'none', got {reduction!r}.")
    return values.mean() if reduction == "mean" else values.sum()
