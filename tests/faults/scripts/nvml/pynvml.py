"""A fake NVML, no driver behind it: one GPU that is lost, or hangs, after a few answers.

`FAKE_NVML` is this file's alone; no real device has been seen by these tests.
"""

import os
import time
from types import SimpleNamespace

NVML_ERROR_GPU_IS_LOST = 15
NVML_ERROR_NOT_SUPPORTED = 3
ANSWERS = 2
asked = []


class NVMLError(Exception):
    def __init__(self, value):
        super().__init__(f"error {value}")
        self.value = value


def nvmlInit():
    pass


def nvmlShutdown():
    pass


def nvmlDeviceGetCount():
    return 1


def nvmlDeviceGetHandleByIndex(index):
    return index


def nvmlDeviceGetName(handle):
    return "Fake GPU"


def nvmlSystemGetDriverVersion():
    return "0.0"


def nvmlDeviceGetUtilizationRates(handle):
    asked.append(handle)
    if len(asked) > ANSWERS:
        if os.environ["FAKE_NVML"] == "hangs":
            time.sleep(3600)
        if os.environ["FAKE_NVML"] == "breaks":
            raise ValueError("no error of NVML's")
        raise NVMLError(NVML_ERROR_GPU_IS_LOST)
    return SimpleNamespace(gpu=50, memory=20)


def __getattr__(name):
    if name.startswith("nvmlDeviceGet"):
        return refused
    raise AttributeError(name)


def refused(*_):
    raise NVMLError(NVML_ERROR_NOT_SUPPORTED)
