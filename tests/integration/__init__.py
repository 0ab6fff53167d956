"""Whole training runs on tiny models."""

import pytest

pytest.register_assert_rewrite(f"{__name__}.runs")
