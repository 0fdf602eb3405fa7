"""Fixtures that every room's tests may use."""

import os
from pathlib import Path

# Before torch is imported, here and in the processes that tests start. The networks of tests are tiny, and two
# threads on a core that something else uses spend seconds waiting for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

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
