"""Flows: Keras layers that own their networks and hand out TFP bijectors and distributions."""

from tfebm.flows.base import Flow, FlowBijector
from tfebm.flows.coupling import CouplingFlow, RealNVP, SplineFlow
from tfebm.flows.glow import Glow

__all__ = ["CouplingFlow", "Flow", "FlowBijector", "Glow", "RealNVP", "SplineFlow"]
