"""The policies, in one literal table."""

from ncogym.policies.attention import AttentionPolicy
from ncogym.policies.base import Policy
from ncogym.policies.graph import GraphPolicy

POLICIES: dict[str, type[Policy]] = {
    "AttentionPolicy": AttentionPolicy,
    "GraphPolicy": GraphPolicy,
}

__all__ = ["POLICIES", "AttentionPolicy", "GraphPolicy", "Policy"]
