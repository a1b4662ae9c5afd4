"""Fleets: what failures, autoscaling, disaggregation, mixed GPUs and sessions do, and what none of them may break."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from sdsim.errors import ScenarioError, TraceError
from sdsim.gpus import load_gpu
from sdsim.models import load_model
from sdsim.network import Network, load_network
from sdsim.scenario import load_scenario, scenario_from_mapping
from sdsim.simulation import make_system, simulate
from tests.invariants import run_checked
from tests.test_conservation import conserved

BASE = {
    "model": "qwen3-30b-a3b",
    "gpus": "1 x h200",
    "replicas": 3,
    "replica": {"max_num_seqs": 16},
    "workload": {"kind": "poisson", "rate": 40, "limit": 120, "lengths": {"prompt": 400, "output": 40}},
    "seed": 1,
}
DRAFTING = {
    "draft": {"kind": "model", "model": "qwen2-0.5b"},
    "policy": {"kind": "fixed", "length": 3},
    "acceptance": {"kind": "iid", "rate": 0.7},
}
SESSIONS = {"kind": "sessions", "rate": 6, "turns": 4, "think": "500ms", "limit": 120}
SESSIONS |= {"lengths": {"prompt": 300, "output": 40}}
PREFILL = {"role": "prefill", "gpus": "1 x h200"}
ALONE = {"replicas": 1, "workload": BASE["workload"] | {"limit": 1}}
SLOWER = {"gpus": "1 x h100", "replica": {"max_num_seqs": 5}}


def run(blocks=None, **keys):
    result, seen = run_checked(lambda: simulate(scenario_from_mapping(BASE | keys)), blocks)
    conserved(result)
    return result, seen


def same(one, other):
    for table in ("requests", "steps"):
        for name, column in getattr(one, table).items():
            assert column.tobytes() == getattr(other, table)[name].tobytes(), name


@pytest.mark.parametrize(
    "nothing",
    [
        {"replica": {"max_num_seqs": 16, "prefix_cache": True}},
        {"failures": [{"replica": 0, "at": "1h"}]},
        {"autoscale": {"min": 3, "load": 1}},
    ],
)
def test_a_fleet_in_which_nothing_happens_is_no_fleet(nothing):
    plain, fleet = simulate(scenario_from_mapping(BASE | DRAFTING)), run(**DRAFTING, **nothing)[0]
    same(plain, fleet)


@st.composite
def fleets(draw):
    """Return a scenario with a few of everything."""
    keys = {"replicas": draw(st.integers(1, 3)), "seed": draw(st.integers(0, 99))}
    cached = draw(st.booleans())
    keys["replica"] = {"max_num_seqs": draw(st.integers(1, 12)), "max_num_batched_tokens": draw(st.integers(16, 900))}
    keys["replica"]["prefix_cache"] = cached
    keys["pools"] = draw(st.lists(st.sampled_from([PREFILL, SLOWER]), max_size=2))
    count = keys["replicas"] + len(keys["pools"])
    failure = st.fixed_dictionaries(
        {"replica": st.integers(0, count - 1), "at": st.floats(0, 3), "for": st.floats(0.01, 2)}
    )
    keys["failures"] = draw(st.lists(failure, max_size=4))
    if draw(st.booleans()):
        keys["autoscale"] = {"min": 1, "load": draw(st.integers(1, 9)), "every": "300ms", "start": "200ms"}
    router = st.sampled_from(["least_loaded", "prefix_aware", "power_of_two", "round_robin"])
    keys["router"] = {"kind": draw(router), "refresh": draw(st.sampled_from([0, 0.5]))}
    keys["workload"] = draw(st.sampled_from([BASE["workload"], SESSIONS]))
    keys["workload"] = keys["workload"] | {"limit": 40}
    if keys["workload"]["kind"] == "sessions":
        keys["workload"]["context"] = 2000
    keys["until"] = draw(st.sampled_from([None, 1.5]))
    return keys | (DRAFTING if draw(st.booleans()) else {})


@settings(max_examples=30, suppress_health_check=[HealthCheck.too_slow])
@example(  # a replica is switched off after the last request has finished
    keys={
        "replicas": 2,
        "seed": 0,
        "replica": {"max_num_seqs": 5, "max_num_batched_tokens": 16},
        "pools": [{"role": "prefill", "gpus": "1 x h200"}],
        "failures": [{"replica": 0, "at": 1.0, "for": 1.0}],
        "autoscale": {"min": 1, "load": 1, "every": "300ms", "start": "200ms"},
        "workload": {"kind": "poisson", "rate": 40, "limit": 40, "lengths": {"prompt": 400, "output": 40}},
        "until": None,
    },
    blocks=150,
)
@given(keys=fleets(), blocks=st.integers(150, 400))
def test_random_fleets_conserve(keys, blocks):
    result, _ = run(blocks, **keys)
    if keys["until"] is None:
        assert result.summary["requests"] == {"offered": 40, "finished": 40, "unfinished": 0}
    if scenario_from_mapping(BASE | keys).is_fleet:
        cards = keys["replicas"] + len(keys["pools"])
        assert result.summary["fleet"]["gpu_seconds"] <= cards * result.summary["simulated_s"] * (1 + 1e-9)


def test_the_same_seed_gives_the_same_fleet():
    keys = {"failures": [{"replica": 1, "at": "1s", "for": "1s"}], "pools": [PREFILL], "workload": SESSIONS}
    same(run(**keys)[0], run(**keys)[0])


def test_a_failure_loses_the_step_and_the_kv_but_nothing_emitted():
    plain = simulate(scenario_from_mapping(BASE | ALONE))
    ends = plain.steps["start_s"] + plain.steps["seconds"]
    at = float((ends[9] + ends[10]) / 2)
    result, _ = run(**ALONE, failures=[{"replica": 0, "at": at, "for": "2s"}])
    steps = result.steps
    after = steps["start_s"] >= at
    assert steps["start_s"][~after].tobytes() == plain.steps["start_s"][:10].tobytes(), "the eleventh left no trace"
    assert steps["start_s"][after][0] == at + 2
    assert steps["prefill_tokens"][after][0] == 400 + 10, "prompt and ten tokens emitted are computed again"
    assert result.requests["first_token_s"] == plain.requests["first_token_s"]
    assert result.requests["preemptions"] == result.summary["fleet"]["requests_lost"] == 1
    gap = (steps["start_s"] + steps["seconds"])[after][0] - ends[9]
    assert gap > 2
    assert result.summary["itl_s"]["mean"] * 39 == pytest.approx(
        float(result.requests["finish_s"][0] - result.requests["first_token_s"][0])
    )


def test_requests_of_a_failed_replica_go_to_the_others():
    result, _ = run(failures=[{"replica": 0, "at": "1s"}])
    steps = result.steps
    assert (steps["start_s"][steps["replica"] == 0] < 1).all()
    assert result.summary["fleet"]["requests_lost"] > 0


def test_nobody_is_forgotten_while_no_replica_is_up():
    everyone = [{"replica": i, "at": "1s", "for": "3s"} for i in range(3)]
    result, _ = run(failures=everyone)
    start = result.steps["start_s"]
    assert not ((start >= 1) & (start < 4)).any()
    never = [{"replica": i, "at": "1s"} for i in range(3)]
    result, _ = run(failures=never)
    assert result.summary["requests"]["unfinished"] > 0


def test_autoscaling_pays_for_what_it_starts_and_waits_for_it():
    rule = {"min": 1, "load": 8, "every": "500ms", "start": "700ms"}
    calm = BASE["workload"] | {"rate": 20}
    result, _ = run(autoscale=rule, workload=calm)
    steps, fleet = result.steps, result.summary["fleet"]
    started = [steps["start_s"][steps["replica"] == replica] for replica in (1, 2)]
    assert all(start.min() >= 0.5 + 0.7 for start in started if len(start))
    assert len(started[0])
    always, _ = run(autoscale=rule | {"min": 3}, workload=calm)
    assert always.summary["fleet"]["gpu_seconds"] == pytest.approx(3 * always.summary["simulated_s"])
    assert fleet["gpu_seconds"] < 0.8 * always.summary["fleet"]["gpu_seconds"]
    assert result.summary["ttft_s"]["p99"] > always.summary["ttft_s"]["p99"]
    rate = result.summary["output_tokens_per_s"]
    mean_gpus = fleet["gpu_seconds"] / result.summary["simulated_s"]
    assert result.summary["output_tokens_per_gpu_s"] == pytest.approx(rate / mean_gpus)


def test_replicas_are_switched_off_when_traffic_falls():
    burst = {"kind": "bursty", "rate": 1, "peak": 200, "period": "10s", "duty": 0.1, "limit": 300}
    burst["lengths"] = {"prompt": 400, "output": 40}
    result, _ = run(workload=burst, autoscale={"min": 1, "load": 4, "every": "100ms", "start": "0s"}, until="10s")
    steps = result.steps
    assert set(steps["replica"]) == {0, 1, 2}
    late = steps["start_s"] > 8
    assert set(steps["replica"][late]) == {0}


@pytest.mark.parametrize("sd", [{}, DRAFTING], ids=["off", "fixed-3"])
def test_disaggregation_computes_prompts_here_and_tokens_there(sd):
    result, _ = run(pools=[PREFILL], **sd)
    steps, requests = result.steps, result.requests
    here = steps["replica"] == 3
    assert not steps["rows"][here].any()
    assert steps["prefill_tokens"][here].sum() == requests["prompt_tokens"].sum()
    assert steps["prefill_tokens"][~here].sum() == len(requests["request_id"]), "each starts by its one new token"
    assert (requests["replica"] < 3).all()
    assert result.summary["fleet"]["kv_transfers"] == len(requests["request_id"])


def test_kv_travels_at_the_rate_of_its_links():
    """One request: the second token comes a transfer and a step after the first."""
    result, _ = run(**ALONE, pools=[PREFILL])
    steps = result.steps
    first, second = steps["start_s"][steps["replica"] == 1], steps["start_s"][steps["replica"] == 0]
    model = load_model("qwen3-30b-a3b")
    network = Network([load_gpu("h200")] * 2, load_network("hgx"))
    seconds = network.transfer(400 * model.kv_bytes_per_token, [1], [0])
    done = first[0] + steps["seconds"][steps["replica"] == 1][0]
    assert second[0] == pytest.approx(done + seconds, abs=1e-12)
    assert result.summary["fleet"]["kv_transfer_mean_s"] == pytest.approx(seconds)
    assert seconds > 1e-4


def test_a_single_token_is_never_handed_on():
    lengths = {"prompt": 400, "output": 1}
    result, _ = run(pools=[PREFILL], workload=BASE["workload"] | {"lengths": lengths})
    assert result.summary["fleet"]["kv_transfers"] == 0
    assert (result.requests["replica"] == 3).all()


def test_mixed_gpus_step_at_their_own_pace_and_say_what_they_rest_on():
    result, _ = run(replicas=1, pools=[{"gpus": "1 x a100"}], router="round_robin")
    steps = result.steps
    mean = [steps["seconds"][(steps["replica"] == i) & (steps["rows"] > 4)].mean() for i in range(2)]
    assert mean[1] > 1.5 * mean[0]
    quality = result.summary["data_quality"]
    assert 0.3 < quality["extrapolated"] < 1, "the A100 runs on its roofline"


def test_turns_wait_for_answers_and_carry_them():
    result, _ = run(workload=SESSIONS)
    order = np.argsort(result.requests["request_id"])
    r = {name: column[order] for name, column in result.requests.items()}
    later = r["prompt_tokens"] != 300
    for i in np.flatnonzero(later):
        assert r["prompt_tokens"][i] == r["prompt_tokens"][i - 1] + 40 + 300
        assert r["arrival_s"][i] > r["finish_s"][i - 1]
    assert later.any()
    waits = (r["arrival_s"][1:] - r["finish_s"][:-1])[later[1:]]
    assert waits.mean() == pytest.approx(0.5, rel=0.3)


def test_sessions_end_before_they_are_too_long():
    result, _ = run(workload=SESSIONS | {"context": 1100})
    assert result.requests["prompt_tokens"].max() == 300 + 2 * 340
    sizes = result.requests["prompt_tokens"] + result.requests["output_tokens"]
    assert sizes.max() <= 1100


def cached(**keys):
    return run(replica={"max_num_seqs": 16, "prefix_cache": True}, **keys)[0]


def test_cached_prefixes_are_not_computed_again():
    result = cached(workload=SESSIONS, replicas=1)
    reused, plain = result.summary["fleet"]["reused_tokens"], run(workload=SESSIONS, replicas=1)[0]
    assert result.steps["prefill_tokens"].sum() + reused == plain.steps["prefill_tokens"].sum()
    r = plain.requests
    order = np.argsort(r["request_id"])
    before = (r["prompt_tokens"] + r["output_tokens"] - 1)[order]
    expected = sum(b // 128 * 128 for b, p in zip(before, r["prompt_tokens"][order][1:], strict=False) if p != 300)
    assert reused == expected, "all whole blocks that the turn before stored"


def test_the_prefix_aware_router_finds_the_cache():
    found = [cached(workload=SESSIONS, router=kind).summary["fleet"] for kind in ("least_loaded", "prefix_aware")]
    assert found[1]["reused_tokens"] > 1.3 * found[0]["reused_tokens"]


def test_a_failed_replica_has_lost_its_cache():
    whole = cached(workload=SESSIONS, replicas=1)
    failed = cached(workload=SESSIONS, replicas=1, failures=[{"replica": 0, "at": "10s", "for": "10ms"}])
    assert failed.summary["fleet"]["reused_tokens"] < whole.summary["fleet"]["reused_tokens"]


def mooncake(folder, rows):
    path = folder / "trace.jsonl"
    keys = ("timestamp", "input_length", "output_length", "hash_ids")
    path.write_text("\n".join(json.dumps(dict(zip(keys, row, strict=True))) for row in rows))
    return {"kind": "trace", "format": "mooncake", "path": str(path)}


def test_mooncake_hash_ids_are_prefixes(tmp_path):
    """A minute between requests: only what was computed before counts, whole blocks, one token always computed."""
    rows = [
        (0, 1100, 5, [1, 2, 3]),
        (60_000, 1400, 5, [1, 2, 4]),  # 1,024 tokens
        (120_000, 1024, 5, [1, 2]),  # 512: the last token of 1,024 must be computed
        (180_000, 1500, 5, [9, 2, 4]),  # another beginning: nothing
        (240_000, 1500, 5, [1, 2, 4]),  # 1,024: the third block was never whole
    ]
    result = cached(workload=mooncake(tmp_path, rows), replicas=1)
    assert result.summary["fleet"]["reused_tokens"] == 1024 + 512 + 0 + 1024


def test_a_small_pool_keeps_the_latest_prefixes(tmp_path):
    rows = [(60_000 * i, 1030, 5, [10 * b, 10 * b + 1, 10 * b + 2]) for i, b in enumerate([1, 2, 1, 3, 2, 3])]
    # 140 blocks of 16 tokens hold two prefixes of 64 blocks, and a request of 66 leaves room for one
    result, _ = run(140, workload=mooncake(tmp_path, rows), replicas=1, replica={"prefix_cache": True})
    assert result.summary["fleet"]["reused_tokens"] == 2 * 1024, "1 after 2, and 3 after 2"


def test_the_cluster_of_the_example_runs():
    path = Path(__file__).parent.parent / "scenarios/cluster_1024.yaml"
    scenario = load_scenario(path, ["until=1s", "workload.rate=300/s", "policy=off"])
    cards = scenario.replicas * scenario.gpus.count + sum(pool.replicas * pool.gpus.count for pool in scenario.pools)
    assert cards == 1024
    result, _ = run_checked(lambda: simulate(scenario))
    conserved(result)
    assert result.summary["fleet"]["kv_transfers"] > 100
    assert result.summary["fleet"]["gpu_seconds"] == pytest.approx(1024 - 6 * 32)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"failures": [{"replica": 3, "at": 1}]}, "failures: found replica 3; allowed: 0 to 2"),
        ({"autoscale": {"min": 4, "load": 1}}, "autoscale: found min 4; allowed: 1 to replicas, 3"),
        ({"autoscale": {"min": 1}}, "autoscale.load"),
        ({"pools": [{"gpus": "2 x h200"}]}, "found 2 x h200; allowed: 1"),
        ({"pools": [{"gpus": "1 x h200", "role": "decode"}]}, "unknown role 'decode'"),
        ({"workload": SESSIONS | {"turns": 0.5}}, "turns"),
        ({"workload": SESSIONS | {"limit": None}}, "never ends"),
    ],
)
def test_what_cannot_be_is_refused(keys, message):
    with pytest.raises(ScenarioError, match=message):
        scenario_from_mapping(BASE | keys)


def test_bad_hash_ids_are_refused(tmp_path):
    workload = mooncake(tmp_path, [(0, 10, 1, [1]), (1, 10, 1, ["a"])])
    with pytest.raises(TraceError, match=r"trace.jsonl:2: .*hash_ids is \['a'\]; a list of whole numbers"):
        simulate(scenario_from_mapping(BASE | {"workload": workload}))


def test_a_resolved_fleet_is_the_same_fleet():
    keys = {"failures": [{"replica": 0, "at": 1, "for": 2}], "pools": [PREFILL], "autoscale": {"load": 3}}
    scenario = scenario_from_mapping(BASE | keys)
    assert scenario_from_mapping(scenario.resolved()) == scenario
    assert make_system(scenario).target.name == "qwen3-30b-a3b"
