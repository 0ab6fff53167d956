"""Known data sets, one file each, and the syntax that names them. Cold."""

from swiftlike.core.registry import Registry
from swiftlike.datasets_registry.card import DatasetCard

DATASETS: Registry[DatasetCard] = Registry("data set", "swiftlike.datasets_registry", DatasetCard)
