"""What the devices did: busy, compute, communication, copies, and what each hides of the other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .categories import is_communication
from .intervals import EMPTY, Union, clip, intersect, merge, subtract, total, union
from .table import DEVICE_WORK, Category, Trace, looked_up

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class DeviceTime:
    """Device work as unions of time over all streams; compute, communication and copies overlap.

    `window` is the time looked at, ns: (start, end). Figures in ns are derived from the unions.
    """

    window: tuple[int, int]
    events: int
    compute: Union  # kernels that do not communicate
    communication: Union  # collectives and point-to-point kernels
    copies: Union  # memcpy and memset

    @property
    def busy(self) -> Union:
        """The time in which any device work runs."""
        return merge(merge(self.compute, self.communication), self.copies)

    @property
    def window_ns(self) -> int:
        """The length of the window."""
        return self.window[1] - self.window[0]

    @property
    def busy_ns(self) -> int:
        """How long any device work runs."""
        return total(self.busy)

    @property
    def idle_ns(self) -> int:
        """How long none does, within the window."""
        return self.window_ns - self.busy_ns

    @property
    def compute_ns(self) -> int:
        """How long computing kernels run."""
        return total(self.compute)

    @property
    def communication_ns(self) -> int:
        """How long communication runs."""
        return total(self.communication)

    @property
    def copies_ns(self) -> int:
        """How long copies and memsets run."""
        return total(self.copies)

    @property
    def overlap_ns(self) -> int:
        """How long computing kernels and communication run together."""
        return total(intersect(self.compute, self.communication))

    @property
    def exposed_communication(self) -> Union:
        """The time of communication that no computing kernel hides."""
        return subtract(self.communication, self.compute)

    @property
    def exposed_copies(self) -> Union:
        """The time of copies that neither computing kernels nor communication hide."""
        return subtract(self.copies, merge(self.compute, self.communication))


def device_work(trace: Trace) -> Mask:
    """Return which events are device work: by category, whatever arguments they have."""
    return trace.events.of(*DEVICE_WORK)


def communication_work(trace: Trace) -> Mask:
    """Return which events are communication on a device: by category, arguments or kernel name."""
    return trace.once("communication work", _communication_work)


def _communication_work(trace: Trace) -> Mask:
    events = trace.events
    by_name = np.fromiter(map(is_communication, trace.names), np.bool_, len(trace.names))
    by_args = np.fromiter(("Collective name" in a for a in trace.args), np.bool_, len(trace.args))
    kernels, found = events.of(Category.KERNEL), events.of(Category.COLLECTIVE)
    if by_name.any():
        found |= kernels & looked_up(by_name, events.name)
    if by_args.any():
        found |= kernels & (events.args >= 0) & looked_up(by_args, events.args)
    return found


def device_time(
    trace: Trace, window: tuple[int, int] | None = None, device: int | None = None
) -> DeviceTime | None:
    """Return the device figures of a trace; None where no device work is recorded.

    The window defaults to first to last device work, and the devices to all of the trace (their
    union: with several devices, ask for each `device`).
    """
    events = trace.events
    work = device_work(trace)
    if device is not None:
        work &= events.device == device
    rows = np.flatnonzero(work)
    if not len(rows):
        return None
    start = events.start_ns[rows]
    end = start + events.duration_ns[rows]
    communication = communication_work(trace)[rows]
    copies = events.of(Category.MEMCPY, Category.MEMSET)[rows]
    window = window or (int(start.min()), int(end.max()))

    def over(mask: Mask) -> Union:
        return clip(union(start[mask], end[mask]), *window) if mask.any() else EMPTY

    inside = (start < window[1]) & (end > window[0])
    return DeviceTime(
        window=window,
        events=int(np.count_nonzero(inside)),
        compute=over(~communication & ~copies),
        communication=over(communication),
        copies=over(copies),
    )


def devices(trace: Trace) -> list[int]:
    """Return the ordinals of the devices that worked, ascending."""
    used = np.unique(trace.events.device[device_work(trace)])
    return [int(ordinal) for ordinal in used]
