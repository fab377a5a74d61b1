"""Shapes and types of everything under test are checked while tests run."""

from collections.abc import Iterator

import jaxtyping
import pytest

jaxtyping.install_import_hook(["cones", "experiments", "pretraining"], "checker.check")


def pytest_configure(config: pytest.Config) -> None:
    """Use one thread, as test machines are shared."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _denormals() -> None:
    """Represent the smallest floats again: training and searching switch them off for speed."""
    import torch

    torch.set_flush_denormal(False)


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Switch the type checks off, to test what a user without them is told."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
