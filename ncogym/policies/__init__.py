"""The policies, in one literal table."""

from ncogym.policies.attention import AttentionPolicy
from ncogym.policies.base import Policy
from ncogym.policies.graph import GraphPolicy
from ncogym.policies.latent import Latent
from ncogym.policies.polynet import PolyNet
from ncogym.policies.population import Conditioned, Population
from ncogym.policies.quotient import QuotientPolicy

POLICIES: dict[str, type[Policy]] = {
    "AttentionPolicy": AttentionPolicy,
    "GraphPolicy": GraphPolicy,
    "Population": Population,
    "Latent": Latent,
    "PolyNet": PolyNet,
    "QuotientPolicy": QuotientPolicy,
}

__all__ = [
    "POLICIES",
    "AttentionPolicy",
    "Conditioned",
    "GraphPolicy",
    "Latent",
    "Policy",
    "PolyNet",
    "Population",
    "QuotientPolicy",
]
