"""Recipes: stages that are commands, their order and inputs, what is done, and where they run."""
