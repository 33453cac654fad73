"""Exports that a stock TensorFlow Serving loads, and other runtimes."""

from typing import TYPE_CHECKING

from tfebm import start

if TYPE_CHECKING or not start.IS_SERVING_COMMAND:  # whose flags are read before
    from tfebm.serving.export import Export, export, next_version
    from tfebm.serving.portable import make_portable

__all__ = ["Export", "export", "make_portable", "next_version"]
