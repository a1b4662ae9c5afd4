"""GPUs against their datasheets and the H200's measured ceilings."""

from dataclasses import fields

import pytest

from sdsim.errors import ScenarioError
from sdsim.gpus import Gpu, check_gpu_name, gpu_names, load_gpu

DATASHEETS = {
    "a100": (2.039e12, 312e12, 600e9),
    "a800": (2.039e12, 312e12, 400e9),
    "b200": (7.7e12, 2250e12, 1800e9),
    "h100": (3.35e12, 989e12, 900e9),
    "h200": (4.8e12, 989e12, 900e9),
    "h800": (3.35e12, 989e12, 400e9),
    "l40": (0.864e12, 181.05e12, 64e9),
}


def test_every_gpu_of_the_datasheets_ships() -> None:
    assert gpu_names() == sorted(DATASHEETS)


@pytest.mark.parametrize("name", DATASHEETS)
def test_rates_are_the_datasheets(name: str) -> None:
    gpu = load_gpu(name)
    assert (gpu.bandwidth, gpu.flops_bf16, 2 * gpu.link_bandwidth) == DATASHEETS[name]


@pytest.mark.parametrize("name", DATASHEETS)
def test_figures_are_numbers_of_a_sane_size(name: str) -> None:
    gpu = load_gpu(name)
    for field in fields(Gpu):
        value = getattr(gpu, field.name)
        assert isinstance(value, str if field.name == "name" else int if field.type == "int" else float)
    assert 40e9 < gpu.memory_bytes < 200e9
    assert 0.7 < gpu.read_fraction < 1
    assert 0.7 < gpu.flops_fraction < 1
    assert 1e-6 < gpu.launch_s < 1e-5
    assert 1e-6 < gpu.link_latency_s < 1e-4
    assert gpu.flops_fp8 == 0 or gpu.flops_fp8 == pytest.approx(2 * gpu.flops_bf16, rel=0.01)


def test_h200_reaches_its_measured_ceilings() -> None:
    gpu = load_gpu("h200")
    assert gpu.bandwidth * gpu.read_fraction == pytest.approx(4.4e12, rel=0.001)
    assert gpu.flops_bf16 * gpu.flops_fraction == pytest.approx(790e12, rel=0.001)
    assert gpu.memory_bytes == 143_771 * 2**20


def test_a_name_is_found_in_any_case() -> None:
    assert load_gpu(" H200 ") is load_gpu("h200")
    check_gpu_name("L40")


@pytest.mark.parametrize("name", ["h999", "", "h2OO", "../gpus"])
def test_an_unknown_name_is_refused_with_what_is_known(name: str) -> None:
    with pytest.raises(ScenarioError, match="unknown GPU") as caught:
        check_gpu_name(name)
    assert repr(name) in str(caught.value)
    assert "a100, a800, b200" in str(caught.value)


def test_a_slip_is_answered_with_the_nearest_name() -> None:
    with pytest.raises(ScenarioError, match="did you mean h200"):
        load_gpu("hh200")
