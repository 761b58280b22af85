"""Whether the encoder's work may be done by other code than its modules.

Owns the question where nobody could see a difference: ``inference`` and ``backward``
compute what the modules would, sooner and in less memory, but only of plain modules, on
a CPU, and while nobody listens. Must not compute anything itself.
"""

from functools import cache
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.modules import module as nn_module

from braindecode_biot.encoder import Encoder

__all__ = ["may_infer", "may_train"]

# Tokens from which on a window is worth its own pass. Weights are read for each window
# anew, 12 MB of them: with 18 tokens that takes three times as long as a batch does.
_LONG = 128


def may_infer(model: nn.Module, encoder: nn.Module, x: Tensor, n_tokens: int) -> bool:
    """Tell whether windows may be evaluated one by one, without gradients.

    So not where sentences are short, which are faster together; not while gradients
    are recorded or something is traced, compiled, exported or cast; not on other
    devices; and not where anybody changed a part of the encoder or listens to a module
    by a hook.

    Parameters
    ----------
    model : nn.Module
        The whole model.
    encoder : nn.Module
        Its encoder.
    x : Tensor
        The model's input.
    n_tokens : int
        Tokens of the longest sentence that the model is made for; not of this batch,
        lest its numbers hang on it.

    Returns
    -------
    bool
        Whether ``inference`` gives what the modules would.
    """
    return not (
        torch.is_grad_enabled()
        or any(_has_hooks(module) or module.training for module in model.modules())
    ) and _is_plain(encoder, x, n_tokens)


def may_train(encoder: nn.Module, tokens: Tensor, n_tokens: int) -> bool:
    """Tell whether gradients of the encoder may be computed window by window.

    So where any are asked for, and otherwise as for :func:`may_infer`. Also in training
    without gradients: what computes a pass again, such as
    :func:`torch.utils.checkpoint.checkpoint`, must meet the same dropout with them.

    Parameters
    ----------
    encoder : nn.Module
        The encoder.
    tokens : Tensor
        Its input.
    n_tokens : int
        Tokens of the longest sentence that the model is made for.

    Returns
    -------
    bool
        Whether ``backward`` gives what the modules would.
    """
    asked = torch.is_grad_enabled() and any(
        t.requires_grad for t in chain([tokens], encoder.parameters())
    )
    return (
        (asked or encoder.training)
        and not any(_has_hooks(module) for module in encoder.modules())
        and _is_plain(encoder, tokens, n_tokens)
    )


def _is_plain(encoder: nn.Module, x: Tensor, n_tokens: int) -> bool:
    return n_tokens >= _LONG and not (
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        or torch.is_autocast_enabled("cpu")
        or _is_watched()
        or _is_changed(encoder)
        or not _same_kind([x, *encoder.parameters()])
    )


def _is_watched() -> bool:
    # What transforms or counts operations does so in its own thread.
    return bool(
        torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
        or torch._C._len_torch_dispatch_stack()
        or torch._C._len_torch_function_stack()
    )


def _is_changed(encoder: nn.Module) -> bool:
    if type(encoder) is not Encoder or type(encoder.layers) is not nn.ModuleList:
        return True
    parts = _parts(encoder)
    emb_size = parts[1].get("layers.0.attention_norm.weight", (0,))[0]
    return parts != _parts_as_made(emb_size, len(encoder.layers)) or any(
        "forward" in vars(module) or getattr(module, "approximate", "none") != "none"
        for module in encoder.modules()
    )


def _parts(encoder: nn.Module) -> tuple[dict[str, type], dict[str, tuple[int, ...]]]:
    kinds = {name: type(module) for name, module in encoder.named_modules()}
    weights = encoder.named_parameters(remove_duplicate=False)
    return kinds, {name: tuple(weight.shape) for name, weight in weights}


@cache
def _parts_as_made(emb_size: int, n_layers: int) -> Any:
    with torch.device("meta"):
        return _parts(Encoder(emb_size, 1, n_layers)) if n_layers else None


def _has_hooks(module: nn.Module) -> bool:
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or nn_module._global_forward_hooks
        or nn_module._global_forward_pre_hooks
        or nn_module._global_backward_hooks
        or nn_module._global_backward_pre_hooks
    )


def _same_kind(tensors: list[Tensor]) -> bool:
    x, *weights = tensors
    return (
        x.device.type == "cpu"
        and type(x) is Tensor
        and len({weight.dtype for weight in weights}) == 1
        and all(
            weight.device.type == "cpu"
            and weight.dtype in (torch.float32, torch.float64)
            and type(weight) in (Tensor, nn.Parameter)
            for weight in weights
        )
    )
