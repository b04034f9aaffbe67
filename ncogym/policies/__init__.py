"""The policies, in one literal table."""

from ncogym.policies.attention import AttentionPolicy
from ncogym.policies.base import Policy

POLICIES: dict[str, type[Policy]] = {
    "AttentionPolicy": AttentionPolicy,
}

__all__ = ["POLICIES", "AttentionPolicy", "Policy"]
