"""Model families and chat templates, one file per family. Cold."""

from swiftlike.core.registry import Registry
from swiftlike.model_registry.card import ModelCard, TemplateCard

MODELS: Registry[ModelCard] = Registry("model family", "swiftlike.model_registry", ModelCard)
TEMPLATES: Registry[TemplateCard] = Registry("template", "swiftlike.model_registry", TemplateCard)
