"""Packages that are not there."""

import json

import pytest

from swiftlike.core.errors import UserError
from swiftlike.core.optional import available, require


def test_an_installed_package_is_given() -> None:
    assert require("json", because="the test") is json


def test_a_missing_package_comes_with_its_install_command() -> None:
    assert not available("no_such_package_at_all")
    with pytest.raises(UserError) as caught:
        require("no_such_package_at_all", because="--infer_backend vllm", extra="vllm", package="vllm")
    assert str(caught.value) == "--infer_backend vllm needs the package vllm\n  pip install 'swiftlike[vllm]'"
