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
        # 3.6, which GPU machines have, spills two words at most; 3.9 keeps some of a 512-wide accumulator's epilogue
        allowed = 144 if p["kernel"] in ("_attend_latent", "attend_latent", "attend_wide") else 0
        assert p["local"] + p["stack"] <= allowed, p


def test_matrix_products_use_wgmma_and_wide_asynchronous_copies(programs):
    names = {"gate_up_silu", "down", "project", "_attend", "_attend_latent"}
    gemms = [p for p in programs if p["kernel"] in names]
    assert {p["kernel"] for p in gemms} == names
    assert {p["constants"].get("fp4") for p in gemms} == {None, False, True}
    for p in gemms:
        assert p["wgmma"] > 0, p
        assert p["mma"] == 0, p
        assert p["cp_async_16"] > 0, p


def test_latents_on_hopper_come_by_tma_into_two_pages(programs):
    found = [p for p in programs if p["kernel"] in ("attend_latent", "attend_wide")]
    assert {(p["kernel"], p["constants"]["block_r"], p["constants"]["one_split"]) for p in found} == {
        (name, rows, whole)
        for name, rows in (("attend_latent", 16), ("attend_latent", 32), ("attend_wide", 64))
        for whole in (True, False)
    }
    for p in found:
        assert p["tma"] > 0, p
        assert p["wgmma"] > 0, p
        assert p["mma"] == 0, p
        assert p["shared"] > 2 * 64 * 576 * 2, p


def test_small_token_counts_leave_room_for_two_programs_per_sm(programs):
    for p in programs:
        if p["kernel"] in ("gate_up_silu", "down", "project") and p["constants"]["block_m"] == 16:
            assert 2 * (p["shared"] + 1024) <= 228 * 1024, p


def test_scales_and_latents_are_copied_ahead(programs):
    for p in programs:
        if p["constants"].get("fp4"):  # weights and activations by 16 bytes, scales by 4
            assert p["cp_async_4"] >= 3, p
        if p["kernel"] == "_attend_latent":
            assert p["shared"] > 3 * 32 * 576 * 2, p


def test_products_of_widened_weights_end_before_the_next_are_widened(programs):
    found = [p for p in programs if p["constants"].get("fp4")]
    assert found
    for p in found:
        assert p["in_flight"] == 0, p
