"""An OpenAI-compatible HTTP server over an Engine. Needs the packages of the `deploy` extra."""
