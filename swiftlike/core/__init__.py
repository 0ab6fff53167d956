"""Declarations, configuration, files and errors. Cold: standard library only, knows nothing of machine learning."""
