"""Data: image sets by name or path, and batches for training."""

from tfebm.data.images import ImageData, load_images
from tfebm.data.pipeline import steps_per_epoch, to_float, training_batches

__all__ = ["ImageData", "load_images", "steps_per_epoch", "to_float", "training_batches"]
