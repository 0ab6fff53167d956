"""Objectives, one file each: pure functions of K log-probabilities. Cold: torch is imported inside functions."""

from swiftlike.core.registry import Registry
from swiftlike.losses.base import LossCard

LOSSES: Registry[LossCard] = Registry("loss", "swiftlike.losses", LossCard)
