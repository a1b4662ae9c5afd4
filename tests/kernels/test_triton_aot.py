"""The programs that a GPU run launches, compiled for sm_90 here: what the interpreter cannot see."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def programs():
    env = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    script = Path(__file__).with_name("aot.py")
    run = subprocess.run([sys.executable, script, "few"], capture_output=True, text=True, env=env)
    assert run.returncode == 0, run.stderr[-2000:]
    return [json.loads(line) for line in run.stdout.splitlines()]


def test_programs_fit_a_hopper_sm_and_spill_nothing(programs):
    assert len(programs) > 20
    for p in programs:
        assert p["shared"] <= 227 * 1024, p
        assert p["local"] == p["stack"] == 0, p


def test_matrix_products_use_wgmma_and_wide_asynchronous_copies(programs):
    gemms = [p for p in programs if p["kernel"] in ("gate_up_silu", "down", "_attend")]
    assert {p["kernel"] for p in gemms} == {"gate_up_silu", "down", "_attend"}
    for p in gemms:
        assert p["wgmma"] > 0, p
        assert p["mma"] == 0, p
        assert p["cp_async_16"] > 0, p


def test_small_token_counts_leave_room_for_two_programs_per_sm(programs):
    for p in programs:
        if p["kernel"] in ("gate_up_silu", "down") and p["constants"]["block_m"] == 16:
            assert 2 * (p["shared"] + 1024) <= 228 * 1024, p
