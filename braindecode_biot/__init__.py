"""BIOT, the biosignal transformer, as a braindecode plugin."""

from braindecode_biot.model import BIOT

__all__ = ["BIOT"]
