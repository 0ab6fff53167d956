"""One `run` per command. Hot."""
