import os

import pytest
import torch


@pytest.fixture(autouse=True)
def fresh_inputs():
    """New random inputs in every run; pytest shows the seed when a test fails."""
    seed = int.from_bytes(os.urandom(4), "little")
    print(f"seed {seed}")
    torch.manual_seed(seed)
