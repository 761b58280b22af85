"""BIOT, the biosignal transformer, as a braindecode plugin.

Names are imported when they are first used, so that ``braindecode-biot --help`` need
not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from braindecode_biot.datasets import load_absence
    from braindecode_biot.estimators import BIOTClassifier
    from braindecode_biot.model import BIOT
    from braindecode_biot.montage import ToMontage, montage_report, to_montage
    from braindecode_biot.signal import signal_params
    from braindecode_biot.windows import stack_windows

__all__ = [
    "BIOT",
    "BIOTClassifier",
    "ToMontage",
    "load_absence",
    "montage_report",
    "signal_params",
    "stack_windows",
    "to_montage",
]

_MODULES = {
    "BIOT": "model",
    "BIOTClassifier": "estimators",
    "ToMontage": "montage",
    "load_absence": "datasets",
    "montage_report": "montage",
    "signal_params": "signal",
    "stack_windows": "windows",
    "to_montage": "montage",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
