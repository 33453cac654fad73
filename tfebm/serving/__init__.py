"""Exports that a stock TensorFlow Serving loads."""

from tfebm.serving.export import Export, export, next_version

__all__ = ["Export", "export", "next_version"]
