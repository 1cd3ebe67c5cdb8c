"""What goes wrong on purpose: rules as data, so that a test or a scenario reads like a sentence.

``Disturbance(Effect.CLOSE_AFTER, action="CreateSnapshot")``: the next CreateSnapshot is done, but its reply
never arrives.
"""

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum


class Effect(Enum):
    """What happens to a request."""

    CLOSE_BEFORE = "close before"  # nothing is done, the connection closes
    CLOSE_AFTER = "close after"  # it is done, the connection closes without a reply
    CUT = "cut"  # it is done, half of the reply arrives
    FLIP = "flip"  # it is done, one bit of the reply's body is wrong
    DELAY = "delay"  # it is done `seconds` later, or once the rules have ended
    FAULT = "fault"  # nothing is done, the fault `code` comes back
    FAULT_AFTER = "fault after"  # it is done, and yet the fault `code` comes back
    STATUS = "status"  # nothing is done, the bare HTTP status `code` comes back


@dataclass(frozen=True)
class Disturbance:
    """One rule: what happens, to which requests, from the how manieth on, how often."""

    effect: Effect
    action: str = ""  # how the action ends, without case: "Pull", "CreateSnapshot"; empty for any
    resource: str = ""  # a part of the resource URI, without case; empty for any
    after: int = 0  # so many matching requests pass first
    times: int = 1  # so many are hit; 0 for all from then on
    seconds: float = 0.0
    code: int = 0
    message: str = "disturbed on purpose"

    def matches(self, action: str, resource: str) -> bool:
        """Tell whether the rule is about such a request."""
        return action.lower().endswith(self.action.lower()) and self.resource.lower() in resource.lower()


class Disturbances:
    """The rules in force, with their counts. Safe to use from several threads."""

    def __init__(self, rules: Iterable[Disturbance] = ()) -> None:
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._rules: list[tuple[Disturbance, list[int]]] = []
        for rule in rules:
            self.add(rule)

    def add(self, rule: Disturbance) -> None:
        """Put a rule in force; it counts requests from now on."""
        with self._lock:
            self._rules.append((rule, [0]))

    def clear(self) -> int:
        """End all rules, and what is delayed by one; return how many requests matched them."""
        with self._lock:
            seen = sum(count for _, (count,) in self._rules)
            self._rules.clear()
            self._over.set()
            self._over = threading.Event()
        return seen

    def delay(self, rule: Disturbance) -> None:
        """Wait as long as a rule says, and no longer than it is in force."""
        with self._lock:
            is_in_force = any(each is rule for each, _ in self._rules)
            over = self._over
        if is_in_force:
            over.wait(rule.seconds)

    def pick(self, action: str, resource: str) -> Disturbance | None:
        """Count a request in all rules about it; return the first that hits it."""
        hit: Disturbance | None = None
        with self._lock:
            for rule, seen in self._rules:
                if not rule.matches(action, resource):
                    continue
                seen[0] += 1
                place = seen[0] - rule.after
                if hit is None and place > 0 and (rule.times == 0 or place <= rule.times):
                    hit = rule
        return hit
