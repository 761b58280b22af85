"""Which windows come when in pretraining, over processes and interruptions.

Owns the order of windows (:class:`BalancedSampler`), and a data loader that goes on
where an interrupted epoch was (:class:`ResumableLoader`). What comes when follows from
seed and epoch alone. Must not know what a window is, nor the training engine.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.distributed import DistributedSampler

__all__ = ["BalancedSampler", "ResumableLoader", "mixed"]


class BalancedSampler(DistributedSampler[int]):
    """Draw windows so that each recording comes as often, however long it is.

    An epoch goes through the recordings again and again, each time in another order,
    and takes from each a window that it did not take before, as long as there are any.
    One that has fewer windows than its turns gives all of them before any again. The
    windows of one batch therefore come from as many recordings as there are.

    The processes of a distributed run take turns: together they see what one process
    would with a batch as large as theirs together.

    Parameters
    ----------
    sizes : sequence of int
        Windows of each recording. Window ``i`` is the ``i``-th of all, one recording
        after the other.
    n_samples : int | None
        Windows of an epoch, over all processes. None is as many as there are.
    balance : "recordings" | "windows"
        Whether recordings are equal, or windows: then each comes once in an epoch.
    num_replicas, rank : int
        Processes, and the number of this one.
    seed : int
        What the order follows from, with the epoch.

    Raises
    ------
    ValueError
        If there are no windows, or ``balance`` is neither.

    Examples
    --------
    >>> night, minute = 900, 6
    >>> drawn = list(BalancedSampler([night, minute], n_samples=100))
    >>> sum(i < night for i in drawn)
    50
    """

    def __init__(
        self,
        sizes: Sequence[int],
        n_samples: int | None = None,
        balance: Literal["recordings", "windows"] = "recordings",
        num_replicas: int = 1,
        rank: int = 0,
        seed: int = 0,
    ) -> None:
        if balance not in ("recordings", "windows"):
            raise ValueError(f"balance is 'recordings' or 'windows', got {balance!r}.")
        if not sum(sizes):
            raise ValueError("There are no windows to draw from.")
        self.sizes = list(sizes)
        self.n_samples = sum(sizes) if n_samples is None else n_samples
        self.balance = balance
        windows: Any = range(sum(sizes))
        # The base class holds the epoch, and is how engines tell that the work is
        # shared out already.
        super().__init__(windows, num_replicas, rank, seed=seed)
        self.num_samples = self.n_samples // num_replicas
        self.n_skipped = 0  # of this process, at the beginning of the next epoch

    def __iter__(self) -> Iterator[int]:
        """Go through the windows of this process in the current epoch."""
        generator = torch.Generator()
        generator.manual_seed(mixed(self.seed, self.epoch))
        order = self._order(generator)[: self.num_samples * self.num_replicas]
        own = order[self.rank :: self.num_replicas].tolist()
        skipped, self.n_skipped = self.n_skipped, 0
        return iter(own[skipped:])

    def __len__(self) -> int:
        """Return the number of windows of this process in a whole epoch."""
        return self.num_samples

    def _order(self, generator: torch.Generator) -> Tensor:
        sizes = self.sizes
        if self.balance == "windows":
            sizes = [sum(sizes)]
        firsts = torch.tensor([0, *sizes]).cumsum(0).tolist()
        held = [(first, n) for first, n in zip(firsts, sizes, strict=False) if n]
        n_turns = -(-self.n_samples // len(held))
        turns = [first + _draw(n, n_turns, generator) for first, n in held]
        # A round takes one window of each recording, in an order of its own.
        rounds = torch.stack(turns, 1)
        shuffled = torch.rand(rounds.shape, generator=generator).argsort(1)
        return rounds.gather(1, shuffled).flatten()[: self.n_samples]


class ResumableLoader(DataLoader[Any]):
    """A data loader that can go on in the middle of an epoch.

    Its state says how many batches of which epoch were handed out. The next epoch of a
    loader that such a state was loaded into leaves out as many, without reading them,
    if it is that one; ``len`` stays that of a whole epoch, as engines count it.

    Parameters
    ----------
    dataset : Dataset
        The windows.
    sampler : BalancedSampler
        Their order.
    current_epoch : callable | None
        Tells the epoch, where nobody sets that of the sampler, or not reliably:
        Lightning may count one too many after a run that was stopped by its steps.
    **options
        As for :class:`torch.utils.data.DataLoader`.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        sampler: BalancedSampler,
        current_epoch: Callable[[], int] | None = None,
        **options: Any,
    ) -> None:
        self._order = sampler
        self._current_epoch = current_epoch
        self._state = {"epoch": 0, "batches": 0}
        self._loaded: dict[str, int] | None = None
        super().__init__(dataset, sampler=sampler, **options)

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        """Go through the batches that are left of the current epoch."""
        # Engines set the epoch between asking for an iterator and for its first batch,
        # when workers would have begun already. A generator waits.
        if self._current_epoch is not None:
            self._order.set_epoch(self._current_epoch())
        state, self._loaded = self._loaded, None
        epoch = self._order.epoch
        done = state["batches"] if state and state["epoch"] == epoch else 0
        self._order.n_skipped = done * (self.batch_size or 1)
        for batch in super().__iter__():
            done += 1
            self._state = {"epoch": epoch, "batches": done}
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Return the epoch, and how many of its batches were handed out."""
        return dict(self._loaded or self._state)

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on where another loader was."""
        self._loaded = dict(state)


def mixed(*numbers: int) -> int:
    """Make one seed of several numbers, another one for each change of any.

    Parameters
    ----------
    *numbers : int
        At least 0.

    Returns
    -------
    int
        From 0 to 2**63 - 1.

    Examples
    --------
    >>> mixed(0, 1) == mixed(1, 0)
    False
    """
    state = np.random.SeedSequence(numbers).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(1))


def _draw(n: int, n_turns: int, generator: torch.Generator) -> Tensor:
    """Draw ``n_turns`` of ``n``, each as often as any other, or once more."""
    n_passes = -(-n_turns // n)
    passes = [torch.randperm(n, generator=generator) for _ in range(n_passes)]
    return torch.cat(passes)[:n_turns]
