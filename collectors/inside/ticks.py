"""Decides, while the run goes on, when a step has ended.

The readers divide the run into steps again from all marks; this only times the trace windows.
"""

from __future__ import annotations

from collections import Counter, deque

STEPS_AFTER = 3
"""So many batches, or backward passes, without any optimizer step: the loop has none."""

RARE = 25
"""What happens less than once in so many steps ends none: WGAN has 5 critic steps to one of the
generator, PPO up to 20 of the value function; a sparser one (an auxiliary head, once an epoch) is
an event within the loop."""

RECENT = 60
"""So many optimizer steps back tell what the loop is now: loops change from phase to phase."""


class StepTicker:
    """Counts step ends from optimizer steps, batches, backward passes, or the user's own marks.

    With several optimizers the rarest one closes a step; among equally frequent ones the one
    that first appeared last does (discriminator, then generator: the generator). Without any, the
    first loader's batches do, or else the backward passes.
    """

    def __init__(self) -> None:
        self.count = 0
        self._recent: deque[int] = deque(maxlen=RECENT)
        self._order: dict[int, int] = {}
        self._batches: Counter[int] = Counter()
        self._backwards = 0
        self._user = False

    def optimizer(self, index: int) -> bool:
        """An optimizer stepped; True when that ended a step."""
        self._order.setdefault(index, len(self._order))
        self._recent.append(index)
        if self._user or (len(self._order) > 1 and index != self._closing()):
            return False
        self.count += 1  # as `_tick`, without its frame: this runs in each step
        return True

    def batch(self, loader: int) -> bool:
        """A loader handed over a batch; True when that ended a step (no optimizer in the loop)."""
        self._batches[loader] += 1
        self._backwards = 0
        if self._user or self._order or self._batches[loader] <= STEPS_AFTER:
            return False
        return loader == max(self._batches, key=self._batches.__getitem__) and self._tick()

    def backward(self) -> bool:
        """A backward pass ended; True when that ended a step (neither optimizer nor loader)."""
        self._backwards += 1
        if self._user or self._order:
            return False
        return self._backwards > (RARE if self._batches else STEPS_AFTER) and self._tick()

    def user(self) -> bool:
        """The user marked the end of a step: from now on only such marks count."""
        self._user = True
        return self._tick()

    def _tick(self) -> bool:
        self.count += 1
        return True

    def _closing(self) -> int:
        counts = Counter(self._recent)
        often = max(counts.values())
        regular = {index: count for index, count in counts.items() if count * RARE >= often}
        # The window may begin within a step: one more or less is no difference.
        rarest = min(regular.values()) + 1
        candidates = [index for index, count in regular.items() if count <= rarest]
        return max(candidates, key=self._order.__getitem__)
