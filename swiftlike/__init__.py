"""Preference alignment of language and vision-language models, one group of completions at a time."""

__version__ = "0.1.0"
