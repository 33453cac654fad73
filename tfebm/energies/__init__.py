"""Energies: Keras layers from latents to one value per row."""

from tfebm.energies.analytic import QuadraticEnergy
from tfebm.energies.mlp import EnergyMLP

__all__ = ["EnergyMLP", "QuadraticEnergy"]
