"""Argument sections, grouped by subject and shared by commands. Cold."""
