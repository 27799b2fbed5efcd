"""Plugins for tasks. Each is imported on first use, so that unused ones cost nothing."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from amlsched.plugins.comm import Comm
    from amlsched.plugins.emissions import EmissionsTrackerPlugin
    from amlsched.plugins.limiter import Limiter
    from amlsched.plugins.limits import Limits, PynisherPlugin
    from amlsched.plugins.retry import Retry
    from amlsched.plugins.threadpoolctl import ThreadPoolCTLPlugin
    from amlsched.plugins.wandb import WandbPlugin
    from amlsched.plugins.warning_filter import WarningFilter
    from amlsched.task import Plugin

__all__ = [
    "Comm",
    "EmissionsTrackerPlugin",
    "Limiter",
    "Limits",
    "Plugin",
    "PynisherPlugin",
    "Retry",
    "ThreadPoolCTLPlugin",
    "WandbPlugin",
    "WarningFilter",
]

_HOMES = {
    "Comm": "amlsched.plugins.comm",
    "EmissionsTrackerPlugin": "amlsched.plugins.emissions",
    "Limiter": "amlsched.plugins.limiter",
    "Limits": "amlsched.plugins.limits",
    "Plugin": "amlsched.task",
    "PynisherPlugin": "amlsched.plugins.limits",
    "Retry": "amlsched.plugins.retry",
    "ThreadPoolCTLPlugin": "amlsched.plugins.threadpoolctl",
    "WandbPlugin": "amlsched.plugins.wandb",
    "WarningFilter": "amlsched.plugins.warning_filter",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
