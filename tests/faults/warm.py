"""What a process of the commands holds before they begin: everything imported, compiled and read."""

import yaml

import sdsim.report.html
import sdsim.sweep  # noqa: F401
from sdsim.scenario import scenario_from_mapping
from sdsim.simulation import simulate
from tests.faults.commands import SCENARIO

simulate(scenario_from_mapping(yaml.safe_load(SCENARIO)))
