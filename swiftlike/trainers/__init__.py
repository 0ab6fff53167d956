"""Subclasses of transformers.Trainer, each small. Hot."""
