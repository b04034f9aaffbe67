"""Solvers x instances -> records: who found what on which instance, in what time, and how far from a reference.

Every solver gets the same instances in the same batches under the same budget per instance, one after the other within
a batch, so that what is done at an interrupt is comparable, and a change of the machine's speed meets all. What a
solver draws depends on the seed and the batch alone, not on who else takes part. Objectives and feasibility are the
environment's word, as `ncogym.solver` has it. With a journal, what is done survives a kill, and the same call goes on.

Where several processes were started (`ncogym.distributed`), each takes its share of the batches and all of them get
everybody's records, so each of them must call. But for the seconds, these are the records of one process.
"""

from ncogym.evaluation.intervals import mean_ci95, primal_integral, seeds_ci95, student_quantile
from ncogym.evaluation.results import SOLVED_PERCENT, Evaluation, Record, Summary
from ncogym.evaluation.running import Tick, evaluate, seeded_instances

__all__ = [
    "SOLVED_PERCENT",
    "Evaluation",
    "Record",
    "Summary",
    "Tick",
    "evaluate",
    "mean_ci95",
    "primal_integral",
    "seeded_instances",
    "seeds_ci95",
    "student_quantile",
]
