"""Kernels run here in Triton's interpreter: the switch must be set before triton is first imported."""

import os
import sys
from pathlib import Path

import pytest

os.environ["TRITON_INTERPRET"] = "1"
sys.path.insert(0, str(Path(__file__).parents[2]))  # kernels/ is never installed

NEEDS = "needs torch and triton, which run the kernels without a GPU: pip install torch==2.13.0 triton"

try:
    import torch
    import triton  # noqa: F401
except ImportError:
    collect_ignore_glob = ["test_*.py"]

    def pytest_report_header():
        return f"tests/kernels skipped: {NEEDS}"

else:
    from kernels.numerics import poisoned_memory

    def pytest_itemcollected(item):
        """Triton 3.6, which the GPU machine has, warns about its own interpreter under numpy 2."""
        item.add_marker(pytest.mark.filterwarnings("ignore:Conversion of an array with ndim:DeprecationWarning"))

    @pytest.fixture(autouse=True)
    def poisoned():
        """Every kernel test starts from fresh random inputs and poisoned memory."""
        torch.manual_seed(torch.seed() % 2**31)
        with poisoned_memory():
            yield
