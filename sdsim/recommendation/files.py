"""The answer as files: recommendation.json, the scenario that it holds for, and what the engine reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from sdsim.recommendation.engines import ADAPTIVE_FILE, COSTS_FILE
from sdsim.result import to_json
from sdsim.scenario import Scenario
from sdsim.whole import write_folder

ENGINE_FILES = {
    "speculative_config": "speculative_config",
    "speculative_adaptive_config": ADAPTIVE_FILE,
    "dspark_sps_table": COSTS_FILE,
}


def write_recommendation(folder: Path, scenario: Scenario, answer: dict[str, Any]) -> None:
    """Write *answer* for *scenario* into a new *folder*, whole or not at all.

    TensorRT-LLM reads YAML, whose keys may be numbers; the others JSON.
    """

    def fill(draft: Path) -> None:
        (draft / "recommendation.json").write_text(to_json(answer, indent=2) + "\n", encoding="utf-8")
        resolved = yaml.safe_dump(scenario.resolved(), sort_keys=False, allow_unicode=True)
        (draft / "scenario.yaml").write_text(resolved, encoding="utf-8")
        config = answer["config"]
        for key, name in ENGINE_FILES.items():
            if config.get(key) is None:
                continue
            if config["engine"] == "tensorrt-llm":
                text = yaml.safe_dump({key: config[key]}, sort_keys=False)
                (draft / f"{name}.yaml").write_text(text, encoding="utf-8")
            else:
                file = name if name.endswith(".json") else f"{name}.json"
                (draft / file).write_text(json.dumps(config[key]) + "\n", encoding="utf-8")

    write_folder(folder, fill)
