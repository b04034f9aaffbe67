from __future__ import annotations

import itertools
from typing import NamedTuple

import problems
import pytest
import torch
from tensordict import TensorDict
from torch import Tensor

from ncogym import laws
from ncogym.baselines import SOLVERS
from ncogym.baselines.base import OutsideTourSolver
from ncogym.distribution import Distribution
from ncogym.envs import PROBLEMS, Problem, make
from ncogym.envs.env import Env
from ncogym.envs.routing import geometry
from ncogym.envs.routing.cvrp import CVRP
from ncogym.envs.routing.instances import TSPDistribution
from ncogym.envs.routing.tsp import TSP
from ncogym.errors import ArgumentError, NcogymError, SolverError, SolverNotInstalled
from ncogym.features import EdgeFeatures, FeatureDims, NodeFeatures, StepFeatures
from ncogym.laws import LawBroken, check_env
from ncogym.models import Tour
from ncogym.problem import Violation
from ncogym.task import Task

# ---------------------------------------------------------------------- a stranger's problem


class BagState(NamedTuple):
    """State of each rollout of `Bag`."""

    instance: TensorDict
    load: Tensor
    action_mask: Tensor
    done: Tensor


class Bags(Distribution):
    """Items of random weights and values."""

    def __init__(self, num_items=6):
        self.num_items = num_items

    def arguments(self):
        return {"num_items": self.num_items}

    @property
    def size(self):
        return self.num_items

    def of_size(self, size):
        return Bags(size)

    def like(self, instance):
        return Bags(instance["weight"].shape[1])

    def draw(self, count, rng):
        weight, value = torch.rand(2, count, self.num_items, generator=rng, device=rng.device)
        return TensorDict({"weight": weight, "value": value}, batch_size=[count])


class Bag(Problem):
    """Fill a bag: action k takes item k, the last action stops, the only one once nothing fits; the most value wins.

    Unlike a tour it is maximised, its rows finish at different steps, and leaving a step out breaks nothing.
    """

    name, sense = "bag", "max"
    state_type, instance_keys, distribution_type = BagState, ("weight", "value"), Bags

    def read(self, path):
        raise NotImplementedError

    def _mask(self, instance, load, taken):
        fits = ~taken & (load.unsqueeze(-1) + instance["weight"].unsqueeze(1) <= 1)
        return torch.cat([fits, ~fits.any(-1, keepdim=True)], dim=-1)

    def start(self, instance, rollouts=1):
        weight = instance["weight"]
        load = weight.new_zeros(weight.shape[0], rollouts)
        mask = self._mask(instance, load, torch.zeros_like(weight, dtype=torch.bool).unsqueeze(1))
        return BagState(instance, load, mask, torch.zeros_like(load, dtype=torch.bool))

    def advance(self, state, action):
        items = self.instance_size(state.instance)
        stop = action == items
        load = state.load + self._number(state.instance["weight"], action)
        taken = ~state.action_mask[..., :-1]  # what does not fit now never will
        taken = taken.scatter(-1, action.clamp_max(items - 1).unsqueeze(-1), True) | stop.unsqueeze(-1)
        return BagState(state.instance, load, self._mask(state.instance, load, taken), state.done | stop)

    def reward(self, state, action, successor):
        return self._number(state.instance["value"], action)

    def horizon(self, instance):
        return self.instance_size(instance) + 1

    def objective(self, instance, actions):
        return self._number(instance["value"].double(), actions.flatten(1)).view(actions.shape).sum(-1)

    def violations(self, instance, actions):
        found, count = [], self.instance_size(instance)
        for row, rollout in itertools.product(range(actions.shape[0]), range(actions.shape[1])):
            solution = actions[row, rollout].tolist()
            items = [item for item in solution if item != count]
            if any(not 0 <= item < count for item in items):
                found.append(Violation(row, rollout, "an item does not exist"))
            elif len(set(items)) < len(items):
                found.append(Violation(row, rollout, "an item is taken twice"))
            elif float(instance["weight"][row, items].double().sum()) > 1 + 1e-6:
                found.append(Violation(row, rollout, "the bag is too heavy"))
        return found

    @staticmethod
    def _number(numbers, action):
        return torch.cat([numbers, torch.zeros_like(numbers[:, :1])], dim=1).gather(1, action)

    def broken_solutions(self, instance, actions):
        everything = actions.clone()
        everything[1, 0] = torch.arange(actions.shape[-1])
        return {"first step left out": None, "all items taken": everything}

    @property
    def feature_dims(self):
        return FeatureDims(node=2, scalars=1)

    def instance_features(self, instance):
        return (NodeFeatures(torch.stack([instance["weight"], instance["value"]], dim=-1)),)

    def step_features(self, state):
        nobody = torch.zeros(*state.done.shape, 0, dtype=torch.int64, device=state.load.device)
        return StepFeatures(nobody, state.action_mask, scalars=state.load.unsqueeze(-1))

    def first_actions(self, instance, rng=None):
        return torch.arange(self.instance_size(instance)).expand(instance.batch_size[0], -1)

    def symmetries(self, instance, count=8, rng=None):
        return [instance]

    def instance_size(self, instance):
        return instance["weight"].shape[1]


def fullest_bag(instance: TensorDict) -> float:
    """Try every subset, from the definition."""
    weight, value = instance["weight"][0].double().tolist(), instance["value"][0].double().tolist()
    subsets = itertools.product((0, 1), repeat=len(weight))
    return max(
        sum(v for v, taken in zip(value, subset, strict=True) if taken)
        for subset in subsets
        if sum(w for w, taken in zip(weight, subset, strict=True) if taken) <= 1
    )


def test_a_strangers_problem_keeps_the_laws():
    """A problem written outside of the package, maximised and with rows that end early, is held to all laws."""
    checked = check_env(Task.of(Bag), seed=1, batch_size=5, tiny=Task.of(Bag, 4), brute_force=fullest_bag)
    assert len(checked) >= len(laws.LAWS) + 1
    assert checked[0] == "random solutions are valid"
    assert "enumeration finds the optimum" in checked


def _lying(kind, model):
    """A problem that shows solvers a model that leaves out what else decides."""
    return type("Lying", (kind,), {"model": model})


def _tour(env, instance):
    return Tour(geometry.distances_of(instance))


def test_a_strangers_problem_is_no_solvers():
    """A problem that shows solvers nothing keeps all laws, the one about solvers among them."""
    solvers = [make() for make in SOLVERS.values()]
    checked = check_env(Task.of(problems.Orienteering, 5), solvers=solvers)
    assert "solvers solve what they take" in checked


@pytest.mark.parametrize(
    ("kind", "model", "solver"),
    [
        (problems.Orienteering, _tour, "nearest-neighbour"),
        (problems.Orienteering, _tour, "fast-tsp"),
        (problems.Deadlines, _tour, "two-opt"),
        (problems.Deadlines, _tour, "pyvrp"),
        (problems.ShortRoutes, CVRP.model, "savings"),
        (problems.ShortRoutes, CVRP.model, "hgs"),
    ],
)
def test_a_false_model_is_found(kind, model, solver):
    """What a solver builds for a problem that is not what it says is infeasible, and the law says which solver."""
    env = Task.of(_lying(kind, model), 8)
    case = laws.Case(env, 0, env.generate(2, torch.Generator()), torch.zeros(2, 2, 8), solvers=(SOLVERS[solver](),))
    complaint = next(laws.solvers_solve_what_they_take(case))
    assert complaint.startswith(f"{solver} supports it, and its solution of row ")


def test_a_false_objective_is_found():
    """A problem of other tours than the shortest is found by what a solver proves of it."""
    env = Task.of(_lying(problems.Bottleneck, _tour), 7)

    def brute_force(instance):
        tours = torch.tensor([(0, *rest) for rest in itertools.permutations(range(1, 7))])
        return float(env.objective(instance, tours[None]).min())

    whole = env.generate(2, torch.Generator().manual_seed(0))
    case = laws.Case(env, 0, whole, torch.zeros(2, 2, 7), env, brute_force, (Shortest(),))
    assert "what shortest calls the best of row" in next(laws.solvers_solve_what_they_take(case))


class Shortest(OutsideTourSolver):
    """Tries all tours, and says that the shortest is proven to be the best."""

    name = "shortest"

    def _solve(self, dists, run):
        rest = itertools.permutations(range(1, len(dists)))
        run.report(min(((0, *tour) for tour in rest), key=lambda tour: dists[list(tour), [*tour[1:], 0]].sum()))
        run.prove()


def test_a_solver_that_fails_at_what_it_takes_is_found():
    """An error where a solver said that it takes the problem is a complaint, one that is not installed is none."""

    class Fails(Shortest):
        error = SolverError("lost its way")

        def _solve(self, dists, run):
            raise self.error

    env, solver = Task.of(TSP, 5), Fails()
    case = laws.Case(env, 0, env.generate(2, torch.Generator()), torch.zeros(2, 2, 5), solvers=(solver,))
    assert list(laws.solvers_solve_what_they_take(case)) == ["shortest supports it, and then says: lost its way"]
    solver.error = SolverNotInstalled("pip install it")
    assert list(laws.solvers_solve_what_they_take(case)) == []


@pytest.mark.parametrize("name", PROBLEMS)
def test_every_problem_keeps_the_laws(name):
    """Every problem of the table, as `make` builds it, keeps the laws."""
    check_env(make(name))


def test_every_law_is_stated():
    """Each law has a sentence that states it."""
    for law in (
        *laws.LAWS,
        laws.enumeration_finds_the_optimum,
        laws.solvers_solve_what_they_take,
        laws.devices_agree,
    ):
        assert law.__doc__.strip().endswith(".")


def test_a_device_agrees_with_itself():
    """Between the CPU and itself the law on devices holds."""
    env = Task.of(TSP, 6)
    case = laws.Case(env, 0, env.generate(2, torch.Generator()), torch.arange(6).expand(2, 2, 6))
    assert list(laws.devices_agree(case, "cpu")) == []


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", PROBLEMS)
def test_devices_agree(name):
    """Where there is a GPU it gives the states, rewards and scores of the CPU."""
    assert "devices agree" in check_env(make(name))


# ---------------------------------------------------------------------- each law can be broken


class AllowsAll(TSP):
    """Its mask never closes a node."""

    def advance(self, state, action):
        after = super().advance(state, action)
        return after._replace(action_mask=torch.ones_like(after.action_mask))


class EndsEarly(TSP):
    """Its horizon is a step too short."""

    def horizon(self, instance):
        return super().horizon(instance) - 1


class DeadEnd(TSP):
    """Its mask closes everything after the first step."""

    def advance(self, state, action):
        after = super().advance(state, action)
        return after._replace(action_mask=torch.zeros_like(after.action_mask))


class ForgetsTheWayHome(TSP):
    """Its rewards are those of an open tour."""

    def reward(self, state, action, successor):
        return super().reward(state, action, successor._replace(done=torch.zeros_like(successor.done)))


class WrongSign(TSP):
    """Its rewards are costs."""

    def reward(self, state, action, successor):
        return -super().reward(state, action, successor)


class CoarseObjective(TSP):
    """Its objective is in single precision."""

    def objective(self, instance, actions):
        return super().objective(instance, actions).float()


class OtherStep(Env):
    """TorchRL's step has a reward of its own."""

    def _step(self, tensordict):
        out = super()._step(tensordict)
        out["reward"] = out["reward"] + 1
        return out


class NeverDone(Env):
    """TorchRL's step never ends."""

    def _step(self, tensordict):
        out = super()._step(tensordict)
        out["done"] = torch.zeros_like(out["done"])
        return out


class TakesAll(Env):
    """TorchRL's step takes every action there is."""

    @staticmethod
    def _allowed(numbers):
        action, actions = numbers["action"].unsqueeze(-1), numbers["action_mask"].shape[-1]
        return (action >= 0) & (action < actions)


class Restarts(Env):
    """TorchRL's reset always begins anew."""

    def _reset(self, tensordict=None, set_state=False, **options):
        return super()._reset(tensordict)


class NeverRestarts(Env):
    """TorchRL's reset always goes on."""

    def _reset(self, tensordict=None, set_state=False, **options):
        return super()._reset(tensordict, set_state=True)


class OneSeed(Env):
    """Nobody need seed it, for it always begins with the same seed."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.set_seed(0)


class IgnoresTorch(Env):
    """Nobody but ``set_seed`` can seed it."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.set_seed(torch.Generator().seed() >> 1)


class WrongSpecs(Env):
    """Its specs leave out a key."""

    def _make_specs(self):
        super()._make_specs()
        del self.observation_spec["num_left"], self.state_spec["num_left"]


class BlindReferee(TSP):
    """Its referee never objects."""

    def violations(self, instance, actions):
        return []


class SilentReferee(TSP):
    """Its referee gives no reason."""

    def violations(self, instance, actions):
        return [violation._replace(reason=" ") for violation in super().violations(instance, actions)]


class MisplacedReferee(TSP):
    """Its referee points at another row."""

    def violations(self, instance, actions):
        return [violation._replace(row=0) for violation in super().violations(instance, actions)]


class CountsOnly(TSP):
    """Its referee sees no repeated node."""

    def violations(self, instance, actions):
        return [v for v in super().violations(instance, actions) if "again" not in v.reason]


class CountsBelowZero(TSP):
    """Its state goes on counting after the end."""

    def advance(self, state, action):
        return super().advance(state, action)._replace(num_left=state.num_left - 1)


class PaysForPadding(TSP):
    """Waiting costs a little."""

    def reward(self, state, action, successor):
        return super().reward(state, action, successor) - state.done.float()


class OpenEnd(TSP):
    """Once all nodes are visited, two actions are allowed."""

    def advance(self, state, action):
        after = super().advance(state, action)
        another = (action + 1) % after.action_mask.shape[-1]
        opened = after.action_mask.scatter(-1, another.unsqueeze(-1), True)
        return after._replace(action_mask=torch.where(after.done.unsqueeze(-1), opened, after.action_mask))


class ChargesPadding(TSP):
    """Its objective grows with the number of actions."""

    def objective(self, instance, actions):
        return super().objective(instance, actions) + 1e-9 * (actions.shape[-1] - self.horizon(instance))


class Unseeded(TSPDistribution):
    """It draws from the global generator."""

    def draw(self, count, rng):
        return TensorDict({"locs": torch.rand(count, self.num_nodes, 2)}, batch_size=[count])


class Constant(TSPDistribution):
    """It has one instance only."""

    def draw(self, count, rng):
        return super().draw(count, torch.Generator().manual_seed(0))


class Forgetful(TSPDistribution):
    """Its arguments leave out its distribution."""

    def arguments(self):
        return {"num_nodes": self.num_nodes}


class Reseeds(TSP):
    """It seeds the global generator when it is built."""

    def __init__(self, *args, **kwargs):
        torch.manual_seed(0)
        super().__init__(*args, **kwargs)


class GlobalActions(Env):
    """Its random actions are drawn from the global generator."""

    def rand_action(self, tensordict=None):
        tensordict["action"] = torch.multinomial(tensordict["action_mask"].reshape(-1, self.num_nodes).float(), 1)
        tensordict["action"] = tensordict["action"].reshape(tensordict.batch_size)
        return tensordict


class ComparesRows(TSP):
    """It lends the batch's mean place at the first step and takes it back at the last."""

    def reward(self, state, action, successor):
        lent = (state.current < 0).float() - (successor.done & ~state.done).float()
        return super().reward(state, action, successor) + lent * state.instance["locs"].mean()


class BatchFeatures(TSP):
    """Its features are centred on the batch."""

    def instance_features(self, instance):
        nodes, edges = super().instance_features(instance)
        return NodeFeatures(nodes.values - nodes.values.mean((0, 1))), edges


class InPlace(TSP):
    """Its dynamics write into the state that they are given."""

    def advance(self, state, action):
        after = super().advance(state, action)
        state.num_left.sub_(1)
        return after


class InPlaceOnce(TSP):
    """Its dynamics close the node in the mask that they are given, which a second call does not show."""

    def advance(self, state, action):
        after = super().advance(state, action)
        state.action_mask.copy_(after.action_mask)
        return after


class Centres(TSP):
    """Its features move the instance."""

    def instance_features(self, instance):
        instance["locs"] -= 1.0
        return super().instance_features(instance)


class Remembers(TSP):
    """Its dynamics depend on how often they were called."""

    calls = 0

    def advance(self, state, action):
        self.calls += 1
        after = super().advance(state, action)
        return after._replace(num_left=after.num_left * 0 + self.calls)


class Peeks(TSP):
    """Its dynamics branch on a tensor's value."""

    def advance(self, state, action):
        if int(action.max()) < 0:
            raise ValueError("no node")
        return super().advance(state, action)


class Narrow(TSP):
    """It shows more numbers per node than it says."""

    @property
    def feature_dims(self):
        return FeatureDims(node=1, edge=2, roles=2)


class NoEdges(TSP):
    """It shows edges that it does not speak of."""

    @property
    def feature_dims(self):
        return FeatureDims(node=2, roles=2)


class OneRole(TSP):
    """It shows more roles than it says."""

    @property
    def feature_dims(self):
        return FeatureDims(node=2, edge=2, roles=1)


class Wordy(TSP):
    """It promises a scalar and shows none."""

    @property
    def feature_dims(self):
        return FeatureDims(node=2, edge=2, roles=2, scalars=1)


class Infinite(TSP):
    """Its edges hold the logarithm of 0."""

    def instance_features(self, instance):
        nodes, edges = super().instance_features(instance)
        return nodes, EdgeFeatures(edges.values.log())


class OtherMask(TSP):
    """It shows policies another mask."""

    def step_features(self, state):
        step = super().step_features(state)
        return step._replace(action_mask=torch.ones_like(step.action_mask))


class NoSuchNode(TSP):
    """A role is played by a node that does not exist."""

    def step_features(self, state):
        step = super().step_features(state)
        return step._replace(nodes=step.nodes + self.horizon(state.instance))


class SameStart(TSP):
    """It offers the same start again."""

    def first_actions(self, instance, rng=None):
        return super().first_actions(instance, rng) // 2


class OtherStarts(TSP):
    """With a generator it offers fewer starts."""

    def first_actions(self, instance, rng=None):
        starts = super().first_actions(instance, rng)
        return starts if rng is None else starts.clamp_max(3)


class CommonStarts(TSP):
    """It offers nodes to begin with that lie in the upper half of every row."""

    def first_actions(self, instance, rng=None):
        upper = (instance["locs"][..., 1] > 0.2).all(0).nonzero()[:, 0]
        starts = upper.expand(instance.batch_size[0], -1)
        return starts if rng is None else starts.flip(-1)


class FewStarts(TSP):
    """It offers a single start to several rows."""

    def first_actions(self, instance, rng=None):
        return super().first_actions(instance)[:, : 1 if len(instance) > 1 else None]


class Enlarges(TSP):
    """Its images are twice as large."""

    def symmetries(self, instance, count=8, rng=None):
        return [TensorDict({"locs": 2 * instance["locs"]}, batch_size=instance.batch_size)]


class SkewsAtRandom(TSP):
    """Only its random images are wrong."""

    def symmetries(self, instance, count=8, rng=None):
        images = super().symmetries(instance, count, rng)
        if count > 8:
            images[-1]["locs"] = images[-1]["locs"] * torch.tensor([1.0, 1.1])
        return images


class Shuffles(TSP):
    """What it calls the same tour is another."""

    def equivalent_actions(self, instance, actions, count, rng):
        return super().equivalent_actions(instance, actions, count, rng).sort(-1).values


class OpensAnotherSolution(TSP):
    """The solution that its neighbourhoods are parts of is another."""

    def neighbourhood(self, instance, actions, free, rng):
        return super().neighbourhood(instance, actions.sort(-1).values, free, rng)


class OpensNothing(TSP):
    """Its neighbourhoods are empty."""

    def neighbourhood(self, instance, actions, free, rng):
        part = super().neighbourhood(instance, actions, free, rng)
        return part._replace(begin=part.end)


class ForgetsWhatComesLast(TSP):
    """Its neighbourhoods end before what is kept comes."""

    def neighbourhood(self, instance, actions, free, rng):
        part = super().neighbourhood(instance, actions, free, rng)
        return part._replace(end=part.begin + 1)


class WalksTheOtherWay(TSP):
    """Its walk names the current node first."""

    def walk(self, instance):
        return super().walk(instance)._replace(roles=("current", "first"))


class WalksWithoutEnd(TSP):
    """Its walk has another horizon."""

    def walk(self, instance):
        return super().walk(instance)._replace(horizon=99)


BROKEN = [
    (AllowsAll, "random solutions are valid", "the mask allowed what the referee refuses: row 0"),
    (EndsEarly, "random solutions are valid", "not every rollout is done after the horizon of 5 steps"),
    (DeadEnd, "random solutions end", "no action is allowed at step 1"),
    (ForgetsTheWayHome, "rewards sum to the objective", "the sum of rewards is"),
    (WrongSign, "rewards sum to the objective", "the sum of rewards is"),
    (CoarseObjective, "rewards sum to the objective", "float64"),
    (OtherStep, "torchrl steps alike", "TorchRL's reward of step 0"),
    (NeverDone, "torchrl steps alike", "TorchRL's done of step 5"),
    (TakesAll, "steps refuse what the mask forbids", r"step 1 takes the action \d, which the mask does not allow"),
    (Restarts, "resets go on from a state", "after step 0, reset with set_state=True gives another"),
    (NeverRestarts, "resets go on from a state", "after step 0, reset with set_state=False gives another"),
    (OneSeed, "unseeded environments differ", "two of them draw the same instances"),
    (IgnoresTorch, "unseeded environments differ", "after the same torch.manual_seed they draw other"),
    (WrongSpecs, "specs hold", "keys of the specs and data do not match"),
    (BlindReferee, "broken solutions are named", "is broken, and the referee does not say so"),
    (SilentReferee, "broken solutions are named", "gives no reason"),
    (MisplacedReferee, "broken solutions are named", "row 1, rollout 0 is broken, and the referee does not say so"),
    (CountsOnly, "broken solutions are named", "action repeated"),
    (CountsBelowZero, "finished rows rest", "padding changes 'num_left'"),
    (PaysForPadding, "finished rows rest", "padding has a reward other than 0"),
    (OpenEnd, "finished rows rest", "does not allow exactly one action"),
    (ChargesPadding, "finished rows rest", "the objective with padding is"),
    (Unseeded, "seeds decide", "the same seed gives other instances"),
    (Constant, "seeds decide", "another seed gives the same instances"),
    (Forgetful, "seeds decide", "the same seed gives other instances"),
    (Reseeds, "seeds decide", "global generator has moved"),
    (GlobalActions, "seeds decide", "random rollout"),
    (ComparesRows, "rows stand alone", "reward of row 0 alone"),
    (BatchFeatures, "rows stand alone", "features of row 0 alone"),
    (InPlace, "functions are pure", "step 0: the state or the action is changed in place"),
    (InPlaceOnce, "functions are pure", "step 0: the state or the action is changed in place"),
    (Centres, "functions are pure", "the instance is changed in place"),
    (Peeks, "stepping reads no values", "meta"),
    (Narrow, "features fit", "feature_dims says 1 numbers"),
    (NoEdges, "features fit", "EdgeFeatures are shown"),
    (OneRole, "features fit", "feature_dims says 1 roles"),
    (Wordy, "features fit", "scalars do not have the width 1"),
    (Infinite, "features fit", "not finite"),
    (OtherMask, "features fit", "the features' mask is not the state's"),
    (NoSuchNode, "features fit", "outside of -1 to 5"),
    (CommonStarts, "starts are each rows own", "3 first actions are offered to rows that alone have"),
    (FewStarts, "starts are each rows own", "1 first actions are offered to rows that alone have 6"),
    (SameStart, "starts are allowed", "comes twice"),
    (OtherStarts, "starts are allowed", "with a generator the first actions are others"),
    (Enlarges, "symmetries keep the objective", "objective under image 0"),
    (SkewsAtRandom, "symmetries keep the objective", "objective under image 11"),
    (Shuffles, "equivalent actions are the same solution", "objective of equivalent actions"),
    (OpensAnotherSolution, "neighbourhoods are parts of the solution", "objective of a neighbourhood is"),
    (OpensNothing, "neighbourhoods are parts of the solution", "opens steps 6 to 6 of 6"),
    (ForgetsWhatComesLast, "neighbourhoods are parts of the solution", "what was built in a neighbourhood is refused"),
    (WalksTheOtherWay, "a walk is the environments own", "the walk's nodes of step 2"),
    (WalksWithoutEnd, "a walk is the environments own", "its walk ends after 99 steps; the horizon is 6"),
]


@pytest.mark.parametrize(("problem", "law", "words"), BROKEN, ids=[problem.__name__ for problem, _, _ in BROKEN])
def test_a_broken_law_is_found_and_named(problem, law, words):
    """A problem that breaks one law is stopped by that law, in one line that says how."""
    distribution = "clustered" if problem is Forgetful else "uniform"
    if issubclass(problem, TSPDistribution):
        env = Task(TSP(), problem(6, distribution))
    else:
        env = problem(Task.of(TSP, 6)) if issubclass(problem, Env) else Task.of(problem, 6)
    with pytest.raises(LawBroken, match=words) as caught:
        check_env(env)
    assert str(caught.value).startswith(f"tsp breaks the law '{law}': ")
    assert "\n" not in str(caught.value)


class LargerVehicles(CVRP):
    """Its walk has twice the capacity."""

    def walk(self, instance):
        walk = super().walk(instance)
        return walk._replace(capacity=2 * walk.capacity)


def test_a_walk_of_other_vehicles_is_found():
    """A kernel would load more than the environment does."""
    with pytest.raises(LawBroken, match="'a walk is the environments own': the walk's scalars of step 1, row 0"):
        check_env(Task.of(LargerVehicles, 6))


class RepeatsCustomers(CVRP):
    """It lengthens solutions by their last action, a customer."""

    padded = Problem.padded


def test_unsound_padding_is_found():
    """What `padded` makes of a solution that ends with a customer is shown to the referee."""
    with pytest.raises(LawBroken, match=r"'shorter solutions are padded': padded: .*customer"):
        check_env(Task.of(RepeatsCustomers, 5))


def test_hidden_state_is_found():
    """Dynamics that depend on anything but state and action are found."""
    env = Task.of(TSP, 6)
    case = laws.Case(env, 0, env.generate(2, torch.Generator()), torch.arange(6).expand(2, 2, 6))
    assert list(laws.functions_are_pure(case)) == []
    case = laws.Case(Task.of(Remembers, 6), 0, case.instances, case.actions)
    assert "advance gives another successor the second time" in next(laws.functions_are_pure(case))


@pytest.mark.parametrize("brute_force", [lambda _: 0.5, lambda _: 1e9], ids=["lower", "higher"])
def test_a_wrong_optimum_is_found(brute_force):
    """The optimum over all sequences must be the one that brute force finds, neither better nor worse."""
    with pytest.raises(LawBroken, match="law 'enumeration finds the optimum': the best of all sequences is"):
        check_env(Task.of(TSP, 6), tiny=Task.of(TSP, 5), brute_force=brute_force)


def test_a_mask_that_hides_the_optimum_is_found():
    """A mask under which every solution is valid but the best cannot be reached is found by enumeration."""

    class Ordered(Bag):
        def _mask(self, instance, load, taken):
            mask = super()._mask(instance, load, taken)
            lightest = instance["weight"].argmin(-1)[:, None, None].expand(*mask.shape[:2], 1)
            alone = mask.scatter(-1, lightest, False)[..., :-1]  # the lightest item may never be taken
            return torch.cat([alone, ~alone.any(-1, keepdim=True)], dim=-1)

        def first_actions(self, instance, rng=None):
            return super().first_actions(instance)[:, :0]

    check_env(Task.of(Ordered))
    with pytest.raises(LawBroken, match="the best of all sequences"):
        check_env(Task.of(Ordered), tiny=Task.of(Ordered, 4), brute_force=fullest_bag)


def test_too_many_sequences_are_refused(monkeypatch):
    """A tiny environment that is not tiny is refused before it fills the memory."""
    monkeypatch.setattr(laws, "MAX_SEQUENCES", 100)
    with pytest.raises(LawBroken, match="tiny has over 100 action sequences"):
        check_env(Task.of(TSP, 6), tiny=Task.of(TSP, 5), brute_force=lambda _: 0.0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"batch_size": 1}, "batch_size: 1 is not allowed; it must be at least 2"),
        ({"rollouts": 1}, "rollouts: 1 is not allowed"),
        ({"tiny": Task.of(TSP, 4)}, "tiny, brute_force"),
        ({"brute_force": len}, "tiny, brute_force"),
    ],
)
def test_bad_arguments_are_refused(arguments, words):
    """Arguments with which a law would say nothing are refused."""
    with pytest.raises(ArgumentError, match=words):
        check_env(Task.of(TSP, 5), **arguments)


def test_check_env_changes_nothing(rng):
    """Checking an environment leaves the global generator, and the environment's own, where they were."""
    env, twin = make("tsp", num_nodes=5), make("tsp", num_nodes=5)
    env.set_seed(3)
    twin.set_seed(3)
    before = torch.random.get_rng_state()
    check_env(env)
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.equal(env.reset()["locs"], twin.reset()["locs"])


def test_a_broken_law_is_an_error_of_the_package():
    """Who catches the package's errors catches a broken law."""
    assert issubclass(LawBroken, NcogymError)
