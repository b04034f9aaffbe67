"""What solvers see of a problem: what it asks of them, and answers in the words of the problem."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch

from ncogym import models
from ncogym.models import Distances, Packing, Routes, Shop, Tour

SQUARE = Distances(points=torch.tensor([[[0.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1.0, 0.0]]]))


def routes(**more):
    """Three customers, two of whom fit a vehicle."""
    return Routes(SQUARE, demand=torch.tensor([[0.0, 1.0, 1.0, 1.0]]), capacity=torch.tensor([2.0]), **more)


def test_defaults_ask_for_nothing():
    """What every instance of a kind has is no need."""
    assert routes().needs == Tour(SQUARE).needs == frozenset()
    assert Packing(torch.ones(1, 2), torch.ones(1, 2), torch.ones(1)).needs == frozenset()


def test_every_field_with_a_default_is_a_need():
    """A constraint that is added to a model later keeps solvers away without a line of theirs."""
    given = {
        each.name: {"depots": 3, "open": True}.get(each.name, torch.zeros(1, 4))
        for each in dataclasses.fields(Routes)
        if each.default is not dataclasses.MISSING and each.name != "labels"
    }
    assert len(given) >= 9
    for name, value in given.items():
        assert routes(**{name: value}).needs == {name}
    assert routes(**given).needs == set(given)
    assert routes(labels=torch.arange(4)[None]).needs == frozenset()


def test_distances_that_differ_by_direction_are_a_need():
    """Asked of the numbers, not of the problem."""
    there = torch.tensor([[[0.0, 1.0], [2.0, 0.0]]])
    assert Tour(Distances(given=there)).needs == {"asymmetric"}
    assert Tour(Distances(given=there + there.mT)).needs == frozenset()


def test_distances_that_are_not_symmetric_are_found_wherever_they_are(monkeypatch):
    """Tiles cover every pair, and what rounding does is passed over."""
    monkeypatch.setattr(models, "TILE", 3)
    dists = torch.rand(2, 8, 8, dtype=torch.float64)
    dists = dists + dists.mT
    assert Distances(given=dists * (1 + 1e-12 * torch.rand(2, 8, 8, dtype=torch.float64))).symmetric
    for i, j in itertools.permutations(range(8), 2):
        other = dists.clone()
        other[1, i, j] += 1e-3
        assert not Distances(given=other).symmetric


def test_points_stand_for_their_distances():
    """A matrix is made of them when it is asked for, in float64."""
    matrix = SQUARE.matrix
    assert (matrix.dtype, matrix.shape, SQUARE.nodes) == (torch.float64, (1, 4, 4), 4)
    assert matrix[0, 0].tolist() == pytest.approx([0.0, 1.0, 2**0.5, 1.0])
    with pytest.raises(TypeError, match="takes a matrix or points"):
        str(Distances().matrix)


def test_a_row_is_plain_numbers():
    """One instance of a batch, in numpy, with what is not a number as it was."""
    row = dataclasses.replace(routes(), demand=torch.tensor([[0.0, 1.0, 1.0, 1.0], [0.0, 2.0, 3.0, 4.0]])).row(0)
    assert isinstance(row.demand, np.ndarray)
    assert (row.demand.tolist(), row.depots, row.windows) == ([0.0, 1.0, 1.0, 1.0], 1, None)


def test_answers_are_in_the_words_of_the_problem():
    """Tours are nodes, routes are objects, packings are items, schedules are rows with their times."""
    assert Tour(SQUARE).row(0).answer([2, 0, 1, 3]) == [2, 0, 1, 3]
    assert routes().row(0).answer([1, 2, 0, 3]) == [{"depot": 0, "visits": [1, 2]}, {"depot": 0, "visits": [3]}]
    packing = Packing(torch.ones(1, 3), torch.ones(1, 3), torch.ones(1))
    assert packing.row(0).answer([2, 0, 3, 3]) == [0, 2]
    shop = Shop(torch.tensor([[[3, 2], [2, 4]]]), torch.tensor([[[0, 1], [1, 0]]])).row(0)
    assert shop.answer([0, 1, 1, 0]) == [[0, 0, 0, 0, 3], [0, 1, 1, 3, 5], [1, 0, 1, 0, 2], [1, 1, 0, 3, 7]]


def test_operations_that_do_not_exist_have_no_row():
    """A job of fewer operations than the others has fewer rows, with their own numbers."""
    shop = Shop(torch.tensor([[[3, 2], [0, 4]]]), torch.tensor([[[0, 1], [-1, 0]]])).row(0)
    assert shop.answer([1, 0, 0]) == [[0, 0, 0, 4, 7], [0, 1, 1, 7, 9], [1, 1, 0, 0, 4]]


def test_answers_name_nodes_as_their_file_does():
    """Where the depot is not the first node of the file, all nodes are told by their places there."""
    answer = routes(labels=torch.tensor([[2, 0, 1, 3]])).row(0).answer([1, 2, 0, 3])
    assert answer == [{"depot": 2, "visits": [0, 1]}, {"depot": 2, "visits": [3]}]
