"""Models that answer: transformers (pt) and vLLM behind one small interface. Hot."""
