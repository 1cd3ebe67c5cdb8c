"""Readable files that say which host there is: its VMs, their disks and history, and what goes wrong.

``load`` reads one and refuses what it does not understand, naming the place; ``raise_host`` makes the host in
a state folder, or takes up the one that is there already.
"""

from vmkeep_lab.scenario.build import OtherScenario, raise_host
from vmkeep_lab.scenario.load import Scenario, ScenarioError, load, scenario_names

__all__ = ["OtherScenario", "Scenario", "ScenarioError", "load", "raise_host", "scenario_names"]
