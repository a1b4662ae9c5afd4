"""Policies inside SGLang: the adapter with stand-ins, and under SGLang's registry and controller where it is installed.

SGLang's parts need no GPU, but its import needs most of its dependencies: an environment of its own, and
PYTHONPATH=. python -m pytest tests/test_adapters_sglang.py
"""

from __future__ import annotations

import importlib
import json
import logging
import sys
import warnings
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

import sdsim.adapters.sglang as adapter
from sdsim.adapters.prices import tabulate
from sdsim.adapters.settings import VARIABLE, Settings
from sdsim.engine_config import read_sglang_adaptive_config, sglang_adaptive_config
from tests.test_adapters_vllm import Recording, Steady

CONFIG = {"1": {"candidate_steps": [4]}, "4": {"candidate_steps": [1]}, "7": {"candidate_steps": [0]}}


class Rule:
    """Does what SGLang's own rule does, on a table."""

    candidate_steps = (0, 1, 4)

    def __init__(self, initial_steps, cfg_path):
        self.made_with, self.fed, self.captured = (initial_steps, cfg_path), [], None

    def set_cuda_graph_bs(self, sizes):
        self.captured = sizes

    def get_steps_for_batch(self, batch_size):
        return 4 if batch_size < 4 else 1 if batch_size < 7 else 0

    def on_verify_complete(self, accepted, batch_size):
        self.fed.append(list(accepted))
        return 1


def request(name, prompt=10, generated=3):
    return SimpleNamespace(rid=name, origin_input_ids=[1] * prompt, output_ids=[2] * generated)


def scheduler_of(policy, waiting=6, free=320):
    worker = SimpleNamespace(adaptive_controller=SimpleNamespace(params=policy))
    allocator = SimpleNamespace(available_size=lambda: free)
    return SimpleNamespace(
        model_worker=worker, waiting_queue=[None] * waiting, token_to_kv_pool_allocator=allocator, page_size=16
    )


def batch_of(*requests, extend=False):
    return SimpleNamespace(reqs=list(requests), forward_mode=SimpleNamespace(is_extend=lambda: extend))


def run(adaptive, *requests, accepted=None):
    """Run a decode batch as SGLang does: the hook, the choice, and, unless it is in flight, the outcome."""
    chosen = []

    def run_batch(scheduler, batch):
        chosen.append(adaptive.get_steps_for_batch(len(batch.reqs)))
        return "ran"

    assert adapter.show_batch(run_batch, scheduler_of(adaptive), batch_of(*requests)) == "ran"
    if accepted is not None:
        adaptive.on_verify_complete(accepted, len(accepted))
    return chosen[0]


@pytest.fixture
def made(monkeypatch):
    """Return a maker of the adapter around a policy."""

    def make(policy, **settings):
        monkeypatch.setattr(adapter, "load_settings", lambda given, fillable: Settings(policy, **settings))
        return adapter.AdaptivePolicy(4, "adaptive.json", Rule)

    return make


def test_the_policy_sees_the_batch_about_to_run(made):
    policy = Recording(lambda seen: 4)
    adaptive = made(policy)
    assert adaptive.rule.made_with == (4, "adaptive.json")
    assert adaptive.candidate_steps == [0, 1, 4]
    assert run(adaptive, request("a"), request("b", 20, 1)) == 4
    assert run(adaptive, request("b", 20, 4), request("c")) == 4
    first, second = policy.seen
    assert first.context_lengths.tolist() == [12, 20]
    assert first.generated.tolist() == [3, 1]
    assert (first.waiting, first.kv_free, first.draft_lengths) == (6, 20, (0, 1, 4))
    assert second.request_ids.tolist()[0] == first.request_ids.tolist()[1]
    assert second.request_ids.tolist()[1] not in first.request_ids.tolist()
    assert (first.pending.tolist(), second.pending.tolist()) == ([0, 0], [0, 0])


def test_outcomes_come_in_order_and_one_that_was_lost_is_passed_over(made):
    policy = Recording(lambda seen: (4, 1, 0, 4)[seen.step])
    adaptive = made(policy)
    a, b, c = request("a"), request("b"), request("c")
    run(adaptive, a, b)
    run(adaptive, a, b, c)
    run(adaptive, a)
    adaptive.on_verify_complete([4, 2], 2)
    run(adaptive, a)
    adaptive.on_verify_complete([0], 1)
    adaptive.on_verify_complete([3], 1)
    told = [(o.step, o.verified.tolist(), o.accepted.tolist(), o.seconds) for o in policy.outcomes]
    assert told == [(0, [4, 4], [4, 2], 0.0), (2, [0], [0], 0.0), (3, [4], [3], 0.0)]
    assert adaptive.rule.fed == [[4, 2], [0], [3]]


def test_no_clock_is_read_so_that_ranks_agree(made, monkeypatch):
    class Cost:
        def verify_seconds(self, rows, verify_tokens, context, prefill_tokens=0, draft_length=0):
            return 0.001 * verify_tokens

        def off_seconds(self, rows, context, prefill_tokens=0):
            return 0.001 * rows

    grid = {
        "rows": [1, 8],
        "drafts_per_row": [0, 4],
        "draft_lengths": [0, 1, 4],
        "contexts": [0],
        "prefill_tokens": [0],
    }
    seen = []
    for _ in range(2):
        policy = Recording(lambda o: 4)
        adaptive = made(policy, prices=tabulate(Cost(), grid))
        for step in range(3):
            run(adaptive, request("a"), request("b"), accepted=[step, 1])
        seen.append([(o.now, *(x.seconds for x in policy.outcomes)) for o in policy.seen])
    assert seen[0] == seen[1]
    assert [now for now, *_ in seen[0]] == pytest.approx([0, 0.01, 0.02])
    assert seen[0][0][1:] == pytest.approx([0.01] * 3)


def test_graphs_are_captured_for_every_length_at_every_batch(made):
    adaptive = made(Steady())
    assert adaptive.cuda_graph_bs_for_step(4) is None
    adaptive.set_cuda_graph_bs([8, 1, 4])
    assert {tuple(adaptive.cuda_graph_bs_for_step(step)) for step in (0, 1, 4)} == {(1, 4, 8)}
    assert adaptive.rule.captured == [8, 1, 4]


@pytest.mark.parametrize("where", ["plan", "learn", "unseen", "scheduler"])
def test_a_fault_leaves_sglang_with_its_own_rule(made, caplog, where):
    def broken(_):
        raise ZeroDivisionError("by zero")

    adaptive = made(Recording(broken if where == "plan" else lambda o: 0, broken if where == "learn" else print))
    if where == "unseen":
        assert adaptive.get_steps_for_batch(3) == 4
    if where == "scheduler":
        adapter.show_batch(lambda *_: None, scheduler_of(adaptive), batch_of(SimpleNamespace()))
    chosen = [run(adaptive, request("a"), request("b"), accepted=[1, 1]) for _ in range(3)]
    assert chosen == ([0, 4, 4] if where == "learn" else [4, 4, 4])
    assert adaptive.on_verify_complete([1, 1], 2) == 1
    errors = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert [r.name for r in errors] == ["sglang.sdsim"]


def test_while_a_policy_decides_the_rule_changes_nothing(made):
    adaptive = made(Steady(4))
    assert run(adaptive, request("a")) == 4
    assert adaptive.on_verify_complete([0], 1) is None


def test_prompts_and_other_drafters_pass_the_hook_untouched(made):
    adaptive = made(Steady())
    for scheduler, batch in (
        (scheduler_of(adaptive), batch_of(request("a"), extend=True)),
        (SimpleNamespace(model_worker=SimpleNamespace()), batch_of(request("a"))),
        (scheduler_of(Rule(4, None)), batch_of(request("a"))),
    ):
        assert adapter.show_batch(lambda s, b, **more: more, scheduler, batch, extra=3) == {"extra": 3}
    assert adaptive._batch is None


def test_a_policy_that_needs_what_sglang_does_not_tell_is_refused(monkeypatch):
    monkeypatch.setenv(VARIABLE, '{"policy": "tetris"}')
    with pytest.raises(Exception, match="needs confidence"):
        adapter.AdaptivePolicy(4, None, Rule)


def test_register_does_nothing_unless_a_policy_is_named(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    before = set(sys.modules)
    adapter.register()
    assert not any(name.startswith("sglang") for name in set(sys.modules) - before)


def test_the_entry_point_names_register():
    from configparser import ConfigParser
    from pathlib import Path

    parsed = ConfigParser()
    parsed.read(Path(__file__).parent.parent / "setup.cfg")
    name, _, place = parsed["options.entry_points"]["sglang.srt.plugins"].strip().partition(" = ")
    module, _, function = place.partition(":")
    assert (name, getattr(importlib.import_module(module), function)) == ("sdsim", adapter.register)


# --- SGLang's own registry, controller and config reader ---


def import_sglang(name):
    """Return a module of SGLang, or skip; its imports warn."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return importlib.import_module(name)
        except ImportError as error:
            pytest.skip(f"SGLang is not importable ({error}); see the top of this file")


pytestmark = pytest.mark.filterwarnings("ignore:::sglang", "ignore:::torch")


@pytest.fixture
def sglang(monkeypatch):
    """Return SGLang's modules, with its classes and hooks put back afterwards."""
    params = import_sglang("sglang.srt.speculative.adaptive_spec_params")
    state = import_sglang("sglang.srt.speculative.adaptive_runtime_state")
    hooks = import_sglang("sglang.srt.plugins.hook_registry")
    original = params.AdaptiveSpeculativeParams
    yield SimpleNamespace(params=params, state=state, hooks=hooks)
    for module in list(sys.modules.values()):
        if getattr(module, "__name__", "").startswith("sglang") and hasattr(module, "AdaptiveSpeculativeParams"):
            module.AdaptiveSpeculativeParams = original
    hooks.HookRegistry.reset()


class Worker:
    """What SGLang's controller asks of a worker."""

    speculative_num_steps = 4

    def __init__(self):
        self.built, self.applied = [], []

    def build_adaptive_runtime_state(self, speculative_num_steps, speculative_num_draft_tokens, cuda_graph_bs=None):
        self.built.append((speculative_num_steps, speculative_num_draft_tokens, cuda_graph_bs))
        return speculative_num_steps

    def apply_runtime_state(self, state):
        self.applied.append(state)
        self.speculative_num_steps = state


def test_sglangs_controller_runs_the_policy_that_the_plugin_put_in(sglang, monkeypatch, tmp_path):
    config = tmp_path / "adaptive.json"
    config.write_text(json.dumps(CONFIG))
    monkeypatch.setenv(VARIABLE, '{"policy": {"kind": "disable_by_batch", "length": 4, "threshold": 2}}')
    monkeypatch.setattr(adapter, "RUN_BATCH", "tests.test_adapters_sglang.Runner.run_batch")
    importer = ModuleType("sglang.importer")
    importer.AdaptiveSpeculativeParams = sglang.params.AdaptiveSpeculativeParams
    monkeypatch.setitem(sys.modules, "sglang.importer", importer)
    adapter.register()
    sglang.hooks.HookRegistry.apply_hooks()
    made = importer.AdaptiveSpeculativeParams(initial_steps=4, cfg_path=str(config))
    assert isinstance(made, adapter.AdaptivePolicy)
    assert type(made.rule).__module__ == "sglang.srt.speculative.adaptive_spec_params"
    worker = Worker()
    controller = sglang.state.AdaptiveController(worker, made)
    controller.init_states([1, 2, 8])
    assert worker.built == [(k, k + 1, [1, 2, 8]) for k in (0, 1, 4)]
    runner = Runner(worker, controller)
    steps = []
    for rows in (1, 2, 3, 8, 2):
        runner.run_batch(batch_of(*(request(str(i)) for i in range(rows))))
        steps.append(worker.speculative_num_steps)
        controller.on_verify_complete([0] * rows, rows)
    assert steps == [4, 4, 0, 0, 4]
    assert not made.guard.fault


class Runner:
    """Stands for SGLang's scheduler, whose method the plugin wraps."""

    def __init__(self, worker, controller):
        worker.adaptive_controller = controller
        self.model_worker, self.waiting_queue, self.page_size = worker, [], 1
        self.token_to_kv_pool_allocator = SimpleNamespace(available_size=lambda: 100)

    def run_batch(self, batch):
        self.model_worker.adaptive_controller.activate_step_by_batch(len(batch.reqs))


def test_sglang_reads_the_emitted_config_as_this_project_does(sglang, tmp_path):
    rng = np.random.default_rng(0)
    file = tmp_path / "adaptive.json"
    for _ in range(60):
        table = np.repeat(rng.integers(0, 6, 12), rng.integers(1, 9, 12))[:48]
        if not table.any():
            continue
        config = sglang_adaptive_config(table)
        file.write_text(json.dumps(config))
        theirs = sglang.params.AdaptiveSpeculativeParams(int(table.max()), str(file))
        assert sglang.params.resolve_candidate_steps_from_config(str(file)) == sorted(set(table.tolist()))
        assert [theirs.get_steps_for_batch(b) for b in range(1, len(table) + 1)] == table.tolist()
        for batch in range(1, len(table) + 1):
            for _ in range(40):
                theirs.on_verify_complete([5] * batch, batch)
        graphs = sorted(rng.choice(np.arange(1, 60), 6, replace=False).tolist())
        theirs.set_cuda_graph_bs(graphs)
        padded = [theirs.get_steps_for_batch(b) for b in range(1, len(table) + 1)]
        assert padded == read_sglang_adaptive_config(config, len(table), graphs).tolist()
