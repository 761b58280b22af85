"""Lightning, which trains on one device or many, on one machine or many.

Owns the import of an optional dependency, with an error that says how to get it.
"""

try:
    from lightning.pytorch import LightningDataModule, LightningModule, Trainer
except ImportError as error:
    raise ImportError(
        "Pretraining runs on Lightning, which is not installed: "
        'pip install "braindecode-biot[pretrain]".'
    ) from error

__all__ = ["LightningDataModule", "LightningModule", "Trainer"]
