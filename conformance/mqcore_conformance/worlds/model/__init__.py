"""T0: the real broker on a model disk, a model network and virtual time, from one seed."""

from mqcore_conformance.worlds._addresses import model_url, why_not_on_the_model_network
from mqcore_conformance.worlds.model._hooks import Sabotage, StepCounter
from mqcore_conformance.worlds.model._set import ModelSetWorld
from mqcore_conformance.worlds.model._world import ModelWorld

__all__ = ["ModelSetWorld", "ModelWorld", "Sabotage", "StepCounter", "model_url", "why_not_on_the_model_network"]
