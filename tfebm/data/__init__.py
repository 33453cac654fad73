"""Data: image sets by name or path, densities in the plane, and batches for training."""

from tfebm.data.images import ImageData, load_images, pad_images
from tfebm.data.pipeline import steps_per_epoch, to_float, training_batches
from tfebm.data.points import PointData, load_points
from tfebm.data.toy import TOY_DENSITIES, ToyDensity, toy_density

__all__ = [
    "TOY_DENSITIES",
    "ImageData",
    "PointData",
    "ToyDensity",
    "load_images",
    "load_points",
    "pad_images",
    "steps_per_epoch",
    "to_float",
    "toy_density",
    "training_batches",
]
