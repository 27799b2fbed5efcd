"""Configs, for the command line and for cw2's names: what a config says, the runs in it, and what is wrong with it."""

from amlsched.experiments._config import cluster_section, expand, keys
from amlsched.experiments._config.document import as_config
from amlsched.experiments._config.expand import Debug, Run
from amlsched.experiments._config.explain import Explained, explained, explained_section, json_schema, settings
from amlsched.experiments._config.overrides import condition
from amlsched.experiments._config.reporting import raise_error
from amlsched.experiments._config.resolve import ResolvedExperiment
from amlsched.experiments._config.values import copied, jsonable, plain
from amlsched.experiments._config.yaml import write
from amlsched.experiments._planning import jobs
from amlsched.experiments._planning.checks import check
from amlsched.experiments._planning.jobs import Bundle

__all__ = [
    "Bundle",
    "Debug",
    "ResolvedExperiment",
    "Explained",
    "Run",
    "as_config",
    "check",
    "cluster_section",
    "condition",
    "copied",
    "expand",
    "explained",
    "explained_section",
    "jobs",
    "json_schema",
    "jsonable",
    "keys",
    "plain",
    "raise_error",
    "settings",
    "write",
]
