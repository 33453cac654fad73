"""Chains over any energy function; they know no model."""

from tfebm.samplers.short_run import ChainTrace, ShortRunLangevin

__all__ = ["ChainTrace", "ShortRunLangevin"]
