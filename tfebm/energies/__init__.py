"""Energies: Keras layers to one value per row."""

from tfebm.energies.analytic import QuadraticEnergy
from tfebm.energies.conv import EnergyConv
from tfebm.energies.mlp import EnergyMLP

__all__ = ["EnergyConv", "EnergyMLP", "QuadraticEnergy"]
