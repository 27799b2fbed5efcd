"""A small NVML: what `libnvidia-ml.so.1` does for the functions that amlsched uses, behind the real `nvidia-ml-py`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

GIB = 2**30
NO_PERMISSION, NOT_FOUND, NOT_SUPPORTED, DRIVER_NOT_LOADED = 4, 6, 3, 9


@dataclass
class Device:
    """A GPU or a MIG instance; `mig` is `None` for a model that cannot be divided."""

    uuid: str
    model: str = "NVIDIA A100-SXM4-40GB"
    total: int = 40 * GIB
    used: int = 0
    mig: list[Device] | None = None
    divided: bool = False
    ids: tuple[int, int] = (0, 0)
    forbidden: bool = False
    shares_memory: bool = False


@dataclass
class Library:
    """In place of the loaded library: functions with the arguments of the C functions, which return an error code."""

    devices: list[Device]
    init_error: int = 0
    open: int = field(default=0, init=False)

    def nvmlInitWithFlags(self, flags: int) -> int:
        self.open += not self.init_error
        return self.init_error

    def nvmlShutdown(self) -> int:
        self.open -= 1
        return 0

    def nvmlErrorString(self, code: int) -> bytes:
        return {NO_PERMISSION: b"Insufficient Permissions", DRIVER_NOT_LOADED: b"Driver Not Loaded"}.get(code, b"?")

    def nvmlDeviceGetCount_v2(self, count: Any) -> int:
        count._obj.value = len(self.devices)
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, index: Any, handle: Any) -> int:
        if self.devices[index.value].forbidden:
            return NO_PERMISSION
        return self._put(handle, self.devices[index.value])

    def nvmlDeviceGetUUID(self, handle: Any, text: Any, length: Any) -> int:
        text.value = self._at(handle).uuid.encode()
        return 0

    def nvmlDeviceGetName(self, handle: Any, text: Any, length: Any) -> int:
        text.value = self._at(handle).model.encode()
        return 0

    def nvmlDeviceGetMemoryInfo(self, handle: Any, amount: Any) -> int:
        device = self._at(handle)
        if device.shares_memory:
            return NOT_SUPPORTED
        amount._obj.total, amount._obj.used = device.total, device.used
        amount._obj.free = device.total - device.used
        return 0

    def nvmlDeviceGetMigMode(self, handle: Any, now: Any, later: Any) -> int:
        device = self._at(handle)
        if device.mig is None:
            return NOT_SUPPORTED
        now._obj.value = later._obj.value = int(device.divided)
        return 0

    def nvmlDeviceGetMaxMigDeviceCount(self, handle: Any, count: Any) -> int:
        count._obj.value = 7
        return 0

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle: Any, index: Any, instance: Any) -> int:
        instances = self._at(handle).mig or []
        return self._put(instance, instances[index.value]) if index.value < len(instances) else NOT_FOUND

    def nvmlDeviceGetGpuInstanceId(self, handle: Any, number: Any) -> int:
        number._obj.value = self._at(handle).ids[0]
        return 0

    def nvmlDeviceGetComputeInstanceId(self, handle: Any, number: Any) -> int:
        number._obj.value = self._at(handle).ids[1]
        return 0

    def _all(self) -> list[Device]:
        return [each for device in self.devices for each in (device, *(device.mig or []))]

    def _put(self, handle: Any, device: Device) -> int:
        import ctypes

        address = [each is device for each in self._all()].index(True) + 1
        ctypes.cast(handle, ctypes.POINTER(ctypes.c_void_p))[0] = address
        return 0

    def _at(self, handle: Any) -> Device:
        import ctypes

        address = ctypes.cast(handle, ctypes.c_void_p).value
        assert address is not None
        return self._all()[address - 1]


@contextlib.contextmanager
def loaded(library: Library) -> Iterator[Library]:
    """Inside, nvidia-ml-py has loaded this library."""
    import pynvml

    cached, before = dict(pynvml._nvmlGetFunctionPointer_cache), pynvml.nvmlLib
    pynvml._nvmlGetFunctionPointer_cache.clear()
    pynvml.nvmlLib = library
    try:
        yield library
    finally:
        pynvml.nvmlLib = before
        pynvml._nvmlGetFunctionPointer_cache.clear()
        pynvml._nvmlGetFunctionPointer_cache.update(cached)
