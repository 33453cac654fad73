"""Exports that a stock TensorFlow Serving loads, and other runtimes."""

from tfebm.serving.export import Export, export, next_version
from tfebm.serving.portable import make_portable

__all__ = ["Export", "export", "make_portable", "next_version"]
