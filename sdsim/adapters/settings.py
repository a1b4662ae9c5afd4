"""Which policy an engine runs: one JSON object, from the engine's own options or from `SDSIM_POLICY`.

    {"policy": {"kind": "goodput", "lengths": [0, 1, 3, 5]}, "prices": "prices.json", "probe": 128, "tpot": 0.05}

`policy` is a name or a mapping, as in a scenario. `prices` is a file that `python -m sdsim.price_table` wrote; a
policy that prices steps needs it. `probe` is the number of steps without drafts after which one drafts, so that a
policy which learns hears of acceptance again; 0 never does. `tpot` is the target, s, behind `Observation.slo_slack`.

Prices come as a file and not from the simulator: the engine's process then needs numpy alone, what it decides by can
be read and kept, and every rank decides by the same numbers.
"""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from sdsim.adapters.prices import PriceTable, read_price_table
from sdsim.errors import PolicyError, unknown
from sdsim.policies import get_policy, policy_class
from sdsim.policy import Policy

VARIABLE = "SDSIM_POLICY"
KEYS = ("policy", "prices", "probe", "tpot")
EXAMPLE = '{"policy": {"kind": "fixed", "length": 3}}'
PROBE = 128


class Settings(NamedTuple):
    """A policy, and how it is run."""

    policy: Policy
    prices: PriceTable | None = None
    probe: int = PROBE
    tpot_s: float | None = None


def load_settings(given: Mapping[str, Any] | None, fillable: frozenset[str]) -> Settings:
    """Return the settings in *given*, or else in the environment.

    *fillable* are the optional fields of an observation that the engine can fill. Raises PolicyError for
    settings that are missing or wrong, and for a policy that needs what the engine does not know.
    """
    where, found = ("sdsim settings", given) if given is not None else (VARIABLE, _from_environment())
    if not isinstance(found, Mapping) or "policy" not in found:
        raise PolicyError(f"{where}: found {found!r}; allowed: an object with a policy, such as {EXAMPLE}")
    wrong = [f"{where}: {unknown('key', str(key), KEYS)}" for key in found if key not in KEYS]
    if wrong:
        raise PolicyError(*wrong)
    prices = read_price_table(Path(str(found["prices"]))) if "prices" in found else None
    settings = Settings(
        _policy(where, found["policy"], prices),
        prices,
        _number(where, "probe", found.get("probe", PROBE), int),
        _number(where, "tpot", found["tpot"], float) if "tpot" in found else None,
    )
    spared = frozenset(getattr(settings.policy, "does_without", ()))
    lacking = frozenset(getattr(settings.policy, "needs", ())) - spared - fillable
    if settings.tpot_s is None and "slo_slack" in getattr(settings.policy, "needs", ()):
        lacking |= {"slo_slack"}
    if lacking:
        allowed = f"allowed: policies that need {' or '.join(sorted(fillable)) or 'no optional field'}"
        tpot = "set tpot" if lacking == {"slo_slack"} and "slo_slack" in fillable else "choose another policy"
        raise PolicyError(f"{where}: the policy needs {', '.join(sorted(lacking))}; {allowed}; {tpot}")
    return settings


def _from_environment() -> Any:
    text = os.environ.get(VARIABLE)
    if not text:
        raise PolicyError(f"no policy: give the engine {EXAMPLE}, or set {VARIABLE} to it or to a file that holds it")
    path, inline = Path(text), text.lstrip().startswith("{")
    try:
        return json.loads(text if inline else path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PolicyError(f"{VARIABLE}: {path}: {error.strerror}; allowed: a JSON object or a file of one") from None
    except ValueError as error:
        place = VARIABLE if inline else f"{VARIABLE}: {path}"
        raise PolicyError(f"{place}: not JSON: {error}; allowed: an object such as {EXAMPLE}") from None


def _policy(where: str, spec: object, prices: PriceTable | None) -> Policy:
    mapping = {"kind": spec} if isinstance(spec, str) else spec
    if not isinstance(mapping, Mapping) or not isinstance(mapping.get("kind"), str):
        raise PolicyError(f"{where}: policy {spec!r}; allowed: a name, or a mapping with a kind")
    parameters = {key: value for key, value in mapping.items() if key != "kind"}
    kind = mapping["kind"]
    if "cost" in inspect.signature(policy_class(kind)).parameters and prices is None:
        write = "python -m sdsim.price_table SCENARIO --out prices.json"
        raise PolicyError(f'{where}: policy {kind} prices steps; add "prices", a file written by {write}')
    policy = get_policy(kind, parameters, prices)
    beyond = set(getattr(policy, "lengths", ())) - set(() if prices is None else prices.draft_lengths)
    if prices is not None and beyond:
        allowed = f"allowed: those of the price table, {', '.join(map(str, prices.draft_lengths))}"
        mend = "write a table with --lengths, or choose among them"
        raise PolicyError(f"{where}: policy lengths {sorted(beyond)}; {allowed}; {mend}")
    return policy


def _number(where: str, key: str, value: object, kind: type[Any]) -> Any:
    fits = isinstance(value, int | kind) and not isinstance(value, bool)
    if not fits or not (0 < value < float("inf") or (kind is int and value == 0)):  # type: ignore[operator]
        allowed = "a whole number of steps, 0 for never" if kind is int else "seconds above 0"
        raise PolicyError(f"{where}: {key} {value!r}; allowed: {allowed}")
    return kind(value)
