"""Decides, while the run goes on, when a step has ended.

The readers divide the run into steps again from all marks; this only times the trace windows.
"""

from __future__ import annotations

LOADER_STEPS_AFTER = 3
"""So many batches without any optimizer step: the loop has none, its batches are the steps."""


class StepTicker:
    """Counts step ends from optimizer steps, batches, or the user's own marks.

    With several optimizers the rarest one closes a step; among equally frequent ones the one
    that first appeared last does (discriminator, then generator: the generator).
    """

    def __init__(self) -> None:
        self.count = 0
        self._optimizers: dict[int, int] = {}
        self._order: list[int] = []
        self._batches = 0
        self._user = False

    def optimizer(self, index: int) -> bool:
        """An optimizer stepped; True when that ended a step."""
        if index not in self._optimizers:
            self._order.append(index)
        self._optimizers[index] = self._optimizers.get(index, 0) + 1
        return not self._user and index == self._primary() and self._tick()

    def batch(self) -> bool:
        """A loader handed over a batch; True when that ended a step (no optimizer in the loop)."""
        self._batches += 1
        if self._user or self._optimizers or self._batches <= LOADER_STEPS_AFTER:
            return False
        return self._tick()

    def user(self) -> bool:
        """The user marked the end of a step: from now on only such marks count."""
        self._user = True
        return self._tick()

    def _tick(self) -> bool:
        self.count += 1
        return True

    def _primary(self) -> int:
        if len(self._order) == 1:
            return self._order[0]
        ranked = {index: place for place, index in enumerate(self._order)}
        return min(self._order, key=lambda index: (self._optimizers[index], -ranked[index]))
