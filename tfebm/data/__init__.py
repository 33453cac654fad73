"""Data: images and sentences by name or path, densities in the plane, batches for training."""

from tfebm.data.anomaly_sets import AnomalyData, hold_out_class, load_normal_and_test
from tfebm.data.grammar import Grammar
from tfebm.data.images import ImageData, load_images, pad_images
from tfebm.data.pipeline import steps_per_epoch, to_float, training_batches, validation_split
from tfebm.data.points import PointData, load_points
from tfebm.data.small_english import default_grammar
from tfebm.data.text_batches import evaluation_batches, lengths, sentence_batches, trim
from tfebm.data.text_data import TextData, load_text
from tfebm.data.toy import TOY_DENSITIES, ToyDensity, toy_density

__all__ = [
    "TOY_DENSITIES",
    "AnomalyData",
    "Grammar",
    "ImageData",
    "PointData",
    "TextData",
    "ToyDensity",
    "default_grammar",
    "evaluation_batches",
    "hold_out_class",
    "lengths",
    "load_images",
    "load_normal_and_test",
    "load_points",
    "load_text",
    "pad_images",
    "sentence_batches",
    "steps_per_epoch",
    "to_float",
    "toy_density",
    "training_batches",
    "trim",
    "validation_split",
]
