"""BIOT, the biosignal transformer, as a braindecode plugin.

Names are imported when they are first used, so that ``braindecode-biot --help`` need
not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from braindecode_biot.annotated import label_windows
    from braindecode_biot.archive import open_archive, prepare_archive
    from braindecode_biot.datasets import load_absence
    from braindecode_biot.embedding import BIOTEmbedding
    from braindecode_biot.estimators import BIOTClassifier, BIOTRegressor
    from braindecode_biot.export import export_onnx, export_torch
    from braindecode_biot.loading import load_weights
    from braindecode_biot.model import BIOT
    from braindecode_biot.montage import ToMontage, montage_report, to_montage
    from braindecode_biot.persistence import load_estimator, save_estimator
    from braindecode_biot.pretraining import ContrastivePretraining, JointPretraining
    from braindecode_biot.pretraining_data import PretrainingData
    from braindecode_biot.published import PUBLISHED
    from braindecode_biot.reading import RecordingError
    from braindecode_biot.recording_report import report_recording, save_report
    from braindecode_biot.recordings import embed_recording, score_recording
    from braindecode_biot.report import LoadReport
    from braindecode_biot.saving import save_weights
    from braindecode_biot.signal import signal_params
    from braindecode_biot.tasks import Task
    from braindecode_biot.weights import CheckpointError
    from braindecode_biot.windows import stack_windows

__all__ = [
    "BIOT",
    "PUBLISHED",
    "BIOTClassifier",
    "BIOTEmbedding",
    "BIOTRegressor",
    "CheckpointError",
    "ContrastivePretraining",
    "JointPretraining",
    "LoadReport",
    "PretrainingData",
    "RecordingError",
    "Task",
    "ToMontage",
    "embed_recording",
    "export_onnx",
    "export_torch",
    "label_windows",
    "load_absence",
    "load_estimator",
    "load_weights",
    "montage_report",
    "open_archive",
    "prepare_archive",
    "report_recording",
    "save_estimator",
    "save_report",
    "save_weights",
    "score_recording",
    "signal_params",
    "stack_windows",
    "to_montage",
]

_MODULES = {
    "BIOT": "model",
    "BIOTClassifier": "estimators",
    "BIOTEmbedding": "embedding",
    "BIOTRegressor": "estimators",
    "CheckpointError": "weights",
    "ContrastivePretraining": "pretraining",
    "JointPretraining": "pretraining",
    "LoadReport": "report",
    "PUBLISHED": "published",
    "PretrainingData": "pretraining_data",
    "RecordingError": "reading",
    "Task": "tasks",
    "ToMontage": "montage",
    "embed_recording": "recordings",
    "export_onnx": "export",
    "export_torch": "export",
    "label_windows": "annotated",
    "load_absence": "datasets",
    "load_estimator": "persistence",
    "load_weights": "loading",
    "montage_report": "montage",
    "open_archive": "archive",
    "prepare_archive": "archive",
    "report_recording": "recording_report",
    "save_estimator": "persistence",
    "save_report": "recording_report",
    "save_weights": "saving",
    "score_recording": "recordings",
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
