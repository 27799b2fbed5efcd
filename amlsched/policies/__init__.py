"""Which call starts next, and on which node: small classes over plain values."""

from amlsched.policies.ordered import ArrivalOrder, LongestFirst, OrderedPolicy
from amlsched.policies.policy import Placement, Policy, WaitingCall
from amlsched.policies.portfolio import Portfolio
from amlsched.policies.simulation import Schedule, SimulatedCall, simulate

__all__ = [
    "ArrivalOrder",
    "LongestFirst",
    "OrderedPolicy",
    "Placement",
    "Policy",
    "Portfolio",
    "Schedule",
    "SimulatedCall",
    "WaitingCall",
    "simulate",
]
