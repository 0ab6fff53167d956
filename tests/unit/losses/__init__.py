"""Tests of the objectives. A package, so that test modules can share records and golden adapters."""
