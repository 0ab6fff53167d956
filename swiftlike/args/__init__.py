"""Argument sections, grouped by subject and shared by commands. Cold.

The sections do without `from __future__ import annotations`: types that are text would have to be compiled again, one
by one, each time that a command starts.
"""
