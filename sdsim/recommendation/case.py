"""What is asked, and what every part of the answer needs of the scenario: its system, prices, drafts and seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sdsim.errors import ScenarioError
from sdsim.policy import FloatArray, IntArray, Policy
from sdsim.recommendation.candidates import OFF, lengths_of
from sdsim.recommendation.drafts import Drafts
from sdsim.recommendation.engines import EngineName
from sdsim.recommendation.ranking import Contender, objective
from sdsim.recommendation.table import StepTimes, step_times
from sdsim.recommendation.trials import Bench, system_of
from sdsim.scenario import DraftSpec, Scenario
from sdsim.simulation import System, make_policy

SEEDS, FEW = 4, 2
"""Seeds where the scenario names none, and of the searches over acceptance and replicas."""
LONG = 100_000
"""Steps of a run that takes the place of several: half the seeds do."""


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked about a scenario."""

    engine: EngineName = "vllm"
    lengths: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Draft lengths to choose among, ascending, with 0."""
    policies: str | None = None
    """Candidates; None: all."""
    attainment: float = 0.9
    """The share of requests that must meet the SLOs, for the number of GPUs."""
    drafter: str | None = None
    """The drafter's weights as the engine finds them."""


@dataclass(frozen=True, slots=True)
class Case:
    """A question about one scenario, under its one engine."""

    scenario: Scenario
    draft: DraftSpec
    question: Question
    bench: Bench
    system: System
    drafts: Drafts
    lengths: tuple[int, ...]
    times: StepTimes
    off: Contender
    """Its first seed has been run."""

    @property
    def figure(self) -> str:
        """The objective."""
        return objective(self.scenario)

    @property
    def seeds(self) -> range:
        """All seeds."""
        return range(self.scenario.seed, self.scenario.seed + self.scenario.seeds)

    @property
    def few_seeds(self) -> range:
        """Those of a search, which takes many runs."""
        return self.seeds[: FEW // 2 if _long(self.off) else FEW]

    @property
    def context(self) -> float:
        """Mean KV length of a row under off, tokens."""
        return self.off.trials[0].context

    @property
    def tokens(self) -> FloatArray:
        """Tokens that a row emits a step at each of `lengths`."""
        return self.drafts.tokens(self.lengths)

    @property
    def table(self) -> IntArray:
        """The draft length of each batch size, by prices."""
        return self.times.table(self.tokens)

    def policy(self, one: Contender) -> Policy:
        """Return a fresh policy of *one*."""
        return make_policy(one.spec, self.system)

    def lengths_of(self, one: Contender) -> list[int]:
        """Return the draft lengths that *one* chooses among."""
        return lengths_of(one.spec, self.policy(one))

    def run(self, sides: Sequence[Contender], seeds: Sequence[int]) -> list[Contender]:
        """Return *sides* with trials of *seeds* appended."""
        if not seeds:
            return list(sides)
        found = self.bench.run(self.scenario, [one.spec for one in sides], seeds)
        return [replace(one, trials=(*one.trials, *trials)) for one, trials in zip(sides, found, strict=True)]


def make_case(scenario: Scenario, question: Question, bench: Bench) -> Case:
    """Return the case, off run on the first seed. Raises ScenarioError for a scenario that leaves nothing to choose."""
    _check(scenario)
    draft = scenario.draft
    assert scenario.acceptance is not None
    assert draft is not None
    system, drafts = system_of(scenario), Drafts(scenario, scenario.acceptance)
    lengths = tuple(k for k in question.lengths if k <= drafts.law.longest)
    off = Contender("off", OFF, tuple(bench.run(scenario, [OFF], [scenario.seed])[0]))
    context, rows = off.trials[0].context, scenario.replica.max_num_seqs
    times = step_times(system.prices, rows, lengths, context, draft.available)
    if "seeds" not in scenario.model_fields_set:
        scenario = scenario.model_copy(update={"seeds": SEEDS // 2 if _long(off) else SEEDS})
    return Case(scenario, draft, question, bench, system, drafts, lengths, times, off)


def _long(off: Contender) -> bool:
    return bool(off.trials[0].summary["steps"] > LONG)


def _check(scenario: Scenario) -> None:
    problems = []
    if scenario.draft is None:
        problems.append("draft: none, so there is nothing to choose; add one, such as draft: eagle3")
    if scenario.acceptance is None:
        problems.append("acceptance: missing; needed to weigh drafts; add it, such as {kind: iid, rate: 0.8}")
    if len(scenario.engines) > 1:
        problems.append(f"engine: found {len(scenario.engines)}; allowed: one; choose with --set engine=NAME")
    if problems:
        raise ScenarioError(*problems)
