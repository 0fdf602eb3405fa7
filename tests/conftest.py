"""Fixtures that every room's tests may use."""

import os
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

# Before anything of stn_cli is imported: every shape and type in a signature of these rooms is checked on every call.
install_import_hook(
    ["stn_cli.geometry", "stn_cli.distortions", "stn_cli.models", "stn_cli.datasets.source"], "beartype.beartype"
)


@pytest.fixture(scope="session")
def mnist_dir() -> Path:
    """The folder that holds MNIST/raw, from STN_DATA."""
    if not os.environ.get("STN_DATA"):
        pytest.skip("STN_DATA does not name a folder with MNIST in it")
    return Path(os.environ["STN_DATA"])
