"""Rows of files into tokens and tensors. Hot."""
