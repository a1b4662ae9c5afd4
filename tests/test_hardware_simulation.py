"""Scenarios with their steps run by an executor, beside the simulation of the same."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest

from tests.hardware_models import DEVICE, write_configs

# isort: split
pytest.importorskip("pydantic", reason="runs need pydantic and numba, which come with sdsim")
pytest.importorskip("numba", reason="runs need pydantic and numba, which come with sdsim")

from sdsim.errors import ScenarioError
from sdsim.hardware import simulation
from sdsim.hardware.executor import Executor, StepTime
from sdsim.hardware.simulation import make_executor, run_on_gpu
from sdsim.scenario import scenario_from_mapping
from sdsim.simulation import make_system, simulate


@pytest.fixture
def scenario(tmp_path):
    """Return what makes a scenario of tiny models; a few megabytes of KV, so that it fits anywhere."""
    write_configs(tmp_path)

    def make(**keys):
        fixed = {
            "model": "moe",
            "draft": {"kind": "model", "model": "draft"},
            "gpus": "1 x h200",
            "replica": {"max_num_seqs": 4, "max_num_batched_tokens": 16, "memory_fraction": 2e-5},
            "workload": {"kind": "poisson", "rate": "1000/s", "limit": 3, "lengths": {"prompt": 20, "output": 4}},
            "acceptance": {"kind": "iid", "rate": 0.7},
            "policy": {"kind": "fixed", "length": 2},
            "seed": 3,
        }
        return scenario_from_mapping(fixed | keys, tmp_path)

    return make


@pytest.fixture
def priced(monkeypatch):
    """Executors that take as long as the simulation says, without running anything."""

    class Priced:
        def __init__(self, scenario, policies=None):
            system = make_system(scenario, "ideal")
            self.sizes = simulation._sizes(scenario, system, list(policies or scenario.policies))
            self.latency, self.steps = system.latency(), 0
            self.pair = self.graphs = SimpleNamespace(device="cpu", captured=4, seconds=2.0)

        def step(self, shape):
            self.steps += 1
            experts = np.array([self.steps % 7, 1 + self.steps % 7])
            return StepTime(self.latency.seconds(shape), 0.0, 0.0, 0.5, experts)

    monkeypatch.setattr(simulation, "make_executor", Priced)
    return Priced


BUSY = {
    "workload": {"kind": "poisson", "rate": "200/s", "limit": 60, "lengths": {"prompt": 30, "output": 20}},
    "replica": {"max_num_seqs": 8, "max_num_batched_tokens": 64, "memory_fraction": 3e-5},
}


@pytest.mark.parametrize(
    "keys",
    [
        {},
        BUSY,
        BUSY | {"replicas": 2, "router": "round_robin"},
        BUSY | {"policy": "off"},
        BUSY | {"policy": {"kind": "goodput"}, "until": 0.1},
    ],
    ids=["few", "busy", "replicas", "off", "goodput"],
)
def test_steps_of_the_simulated_length_give_the_simulated_run(scenario, priced, keys):
    found, expected = run_on_gpu(scenario(**keys)), simulate(scenario(**keys))
    for name, column in expected.requests.items():
        assert np.array_equal(found.requests[name], column, equal_nan=True), name
    for name, column in expected.steps.items():
        assert name == "distinct_experts" or np.array_equal(found.steps[name], column), name
    same = ("requests", "ttft_s", "tpot_s", "speculation", "goodput_rps", "preemptions", "policy")
    assert {k: found.summary[k] for k in same} == {k: expected.summary[k] for k in same}


def test_experts_and_times_are_those_counted(scenario, priced):
    found = run_on_gpu(scenario(**BUSY))
    steps = np.arange(1, len(found.steps["step"]) + 1)
    assert found.steps["distinct_experts"].tolist() == (steps % 7 + 0.5).tolist()
    assert found.summary["moe"]["distinct_experts_mean"] == pytest.approx((steps % 7 + 0.5).mean())
    assert found.summary["engine"] == "gpu"
    assert found.summary["hardware"]["host_s"] == 0.5 * len(steps)
    assert found.summary["hardware"]["graphs"] == 0  # captured before this run
    assert found.summary["hardware"]["gpu_s"] == pytest.approx(found.steps["seconds"].sum())
    assert found.summary["data_quality"]["measured"] == 1.0


def test_seconds_end_the_run(scenario, priced):
    short = run_on_gpu(scenario(**BUSY), seconds=0.05)
    assert short.requests.keys() == simulate(scenario(**BUSY, until=0.05)).requests.keys()
    assert short.summary["requests"] == simulate(scenario(**BUSY, until=0.05)).summary["requests"]
    assert run_on_gpu(scenario(**BUSY, until=0.02), seconds=0.05).summary["simulated_s"] == 0.02


def test_an_executor_must_have_the_room_that_the_run_needs(scenario, priced):
    small = priced(scenario())
    with pytest.raises(ValueError, match="the run needs"):
        run_on_gpu(scenario(**BUSY), executor=small)


@pytest.mark.skipif(DEVICE == "cuda", reason="the GPU's clock is not the wall's")
def test_a_run_on_real_kernels(scenario, tmp_path):
    given = scenario()
    executor = make_executor(given)
    assert isinstance(executor, Executor)
    found, expected = run_on_gpu(given, executor=executor), simulate(given)
    asked = ("request_id", "prompt_tokens", "output_tokens", "generated_tokens")
    order = [np.argsort(r.requests["request_id"]) for r in (found, expected)]
    for name in asked:
        assert np.array_equal(found.requests[name][order[0]], expected.requests[name][order[1]])
    assert found.summary["requests"]["finished"] == 3
    assert (found.steps["seconds"] > 0).all()
    assert found.summary["simulated_s"] >= found.steps["seconds"].sum()
    assert 2 <= found.summary["moe"]["distinct_experts_mean"] <= 8
    found.write(tmp_path)
    assert json.loads((tmp_path / "summary.json").read_text())["hardware"]["graphs"] > 0


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"gpus": "2 x h200", "replica": {"tensor_parallel": 2}}, "gpus: found 2 x h200; allowed on the GPU: 1"),
        ({"draft": "eagle3"}, "draft.kind: found eagle3; allowed on the GPU: model, ngram"),
        ({"routing": {"kind": "skewed", "alpha": 1.2}}, "routing: found skewed; allowed on the GPU: uniform"),
        ({"routing": {"kind": "correlated", "within": 0.5}}, "routing: found correlated; allowed"),
    ],
)
def test_what_a_gpu_cannot_run_is_refused(scenario, keys, message):
    with pytest.raises(ScenarioError, match=message):
        make_executor(scenario(**keys))
