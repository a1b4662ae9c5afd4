"""Policies inside vLLM: the adapter on a stand-in for its scheduler, and on the real ones where vLLM is installed.

The real ones run on a CPU with the worker faked, and need vLLM 0.24 or later importable, in an environment of its own:
python -m pip install vllm pytest hypothesis; PYTHONPATH=. python -m pytest tests/test_adapters_vllm.py
"""

from __future__ import annotations

import json
import logging
import warnings
from collections import defaultdict
from types import SimpleNamespace

import numpy as np
import pytest

import sdsim.adapters.vllm as adapter
from sdsim.adapters.guard import Guard
from sdsim.adapters.settings import Settings, load_settings
from sdsim.engine_config import ranges, read_vllm_ranges, vllm_speculative_config
from sdsim.errors import PolicyError
from sdsim.policy import Plan, learn_nothing
from tests.real_vllm import (
    drafts,
    import_vllm,
    make_request,
    make_scheduler,
    speculative_config,
    worker_output,
    write_model,
)

TABLE = [[1, 3, 4], [4, 6, 1], [7, 16, 0]]
MAX_NUM_SEQS = 16
LONGEST = 4


class Recording:
    """Plans by a rule, and keeps what it was told."""

    lengths = (0, 1, 4)

    def __init__(self, rule=lambda seen: 4, learns=lambda outcome: None):
        self.rule, self.learns, self.seen, self.outcomes = rule, learns, [], []

    def plan(self, observation, /):
        arrays = {k: v.copy() for k, v in observation._asdict().items() if isinstance(v, np.ndarray)}
        self.seen.append(observation._replace(**arrays))
        length = self.rule(observation)
        return Plan(length, drafter="on" if length else "warm")

    def learn(self, outcome, /):
        self.outcomes.append(outcome)
        self.learns(outcome)


class Steady:
    """Plans the same length always, and learns nothing."""

    lengths = (0, 4)

    def __init__(self, length=4):
        self.length = length

    def plan(self, observation, /):
        return Plan(self.length, drafter="on" if self.length else "warm")

    learn = learn_nothing


@pytest.fixture
def chosen(monkeypatch):
    """Let the adapter run the policy returned, whatever the settings say."""

    def choose(policy, **settings):
        monkeypatch.setattr(adapter, "load_settings", lambda given, fillable: Settings(policy, **settings))
        return policy

    return choose


# --- the guard between a policy and its engine ---


def guard(policy, lengths=(0, 1, 4), **settings):
    return Guard(Settings(policy, **settings), lengths, logging.getLogger("test.sdsim"))


def observation(rows=2):
    from sdsim.testing import observations

    return next(o for o in observations((0, 1, 4)) if o.batch == rows)


@pytest.mark.parametrize(("planned", "run"), [(0, 0), (1, 1), (2, 1), (3, 1), (4, 4), (7, 4), (np.int64(4), 4)])
def test_a_length_without_graphs_becomes_the_next_shorter_one(planned, run):
    assert guard(Steady(planned)).plan(observation()) == run


def test_where_zero_has_no_graphs_the_shortest_length_stands_in():
    assert guard(Steady(0), lengths=(2, 4)).plan(observation()) == 2


@pytest.mark.parametrize("planned", [-1, 1.5, True, None, "3"])
def test_a_plan_that_is_none_ends_the_policy(planned, caplog):
    g = guard(Steady(planned))
    assert g.plan(observation()) is None
    assert g.plan(observation()) is None
    assert len([r for r in caplog.records if r.levelno == logging.ERROR]) == 1


def test_after_many_steps_without_drafts_one_drafts_if_the_policy_learns():
    learner = guard(Recording(lambda seen: 0), probe=3)
    assert [learner.plan(observation()) for _ in range(9)] == [0, 0, 0, 1, 0, 0, 0, 1, 0]
    unlearning = guard(Steady(0), probe=3)
    assert {unlearning.plan(observation()) for _ in range(9)} == {0}
    never = guard(Recording(lambda seen: 0), probe=0)
    assert {never.plan(observation()) for _ in range(9)} == {0}


def test_steps_without_rows_do_not_count_towards_a_probe():
    g = guard(Recording(lambda seen: 0), probe=1)
    assert [g.plan(observation(rows)) for rows in (2, 0, 0, 2)] == [0, 0, 0, 1]


def test_what_the_engine_leaves_undone_is_said_once(caplog):
    class Trims(Steady):
        def plan(self, observation, /):
            return Plan(4, verify_lengths=np.zeros(2, dtype=np.int64), prefill_budget=100)

    g = guard(Trims())
    assert [g.plan(observation()) for _ in range(5)] == [4] * 5
    said = [r.message for r in caplog.records if r.levelno == logging.WARNING]
    assert len(said) == 2
    assert "trims" in said[0]
    assert "prompt" in said[1]


# --- settings ---


def settings(given, fillable=adapter.FILLABLE):
    return load_settings(given, fillable)


def test_settings_come_from_the_engine_or_the_environment(monkeypatch, tmp_path):
    wanted = {"policy": {"kind": "fixed", "length": 3}, "probe": 7}
    file = tmp_path / "policy.json"
    file.write_text(json.dumps(wanted))
    found = [settings(wanted)]
    for value in (json.dumps(wanted), str(file)):
        monkeypatch.setenv("SDSIM_POLICY", value)
        found.append(settings(None))
    assert [(s.policy.label, s.probe) for s in found] == [("fixed-3", 7)] * 3


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "allowed: an object with a policy"),
        ({"policy": "fixed"}, "parameter 'length' is missing"),
        ({"policy": "fixd"}, "did you mean fixed"),
        ({"policy": {"length": 3}}, "a mapping with a kind"),
        ({"policy": "off", "prics": "x"}, "did you mean prices"),
        ({"policy": "off", "probe": -1}, "probe -1"),
        ({"policy": "off", "probe": True}, "probe True"),
        ({"policy": "off", "tpot": "50ms"}, "tpot '50ms'"),
        ({"policy": "off", "tpot": 0}, "tpot 0"),
        ({"policy": "goodput"}, 'add "prices"'),
        ({"policy": "goodput", "prices": "/nowhere/prices.json"}, "No such file"),
        ({"policy": "tetris"}, "needs confidence"),
        ({"policy": "slos_serve", "prices": "PRICES"}, "set tpot"),
        ({"policy": {"kind": "goodput", "lengths": [0, 9]}, "prices": "PRICES"}, "policy lengths [9]"),
    ],
)
def test_wrong_settings_are_one_clear_error(given, says, prices_file):
    if given.get("prices") == "PRICES":
        given = given | {"prices": str(prices_file)}
    with pytest.raises(PolicyError) as error:
        settings(given)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_no_settings_at_all_says_both_ways(monkeypatch):
    monkeypatch.delenv("SDSIM_POLICY", raising=False)
    with pytest.raises(PolicyError, match="set SDSIM_POLICY"):
        settings(None)


def test_a_policy_may_have_slack_once_there_is_a_target(prices_file):
    given = {"policy": "slos_serve", "prices": str(prices_file), "tpot": 0.05}
    assert settings(given).tpot_s == 0.05


def test_a_policy_may_do_without_what_the_engine_does_not_know(prices_file):
    assert settings({"policy": {"kind": "auto", "lengths": [0, 1, 4]}, "prices": str(prices_file)}).policy.needs


@pytest.fixture
def prices_file(tmp_path):
    from sdsim.adapters.prices import tabulate
    from sdsim.policies import FlatCosts

    grid = {"rows": [1, 8], "drafts_per_row": [0, 4], "draft_lengths": [0, 1, 2, 3, 4], "contexts": [0, 100]}
    file = tmp_path / "prices.json"
    file.write_text(json.dumps(tabulate(FlatCosts(), grid | {"prefill_tokens": [0]}).content()))
    return file


# --- a scheduler as small as the adapter's reading of vLLM's ---


class Stand:
    """What the adapter reads of a vLLM scheduler, with nothing behind it."""

    def __init__(self, lookup=(0, 4, 4, 1, 0), speculative=True, additional=None):
        config = SimpleNamespace(
            speculative_config=object() if speculative else None, additional_config=additional or {}
        )
        self.vllm_config, self.dynamic_sd_lookup = config, None if lookup is None else list(lookup)
        self.requests = {}
        pool = SimpleNamespace(get_num_free_blocks=lambda: 77)
        self.kv_cache_manager = SimpleNamespace(block_pool=pool)
        self.scheduled = []

    def get_request_counts(self):
        return len(self.requests), 5

    def schedule(self):
        return None

    def _update_after_schedule(self, output):
        self.scheduled.append(output.num_spec_tokens_to_schedule)

    def update_from_output(self, output, result):
        return "outputs"


class Scheduler(adapter.PolicyMixin, Stand):
    pass


def request(prompt=10, generated=2, stored=None):
    stored = prompt + generated - 1 if stored is None else stored
    return SimpleNamespace(num_prompt_tokens=prompt, num_output_tokens=generated, num_computed_tokens=stored)


def output(tokens, drafts=None, finished=(), default=4):
    return SimpleNamespace(
        num_scheduled_tokens=tokens,
        total_num_scheduled_tokens=sum(tokens.values()),
        scheduled_spec_decode_tokens={k: [-1] * v for k, v in (drafts or {}).items()},
        finished_req_ids=set(finished),
        num_spec_tokens_to_schedule=default,
        num_invalid_spec_tokens=None,
    )


def result(sampled):
    return SimpleNamespace(
        req_id_to_index={k: i for i, k in enumerate(sampled)}, sampled_token_ids=list(sampled.values())
    )


def test_rows_are_those_whose_prompt_is_stored(chosen):
    policy = chosen(Recording())
    s = Scheduler()
    s.requests = {
        "a": request(10, 3),
        "new": request(50, 0, stored=0),
        "b": request(20, 1),
        "chunk": request(50, 0, stored=32),
        "one": request(1, 0, stored=0),
        "again": request(10, 30, stored=16),
    }
    s._update_after_schedule(output({"a": 5, "new": 32, "b": 1, "chunk": 18, "one": 1, "again": 24}, {"a": 4}))
    seen = policy.seen[0]
    assert seen.context_lengths.tolist() == [12, 20]
    assert seen.generated.tolist() == [3, 1]
    assert seen.pending.tolist() == [4, 0]
    assert (seen.prefill_tokens, seen.prefill_requests) == (32 + 18 + 1 + 24, 4)
    assert (seen.waiting, seen.kv_free, seen.draft_lengths, seen.step) == (5, 77, (0, 1, 4), 0)
    assert len(set(seen.request_ids.tolist())) == 2


def test_outcomes_are_matched_to_their_steps_when_late_lost_or_stopped(chosen):
    policy = chosen(Recording())
    s = Scheduler()
    s.requests = {"a": request(), "b": request()}
    outs = [output({"a": 5, "b": 5}, {"a": 4, "b": 4}) for _ in range(4)]
    for out in outs[:2]:
        s._update_after_schedule(out)
    assert s.update_from_output(outs[0], result({"b": [1, 2, 3], "a": [7]})) == "outputs"
    s._update_after_schedule(outs[2])
    s._update_after_schedule(outs[3])
    s.update_from_output(outs[2], result({"a": [], "b": [1, 2, 3, 4, 5]}))
    s.update_from_output(outs[3], result({"b": [1]}))
    assert [o.step for o in policy.outcomes] == [0, 2, 3]
    first, third, last = policy.outcomes
    a, b = policy.seen[0].request_ids.tolist()
    assert (first.request_ids.tolist(), first.accepted.tolist(), first.verified.tolist()) == ([a, b], [0, 2], [4, 4])
    assert (third.request_ids.tolist(), third.accepted.tolist()) == ([b], [4])
    assert (last.request_ids.tolist(), last.accepted.tolist()) == ([b], [0])
    assert all(o.seconds > 0 for o in policy.outcomes)


def test_a_step_without_tokens_disturbs_no_outcome(chosen):
    policy = chosen(Recording())
    s = Scheduler()
    s.requests = {"a": request()}
    full, empty = output({"a": 5}, {"a": 4}), output({})
    s._update_after_schedule(empty)
    s._update_after_schedule(full)
    s.update_from_output(empty, result({}))
    s.update_from_output(full, result({"a": [1, 2, 3]}))
    assert [(o.step, o.accepted.tolist()) for o in policy.outcomes] == [(0, [2])]


def test_drafts_that_the_grammar_refused_were_not_verified(chosen):
    policy = chosen(Recording())
    s = Scheduler()
    s.requests = {"a": request()}
    out = output({"a": 5}, {"a": 4})
    s._update_after_schedule(out)
    out.num_invalid_spec_tokens = {"a": 3}
    s.update_from_output(out, result({"a": [1, 2]}))
    assert (policy.outcomes[0].verified.tolist(), policy.outcomes[0].accepted.tolist()) == ([1], [1])


def test_requests_keep_their_numbers_until_they_finish(chosen):
    policy = chosen(Recording())
    s = Scheduler()
    s.requests = {"a": request(), "b": request()}
    s._update_after_schedule(output({"a": 1, "b": 1}))
    s._update_after_schedule(output({"b": 1}))
    s._update_after_schedule(output({"b": 1, "a": 1}, finished=["a"]))
    first, second, third = (seen.request_ids.tolist() for seen in policy.seen)
    assert second == first[1:]
    assert third[0] == second[0]
    assert third[1] not in first


def test_slack_grows_with_tokens_and_shrinks_with_time(chosen):
    class Needs(Recording):
        needs = frozenset({"slo_slack"})

    policy = chosen(Needs(), tpot_s=0.5)
    s = Scheduler()
    s.requests = {"a": request(10, 1)}
    for began, generated in ((100.0, 1), (100.2, 3), (102.0, 4)):
        s.sdsim.began = began
        s.requests["a"].num_output_tokens = generated
        s._update_after_schedule(output({"a": 1}))
    slacks = [seen.slo_slack.tolist()[0] for seen in policy.seen]
    assert slacks == pytest.approx([0.5, 1.5 - 0.2, 2.0 - 2.0])


@pytest.mark.parametrize("where", ["plan", "learn", "scheduler", "output"])
def test_a_fault_is_logged_once_and_vllm_decides_from_then_on(chosen, caplog, where):
    def broken(_):
        raise ZeroDivisionError("by zero")

    policy = chosen(Recording(broken if where == "plan" else lambda seen: 1, broken if where == "learn" else print))
    s = Scheduler()
    s.requests = {"a": request()}
    if where == "scheduler":
        s.requests = {"a": SimpleNamespace()}
    for _ in range(3):
        out = output({"a": 5}, {"a": 4}, default=4)
        s._update_after_schedule(out)
        assert s.update_from_output(out, None if where == "output" else result({"a": [1, 2]})) == "outputs"
    assert s.scheduled == ([4, 4, 4] if where in ("plan", "scheduler") else [1, 4, 4])
    assert len(policy.seen) == (0 if where == "scheduler" else 1)
    errors = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert len(errors) == 1
    assert "vllm.sdsim" in errors[0].name


@pytest.mark.parametrize(
    ("stand", "says"),
    [({"speculative": False}, "without a drafter"), ({"lookup": None}, "num_speculative_tokens_per_batch_size")],
)
def test_an_engine_that_cannot_run_a_policy_does_not_start(stand, says):
    with pytest.raises(PolicyError, match=says):
        Scheduler(**stand)


def test_settings_are_taken_from_the_additional_config():
    s = Scheduler(additional={"sdsim": {"policy": {"kind": "fixed", "length": 1}}})
    s.requests = {"a": request()}
    s._update_after_schedule(output({"a": 1}))
    assert s.scheduled == [1]


def test_without_vllm_the_module_loads_and_a_wrong_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="Schedler"):
        _ = adapter.Schedler


# --- vLLM's own schedulers ---


class FakeWorker:
    """Runs steps by a rule: drafts as many tokens as it is asked for, and accepts half of those it verifies."""

    def __init__(self):
        self.steps = []

    def run(self, scheduled):
        names = list(scheduled.num_scheduled_tokens)
        verified = {name: len(drafts) for name, drafts in scheduled.scheduled_spec_decode_tokens.items()}
        self.steps.append((len(names), verified, scheduled.num_spec_tokens_to_schedule))
        return worker_output(names, [[5] * (1 + verified.get(name, 0) // 2) for name in names])


class Engine:
    """vLLM's scheduler, its requests and a faked worker, stepped as `EngineCore` does."""

    def __init__(self, scheduler, lag):
        self.scheduler, self.worker, self.lag = scheduler, FakeWorker(), lag
        self.queue, self.sent = [], 0

    def arrive(self, count):
        for _ in range(count):
            self.scheduler.add_request(make_request(str(self.sent), prompt=20, output=60))
            self.sent += 1

    def step(self):
        scheduled = self.scheduler.schedule()
        self.queue.append((scheduled, self.worker.run(scheduled)))
        if len(self.queue) > self.lag:
            done, result = self.queue.pop(0)
            self.scheduler.update_from_output(done, result)
            if not self.lag and done.num_spec_tokens_to_schedule:
                self.scheduler.update_draft_token_ids(drafts(result.req_ids, done.num_spec_tokens_to_schedule))
        return scheduled


def speculative(model, table=TABLE):
    """Return vLLM's parsed SpeculativeConfig of *table*."""
    written = vllm_speculative_config(read_vllm_ranges(table, MAX_NUM_SEQS, LONGEST), method="draft_model", model=model)
    return speculative_config(model, **json.loads(json.dumps(written)))


@pytest.fixture
def vllm_engine(tmp_path, monkeypatch):
    """Return a maker of engines: of a kind of scheduler, with settings for the policy or none."""
    monkeypatch.setenv("VLLM_TARGET_DEVICE", "cpu")
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "ERROR")
    model = write_model(tmp_path)

    def make(kind, additional=None, blocks=1000):
        lag = int(kind == "AsyncScheduler")
        scheduler = make_scheduler(
            model, blocks, speculative(model), {"sdsim": additional} if additional else {},
            max_num_seqs=MAX_NUM_SEQS, max_num_batched_tokens=2048, async_scheduling=bool(lag),
            scheduler_cls=f"sdsim.adapters.vllm.{kind}",
        )  # fmt: skip
        return Engine(scheduler, lag)

    return make


def with_each_scheduler(test):
    """Run *test* with both of vLLM's schedulers. Slow: importing vLLM takes 10 to 20 s."""
    return pytest.mark.slow(pytest.mark.parametrize("kind", ["Scheduler", "AsyncScheduler"])(test))


pytestmark = pytest.mark.filterwarnings("ignore:::vllm", "ignore:::torch")


def traffic(engine, steps=24):
    """Step *engine* while requests arrive; return its worker's steps."""
    for step in range(steps):
        engine.arrive({0: 2, 4: 3, 9: 6}.get(step, 0))
        engine.step()
    assert not engine.scheduler.sdsim.guard.fault
    return engine.worker.steps


@with_each_scheduler
def test_the_length_planned_is_what_vllms_next_step_verifies(vllm_engine, chosen, kind):
    policy = chosen(Recording(lambda seen: 4 if seen.batch <= 2 else 1 if seen.batch <= 6 else 0))
    steps = traffic(vllm_engine(kind))
    assert {length for _, _, length in steps} == {0, 1, 4}
    for (_, _, planned), (_, verified, _), seen in zip(steps, steps[1:], policy.seen[1:], strict=False):
        assert set(verified.values()) == ({planned} if planned and verified else set())
        assert bool(verified) == bool(planned)
        assert seen.pending.tolist() == [planned] * seen.batch


@with_each_scheduler
def test_the_policy_sees_vllms_state(vllm_engine, chosen, kind):
    policy = chosen(Recording(lambda seen: 4 if seen.step % 3 else 0))
    engine = vllm_engine(kind)
    assert engine.scheduler.sdsim.lengths == [0, 1, 4]
    steps = traffic(engine)
    batches = [seen.batch + seen.prefill_requests for seen in policy.seen]
    assert batches == [scheduled for scheduled, _, _ in steps]
    first, second = policy.seen[:2]
    assert (first.batch, first.prefill_tokens, first.prefill_requests) == (0, 40, 2)
    assert second.context_lengths.tolist() == [20, 20]
    assert second.kv_free < first.kv_free + 1 <= 1000
    stored, refused = defaultdict(lambda: 20), defaultdict(int)
    for seen in policy.seen:
        rows = zip(seen.request_ids.tolist(), seen.context_lengths.tolist(), seen.pending.tolist(), strict=True)
        for number, context, pending in rows:
            # vLLM counts the drafts of the step in flight as stored until it knows which were refused
            assert context == stored[number] + engine.lag * refused[number]
            stored[number] += 1 + pending // 2
            refused[number] = pending - pending // 2


@with_each_scheduler
def test_outcomes_are_the_workers_and_late_by_the_steps_in_flight(vllm_engine, chosen, kind):
    planned_before = []
    policy = chosen(Recording(lambda seen: 4, lambda outcome: planned_before.append(len(policy.seen))))
    engine = vllm_engine(kind)
    steps = traffic(engine)
    assert [o.step for o in policy.outcomes] == list(range(1, len(policy.outcomes) + 1))
    assert len(policy.outcomes) == len(steps) - 1 - engine.lag
    for outcome, planned in zip(policy.outcomes, planned_before, strict=True):
        seen, (_, verified, _) = policy.seen[outcome.step], steps[outcome.step]
        assert planned == outcome.step + 1 + engine.lag
        assert outcome.request_ids.tolist() == seen.request_ids.tolist()
        assert outcome.verified.tolist() == seen.pending.tolist() == list(verified.values())
        assert outcome.accepted.tolist() == [drafts // 2 for drafts in verified.values()]
        assert 0 < outcome.seconds < 60


@with_each_scheduler
def test_a_policy_that_raises_leaves_vllm_with_its_own_table(vllm_engine, chosen, caplog, kind):
    def fails_later(seen):
        if seen.step == 3:
            raise RuntimeError("broken")
        return 1

    chosen(Recording(fails_later))
    engine = vllm_engine(kind)
    for step in range(20):
        engine.arrive({0: 2, 6: 3}.get(step, 0))
        engine.step()
    assert engine.scheduler.sdsim.guard.fault
    table = read_vllm_ranges(TABLE, MAX_NUM_SEQS, LONGEST)
    lengths = [length for _, _, length in engine.worker.steps]
    assert lengths == [1] * 3 + [int(table[batch - 1]) for batch, _, _ in engine.worker.steps[3:]]
    assert set(lengths[3:]) == {4, 1}
    assert sum("broken" in record.getMessage() for record in caplog.records) == 1


@with_each_scheduler
def test_settings_reach_the_policy_through_vllms_additional_config(vllm_engine, kind):
    engine = vllm_engine(kind, {"policy": {"kind": "disable_by_batch", "length": 4, "threshold": 3}})
    steps = traffic(engine)
    assert {length for batch, _, length in steps if batch <= 3} == {4}
    assert 0 in {length for batch, _, length in steps if batch > 6}


@with_each_scheduler
def test_auto_runs_in_vllm_and_learns_what_its_workers_accept(vllm_engine, prices_file, kind):
    """Steps that take a second whatever they hold: the longest drafts win, of which the workers accept half."""
    engine = vllm_engine(kind, {"policy": {"kind": "auto", "lengths": [0, 1, 4]}, "prices": str(prices_file)})
    driver = engine.scheduler.sdsim
    lengths = [length for _, _, length in traffic(engine)]
    assert not driver.guard.fault
    assert set(lengths[10:]) == {4}
    tokens = driver.guard.policy._belief.forecast.tokens
    assert tokens[4] == pytest.approx(3.0, abs=0.3), "itself and two of four"


@with_each_scheduler
def test_all_requests_finish_with_the_tokens_that_they_asked_for(vllm_engine, chosen, kind):
    chosen(Recording(lambda seen: (0, 1, 4)[seen.step % 3]))
    engine = vllm_engine(kind)
    engine.arrive(5)
    requests = list(engine.scheduler.requests.values())
    for _ in range(200):
        engine.step()
        if not engine.scheduler.requests:
            break
    assert [r.num_output_tokens for r in requests] == [60] * 5
    assert not engine.scheduler.sdsim.guard.fault


@with_each_scheduler
def test_preempted_requests_are_prompts_again_and_all_finish(vllm_engine, chosen, kind):
    policy = chosen(Recording(lambda seen: (4, 1)[seen.step % 2]))
    engine = vllm_engine(kind, blocks=14)
    engine.arrive(4)
    requests = list(engine.scheduler.requests.values())
    for _ in range(400):
        engine.step()
        if not engine.scheduler.requests:
            break
    assert sum(r.num_preemptions for r in requests) > 0
    assert [r.num_output_tokens for r in requests] == [60] * 4
    assert not engine.scheduler.sdsim.guard.fault
    again = [seen for seen in policy.seen[1:] if seen.prefill_requests]
    assert again
    assert all(seen.prefill_tokens > 20 for seen in again)
    assert min(seen.kv_free for seen in policy.seen) < 3


def test_vllm_reads_the_emitted_table_as_this_project_does(tmp_path, monkeypatch):
    monkeypatch.setenv("VLLM_TARGET_DEVICE", "cpu")
    utils = import_vllm("vllm.v1.spec_decode.dynamic.utils")
    rng = np.random.default_rng(0)
    for _ in range(300):
        size = int(rng.integers(1, 40))
        table = np.repeat(rng.integers(0, 6, size), rng.integers(1, 9, size))[:64]
        if not table.any():
            continue
        lookup = utils.build_dynamic_sd_schedule_lookup(ranges(table), len(table), int(table.max()))
        assert lookup[1:] == table.tolist()
        gappy = [entry for entry in ranges(table) if entry[0] == 1 or rng.random() < 0.7]
        longest = int(rng.integers(1, 6))
        theirs = utils.build_dynamic_sd_schedule_lookup(gappy, len(table), longest)
        assert theirs[1:] == read_vllm_ranges(gappy, len(table), longest).tolist()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        parsed = speculative(write_model(tmp_path))
    assert [list(entry) for entry in parsed.num_speculative_tokens_per_batch_size] == TABLE
    assert parsed.num_speculative_tokens == LONGEST
