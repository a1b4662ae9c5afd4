"""A scenario whose assumptions about acceptance and load give way to what a running engine counted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sdsim.lengths import length_table
from sdsim.load import at_rate
from sdsim.scenario import Scenario
from sdsim.scenario.parts import IidAcceptance, PositionsAcceptance
from sdsim.scenario.workload import Lengths, Lognormal


@dataclass(slots=True)
class Measured:
    """What was replaced, by its key in the scenario; what stayed assumed, and why; and the batch at that time."""

    engine: str
    mean_batch: float | None
    replaced: dict[str, Any] = field(default_factory=dict)
    assumed: dict[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def json(self) -> dict[str, Any]:
        """Return it as printed."""
        return {
            "engine": self.engine,
            "mean_batch": self.mean_batch,
            "replaced": self.replaced,
            "assumed": self.assumed,
            "warnings": list(self.warnings),
        }


def apply_measured(scenario: Scenario, found: Mapping[str, Any]) -> tuple[Scenario, Measured]:
    """Return *scenario* with the acceptance, rate and lengths that `sdsim.engine_metrics.estimate` *found*.

    The engine is taken to be one of the scenario's replicas: the traffic is as many times its own.
    """
    told = Measured(found["engine"], found["load"]["mean_batch"], warnings=tuple(found["warnings"]))
    for step in (_acceptance, _lengths, _rate):
        scenario = step(scenario, found, told)
    return scenario, told


def _acceptance(scenario: Scenario, found: Mapping[str, Any], told: Measured) -> Scenario:
    acceptance = found["acceptance"] or {"positions": [], "rate": None}
    rates = [position["unconditional"]["rate"] for position in acceptance["positions"]]
    auc = scenario.acceptance.auc if scenario.acceptance is not None else None
    law: PositionsAcceptance | IidAcceptance
    if rates and None not in rates:
        law = PositionsAcceptance(rates=tuple(np.minimum.accumulate(rates).tolist()), auc=auc)
    elif acceptance["rate"] is not None:
        law = IidAcceptance(rate=acceptance["rate"], auc=auc)
    else:
        told.assumed["acceptance"] = "the engine verified no drafts, or does not tell of how many"
        return scenario
    told.replaced["acceptance"] = law.model_dump(mode="json", exclude_none=True)
    return scenario.model_copy(update={"acceptance": law})


def _lengths(scenario: Scenario, found: Mapping[str, Any], told: Measured) -> Scenario:
    load, workload = found["load"], scenario.workload
    prompt, output = load["prompt_tokens"], load["output_tokens"]
    if workload.kind == "trace" or workload.class_names:
        told.assumed["workload.lengths"] = "a trace and classes have lengths of their own"
    elif not prompt or not output:
        told.assumed["workload.lengths"] = "no request finished"
    else:
        prompt_sigma, output_sigma = _sigmas(workload.lengths)
        lengths = Lengths(prompt=_spread(prompt, prompt_sigma), output=_spread(output, output_sigma))
        told.replaced["workload.lengths"] = lengths.model_dump(mode="json")
        return scenario.model_copy(update={"workload": workload.model_copy(update={"lengths": lengths})})
    return scenario


def _spread(mean: float, sigma: float) -> int | Lognormal:
    return Lognormal(mean=mean, sigma=sigma) if sigma else max(round(mean), 1)


def _sigmas(lengths: str | Lengths) -> tuple[float, float]:
    """Return the spreads of the prompts' and outputs' logarithms; a table's are fitted."""
    if isinstance(lengths, Lengths):
        return lengths.prompt_sigma, lengths.output_sigma
    table = length_table(lengths)
    slopes = (np.polyfit(table.scores, np.log(tokens), 1)[0] for tokens in (table.prompt_tokens, table.output_tokens))
    prompt, output = (round(float(slope), 4) for slope in slopes)
    return prompt, output


def _rate(scenario: Scenario, found: Mapping[str, Any], told: Measured) -> Scenario:
    load, workload = found["load"], scenario.workload
    if workload.kind == "closed":
        running = load["mean_batch"] or load["running"]
        if not running:
            told.assumed["workload.concurrency"] = "nothing ran"
            return scenario
        concurrency = max(round(running * scenario.replicas), 1)
        told.replaced["workload.concurrency"] = concurrency
        return scenario.model_copy(update={"workload": workload.model_copy(update={"concurrency": concurrency})})
    if not load["requests_per_s"]:
        told.assumed["workload.rate"] = "no request finished, or the time between the scrapes is unknown"
        return scenario
    rate = load["requests_per_s"] * scenario.replicas
    told.replaced["workload.rate"] = rate
    return at_rate(scenario, rate)
