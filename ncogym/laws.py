"""The laws that every problem keeps, and `check_env`, which holds any environment to them.

Dynamics (`start`, `advance`, `reward` and the mask) and referee (`objective`, `violations`) are written apart; most
laws say that the two agree on random solutions. A law is a generator of complaints and its docstring states it; the
first complaint ends the check as `LawBroken`.

An environment may define ``broken_solutions(instance, actions)``, which returns further broken solutions of its own
problem by name, in the form of `generic_broken_solutions`; None under a generic name says that this kind is no fault
there (a knapsack with an item left out is still a knapsack).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor
from torchrl.envs.utils import check_env_specs, step_mdp

from ncogym.budget import Budget
from ncogym.envs.env import Env
from ncogym.errors import ArgumentError, NcogymError, NoSolutionFound, SolverNotInstalled
from ncogym.features import EdgeFeatures, NodeFeatures, OperationGraph, SparseEdges, Walk
from ncogym.task import Task

MAX_SEQUENCES = 200_000
TOLERANCE = 1e-5  # relative: rewards are float32, objectives float64


class LawBroken(NcogymError):
    """An environment breaks a law; the text names the environment and the law and says how."""


@dataclass(frozen=True)
class Case:
    """What the laws are tried on.

    Attributes:
        env: the problem.
        seed: of every generator that a law needs.
        instances: drawn from that seed, batch size ``[batch]``.
        actions: masked random solutions of them, int64 ``[batch, rollouts, steps]``.
        tiny: an environment so small that its solutions can be enumerated, or None.
        brute_force: the best objective of an instance of ``tiny`` (batch size ``[1]``), from the definition, or None.
        solvers: of which each says by ``supports`` whether it solves this problem.
        bridge: what joins the problem with TorchRL.
    """

    env: Task
    seed: int
    instances: TensorDict
    actions: Tensor
    tiny: Any = None
    brute_force: Callable[[TensorDict], float] | None = None
    solvers: tuple[Any, ...] = ()
    bridge: type[Env] = Env

    @property
    def rng(self) -> torch.Generator:
        """A new generator that starts from the seed."""
        return torch.Generator().manual_seed(self.seed)


def check_env(
    env: Env | Task,
    seed: int = 0,
    *,
    batch_size: int = 3,
    rollouts: int = 4,
    tiny: Any = None,
    brute_force: Callable[[TensorDict], float] | None = None,
    solvers: Iterable[Any] = (),
) -> tuple[str, ...]:
    """Hold an environment to the laws and return the names of those that were checked.

    Args:
        env: the problem and its distribution, as a `Task` or as `ncogym.make` returns them; both are rebuilt from their
            ``arguments()`` where a law needs fresh ones.
        seed: of the instances and of the random solutions.
        batch_size: instances, at least 2.
        rollouts: random solutions per instance, at least 2.
        tiny: the same problem in a size whose solutions can be enumerated (at most `MAX_SEQUENCES`).
        brute_force: takes an instance of ``tiny`` (batch size ``[1]``) and returns its best objective, found from the
            definition of the problem and without this environment; given together with ``tiny`` or not at all.
        solvers: classical solvers, such as ``[make() for make in ncogym.baselines.SOLVERS.values()]``, against which
            what the problem shows (``model``) is held; those whose package is not installed are passed over.

    Raises:
        LawBroken: a law is broken; the text says which and how.
        ArgumentError: an argument is not allowed.
    """
    for name, value in (("batch_size", batch_size), ("rollouts", rollouts)):
        if value < 2:
            raise ArgumentError(f"{name}: {value} is not allowed; it must be at least 2")
    if (tiny is None) != (brute_force is None):
        raise ArgumentError("tiny, brute_force: only one is given; the law that uses them needs both")
    bridge = type(env) if isinstance(env, Env) else Env
    task, tiny = _task(env), None if tiny is None else _task(tiny)
    laws = list(LAWS)
    if tiny is not None:
        laws.append(enumeration_finds_the_optimum)
    taken = tuple(solvers)
    if taken:
        laws.append(solvers_solve_what_they_take)
    if torch.cuda.is_available():
        laws.append(devices_agree)
    with _naming(task, "random solutions end"):
        rng = torch.Generator().manual_seed(seed)
        instances = task.generate(batch_size, rng)
        actions = _random_actions(task, instances, rollouts, rng)
        case = Case(task, seed, instances, actions, tiny, brute_force, taken, bridge)
    for law in laws:
        with _naming(task, _title(law)):
            for complaint in law(case):
                raise LawBroken(complaint)
    return tuple(_title(law) for law in laws)


# ---------------------------------------------------------------------- dynamics against referee


def random_solutions_are_valid(case: Case) -> Iterator[str]:
    """Every masked random rollout is done after ``horizon`` steps, and the referee has nothing against it."""
    *_, (_, _, last) = _walk(case.env, case.instances, case.actions)
    if not last.done.all():
        yield f"not every rollout is done after the horizon of {case.actions.shape[-1]} steps"
    for violation in case.env.violations(case.instances, case.actions):
        yield f"the mask allowed what the referee refuses: {violation}"


def rewards_sum_to_the_objective(case: Case) -> Iterator[str]:
    """The rewards of a rollout sum to its objective, signed so that more is better."""
    reward = torch.stack([case.env.reward(*step) for step in _walk(case.env, case.instances, case.actions)])
    objective = case.env.objective(case.instances, case.actions)
    if reward.dtype != torch.float32 or objective.dtype != torch.float64:
        yield f"rewards are {reward.dtype} and objectives {objective.dtype}; they must be float32 and float64"
    yield from _difference("the sum of rewards", reward.sum(0, dtype=torch.float64), _signed(case.env, objective))


def torchrl_steps_alike(case: Case) -> Iterator[str]:
    """TorchRL's ``step``, from instances given to ``reset``, gives the same rewards and ends with the row."""
    env = _torchrl(case)
    tensordict = env.reset(case.instances.clone())
    actions = case.actions[:, :1]
    for number, (state, action, successor) in enumerate(_walk(case.env, case.instances, actions)):
        tensordict["action"] = action[:, 0]
        stepped = env.step(tensordict)
        reward = case.env.reward(state, action, successor)
        yield from _difference(f"TorchRL's reward of step {number}", stepped["next", "reward"], reward)
        if not torch.equal(stepped["next", "done"], successor.done):
            yield f"TorchRL's done of step {number} differs from the state's"
        tensordict = step_mdp(stepped)


def steps_refuse_what_the_mask_forbids(case: Case) -> Iterator[str]:
    """TorchRL's ``step`` refuses an action that the mask of its row does not allow, though other rows are sound."""
    env = _torchrl(case)
    tensordict = env.reset(case.instances.clone())
    for number, action in enumerate(case.actions[:, 0].unbind(-1)):
        mask = tensordict["action_mask"][-1]
        for wrong in (*(~mask).nonzero()[:1, 0].tolist(), -1, len(mask)):
            tensordict["action"] = torch.cat([action[:-1], action.new_tensor([wrong])])
            try:
                env.step(tensordict.clone(False))
            except ArgumentError:
                continue
            yield f"step {number} takes the action {wrong}, which the mask does not allow"
        tensordict["action"] = action
        tensordict = step_mdp(env.step(tensordict))


def resets_go_on_from_a_state(case: Case) -> Iterator[str]:
    """TorchRL's ``reset`` goes on from a state that it is given, and begins anew if it is told so."""
    env = _torchrl(case)
    start = env.reset(case.instances.clone())
    tensordict, keys = start.clone(), [*env.observation_spec.keys(), "done"]
    for number, action in enumerate(case.actions[:, 0].unbind(-1)):
        tensordict["action"] = action
        tensordict = step_mdp(env.step(tensordict))
        for set_state, expected in ((True, tensordict), (False, start)):
            found = env.reset(tensordict.clone(), set_state=set_state)
            for key in keys:
                if not torch.equal(found[key], expected[key]):
                    yield f"after step {number}, reset with set_state={set_state} gives another {key!r}"


def specs_hold(case: Case) -> Iterator[str]:
    """TorchRL's own ``check_env_specs`` passes, with batch size ``()`` and ``(batch,)``."""
    for batch_size in ((), tuple(case.instances.batch_size)):
        env = _torchrl(case, batch_size=batch_size)
        env.set_seed(case.seed)
        check_env_specs(env, break_when_any_done="both")
    yield from ()


def broken_solutions_are_named(case: Case) -> Iterator[str]:
    """The referee names each broken solution of a batch, in words, and no other."""
    kinds: dict[str, Tensor | None] = {**generic_broken_solutions(case)}
    if hasattr(case.env, "broken_solutions"):
        kinds |= case.env.broken_solutions(case.instances, case.actions)
    for kind, broken in kinds.items():
        if broken is None:
            continue
        violations = case.env.violations(case.instances, broken)
        changed = torch.ones(broken.shape[:-1], dtype=torch.bool, device=broken.device)
        if broken.shape == case.actions.shape:
            changed = (broken != case.actions).any(-1)
        expected = {(row, rollout) for row, rollout in changed.nonzero().tolist()}
        named = {(violation.row, violation.rollout) for violation in violations}
        for row, rollout in sorted(expected - named):
            yield f"{kind}: row {row}, rollout {rollout} is broken, and the referee does not say so"
        for row, rollout in sorted(named - expected):
            yield f"{kind}: row {row}, rollout {rollout} is sound, and the referee refuses it"
        if not all(violation.reason.strip() for violation in violations):
            yield f"{kind}: the referee gives no reason"


def generic_broken_solutions(case: Case) -> dict[str, Tensor]:
    """Return broken forms of the case's solutions: each changes one rollout alone, or all if it changes the length."""
    solution = case.actions[-1, -1]
    num_actions = case.env.start(case.instances).action_mask.shape[-1]
    changes = {"action out of range": (0, num_actions), "negative action": (0, -1)}
    moves = (solution[1:] != solution[:-1]).nonzero()
    if len(moves):
        step = int(moves[0])
        changes["action repeated"] = (step + 1, int(solution[step]))
    kinds = {"first step left out": case.actions[..., 1:]}
    for kind, (step, action) in changes.items():
        kinds[kind] = case.actions.clone()
        kinds[kind][-1, -1, step] = action
    return kinds


def finished_rows_rest(case: Case) -> Iterator[str]:
    """A finished row has one allowed action, of log-probability exactly 0; it changes no state and no score."""
    rng, padded = case.rng, case.actions
    *_, (_, _, state) = _walk(case.env, case.instances, case.actions)
    for _ in range(2):
        padding = state.action_mask.long().argmax(-1)
        padded = torch.cat([padded, padding.unsqueeze(-1)], dim=-1)
        state = case.env.advance(state, padding)
    for number, (state, action, successor) in enumerate(_walk(case.env, case.instances, padded)):
        done, at = state.done, f"after step {number}"
        logits = torch.randn(state.action_mask.shape, generator=rng).masked_fill(~state.action_mask, -torch.inf)
        log_prob = torch.log_softmax(logits, dim=-1).gather(-1, action.unsqueeze(-1)).squeeze(-1)
        if (state.action_mask.sum(-1)[done] != 1).any():
            yield f"{at}: a finished row does not allow exactly one action"
        if (log_prob[done] != 0).any():
            yield f"{at}: padding has a log-probability other than 0"
        if (case.env.reward(state, action, successor)[done] != 0).any():
            yield f"{at}: padding has a reward other than 0"
        for name, value in _tensors(state).items():
            if not torch.equal(value[done], _tensors(successor)[name][done]):
                yield f"{at}: padding changes {name!r}"
    after, before = (case.env.objective(case.instances, actions) for actions in (padded, case.actions))
    yield from _difference("the objective with padding", after, before, tolerance=1e-12)
    if case.env.violations(case.instances, padded) != case.env.violations(case.instances, case.actions):
        yield "padding changes the violations"


def shorter_solutions_are_padded(case: Case) -> Iterator[str]:
    """A solution that is cut off where it is done, and lengthened again by ``padded``, is the same solution."""
    whole = case.actions.shape[-1]
    for number, (_, _, successor) in enumerate(_walk(case.env, case.instances, case.actions), start=1):
        for row, rollout in successor.done.nonzero().tolist():
            instance, actions = case.instances[row : row + 1], case.actions[row : row + 1, rollout : rollout + 1]
            longer = case.env.padded(instance, actions[..., :number], whole)
            if case.env.violations(instance, longer):
                yield f"padded: {case.env.violations(instance, longer)[0].reason}"
            found, expected = (case.env.objective(instance, each) for each in (longer, actions))
            yield from _difference("the objective of what is padded", found, expected, tolerance=1e-12)


def enumeration_finds_the_optimum(case: Case) -> Iterator[str]:
    """On tiny instances the best of all masked action sequences is what brute force over the definition finds."""
    if case.brute_force is None:
        return
    instances = case.tiny.generate(3, case.rng)
    for row in range(3):
        instance = instances[row : row + 1]
        objective = case.tiny.objective(instance, _every_sequence(case.tiny, instance))
        best = objective.min() if case.tiny.sense == "min" else objective.max()
        expected = torch.tensor(float(case.brute_force(instance)), dtype=torch.float64)
        yield from _difference("the best of all sequences", best, expected)


def solvers_solve_what_they_take(case: Case) -> Iterator[str]:
    """A solver that says it supports the problem gives feasible solutions of it, and what it proves is the optimum."""
    env = case.env if case.tiny is None else case.tiny
    instances = env.generate(2, case.rng)
    best = [None if case.brute_force is None else float(case.brute_force(instances[row : row + 1])) for row in (0, 1)]
    for solver in case.solvers:
        if not solver.supports(env, instances):
            continue
        try:
            found = _solved(solver, env, instances, case.rng)
        except SolverNotInstalled:
            continue
        except NcogymError as error:
            yield f"{solver.name} supports it, and then says: {error}"
            continue
        for row, (solution, expected) in enumerate(zip(found, best, strict=True)):
            if not solution.feasible:
                yield f"{solver.name} supports it, and its solution of row {row} is broken: {solution.violation}"
            if expected is not None:
                value = torch.tensor(solution.objective)
                optimum = torch.tensor(expected)
                better = value < optimum if env.sense == "min" else value > optimum
                if solution.proven or better:
                    yield from _difference(f"what {solver.name} calls the best of row {row}", value, optimum)


def _solved(solver: Any, env: Any, instances: TensorDict, rng: torch.Generator) -> Any:
    """Solve within moments, or, on a machine too busy for that, in the time that the solver takes of its own accord."""
    try:
        return solver(env, instances, Budget(seconds=0.2, rollouts=64), rng)
    except NoSolutionFound:
        return solver(env, instances, None, rng)


# ---------------------------------------------------------------------- randomness, purity, devices


def seeds_decide(case: Case) -> Iterator[str]:
    """The same seed gives the same instances, also to an env rebuilt, and the global generator is never touched."""
    batch, other = case.instances.batch_size[0], torch.Generator().manual_seed(case.seed + 1)
    with torch.random.fork_rng(devices=[]):
        torch.random.set_rng_state(other.get_state())  # so that an env that reseeds it on every call is seen
        env = _torchrl(case)
        first, again = dict(case.env.generate(batch, case.rng).items()), dict(env.generate(batch, case.rng).items())
        runs = []
        for _ in range(2):
            env.set_seed(case.seed)
            env.reset()
            runs.append(dict(env.rollout(case.actions.shape[-1]).flatten_keys().items()))
        env.first_actions(case.instances, rng=case.rng)
        env.symmetries(case.instances, rng=case.rng)
        env.seeded(2, case.seed)
        moved = not torch.equal(torch.random.get_rng_state(), other.get_state())
    if not _equal(first, again):
        yield "the same seed gives other instances"
    if _equal(first, dict(env.generate(batch, other).items())):
        yield "another seed gives the same instances"
    if not _equal(*runs):
        yield "the same set_seed gives another random rollout"
    if moved:
        yield "torch's global generator has moved"


def unseeded_environments_differ(case: Case) -> Iterator[str]:
    """Environments that nobody has seeded draw other instances than each other, and follow ``torch.manual_seed``."""
    runs = []
    with torch.random.fork_rng(devices=[]):
        for _ in range(2):
            torch.manual_seed(case.seed)
            envs = [_torchrl(case, batch_size=tuple(case.instances.batch_size)) for _ in range(2)]
            runs.append([dict(env.reset().select(*case.instances.keys()).items()) for env in envs])
    if _equal(*runs[0]):
        yield "two of them draw the same instances"
    if not all(_equal(ones, others) for ones, others in zip(*runs, strict=True)):
        yield "after the same torch.manual_seed they draw other instances"


def rows_stand_alone(case: Case) -> Iterator[str]:
    """A row of a batch, and a rollout of a row, have the states, rewards and scores that they have alone."""
    env, together = case.env, list(_walk(case.env, case.instances, case.actions))
    objective = env.objective(case.instances, case.actions)
    features = env.instance_features(case.instances)
    for row in range(case.actions.shape[0]):
        instance = case.instances[row : row + 1]
        for feature, of_all in zip(env.instance_features(instance), features, strict=True):
            yield from _difference(f"features of row {row} alone", feature.values[0], of_all.values[row])
        for rollouts in (slice(None), slice(-1, None)):
            actions, at = case.actions[row : row + 1, rollouts], f"row {row} alone"
            yield from _difference(f"objective of {at}", env.objective(instance, actions)[0], objective[row, rollouts])
            for mine, shared in zip(_walk(env, instance, actions), together, strict=True):
                yield from _difference(f"reward of {at}", env.reward(*mine)[0], env.reward(*shared)[row, rollouts])
                for name, value in _tensors(mine[2]).items():
                    yield from _difference(f"{name!r} of {at}", value[0], _tensors(shared[2])[name][row, rollouts])


def functions_are_pure(case: Case) -> Iterator[str]:
    """No method changes its arguments, and ``advance`` gives the same successor twice."""
    env, instances = case.env, case.instances.clone()
    own = {name: value.clone() for name, value in instances.items()}
    env.instance_features(instances)
    env.first_actions(instances)
    env.symmetries(instances)
    env.objective(instances, case.actions)
    env.violations(instances, case.actions)
    state = env.start(instances, case.actions.shape[1])
    for number, given in enumerate(case.actions.unbind(-1)):
        action, before = given.clone(), {name: value.clone() for name, value in _tensors(state).items()}
        successor, again = env.advance(state, action), env.advance(state, action)
        env.reward(state, action, successor)
        env.step_features(state)
        if not _equal(before, _tensors(state)) or not torch.equal(action, given):
            yield f"step {number}: the state or the action is changed in place"
        if not _equal(_tensors(successor), _tensors(again)):
            yield f"step {number}: advance gives another successor the second time"
        state = successor
    if not _equal(own, dict(instances.items())):
        yield "the instance is changed in place"


def stepping_reads_no_values(case: Case) -> Iterator[str]:
    """``start``, ``advance``, ``reward`` and ``step_features`` never bring a tensor's value to the host.

    They run here on the meta device, whose tensors have no values; a branch on one, or a new tensor on another device,
    fails.
    """
    for step in _walk(case.env, case.instances.to("meta"), case.actions.to("meta")):
        case.env.reward(*step)
        case.env.step_features(step[0])
    yield from ()


def devices_agree(case: Case, device: str = "cuda") -> Iterator[str]:
    """CPU and GPU give the same states, rewards and scores; the GPU draws from a generator of its own."""
    env, instances, actions = case.env, case.instances.to(device), case.actions.to(device)
    pairs = zip(_walk(env, instances, actions), _walk(env, case.instances, case.actions), strict=True)
    for number, (there, here) in enumerate(pairs):
        yield from _difference(f"reward of step {number} on the GPU", env.reward(*there).cpu(), env.reward(*here))
        for name, value in _tensors(there[2]).items():
            yield from _difference(f"{name!r} of step {number} on the GPU", value.cpu(), _tensors(here[2])[name])
    objective = env.objective(instances, actions).cpu()
    yield from _difference("objective on the GPU", objective, env.objective(case.instances, case.actions))
    if env.violations(instances, actions) != env.violations(case.instances, case.actions):
        yield "violations differ on the GPU"
    rng = torch.Generator(device).manual_seed(case.seed)
    drawn = env.generate(actions.shape[0], rng)
    env.first_actions(drawn, rng)
    env.symmetries(drawn, 9, rng)
    if any(value.device.type != device for value in drawn.values()):
        yield "instances drawn from the GPU's generator are not on the GPU"


# ---------------------------------------------------------------------- what policies and searches rely on


def features_fit(case: Case) -> Iterator[str]:
    """Features have the widths of ``feature_dims`` and are finite; nodes exist; the mask is the state's own."""
    dims, batch = case.env.feature_dims, case.instances.batch_size[0]
    widths = {
        NodeFeatures: dims.node,
        EdgeFeatures: dims.edge,
        SparseEdges: dims.sparse,
        OperationGraph: dims.operation,
    }
    shown = {type(feature): feature for feature in case.env.instance_features(case.instances)}
    for kind, width in widths.items():
        if (kind in shown) != (width > 0):
            found = "shown" if kind in shown else "missing"
            yield f"{kind.__name__} are {found}, but feature_dims says {width} numbers"
    for kind, feature in shown.items():
        width = widths.get(kind, feature.values.shape[-1])
        if feature.values.shape[0] != batch or feature.values.shape[-1] != width:
            yield f"{kind.__name__} have the shape {tuple(feature.values.shape)}; feature_dims says {width} numbers"
        if feature.values.dtype != torch.float32 or not feature.values.isfinite().all():
            yield f"{kind.__name__} are not finite float32 numbers"
    for ends in (each.ends for each in shown.values() if isinstance(each, SparseEdges)):
        whose = next((each for each in shown.values() if isinstance(each, NodeFeatures)), None)
        if whose is None or not ((ends >= -1) & (ends < whose.values.shape[1])).all():
            yield "an edge has an end that is no node"
    counted = (feature for feature in shown.values() if not isinstance(feature, SparseEdges))
    nodes = max((feature.values.shape[1] for feature in counted), default=0)
    kinds = next((each.kinds for each in shown.values() if isinstance(each, NodeFeatures)), None)
    if kinds is not None and not ((kinds >= 0) & (kinds < dims.kinds)).all():
        yield f"a node's kind is outside of 0 to {dims.kinds - 1}"
    for number, (state, _, _) in enumerate(_walk(case.env, case.instances, case.actions)):
        step, at = case.env.step_features(state), f"step {number}"
        if not torch.equal(step.action_mask, state.action_mask):
            yield f"{at}: the features' mask is not the state's"
        if step.nodes.shape != (*state.done.shape, dims.roles):
            yield f"{at}: nodes have the shape {tuple(step.nodes.shape)}; feature_dims says {dims.roles} roles"
        if not ((step.nodes >= -1) & (step.nodes < nodes)).all():
            yield f"{at}: a role is played by a node outside of -1 to {nodes - 1}"
        if step.candidate_nodes is not None:
            if step.candidate_nodes.shape != step.action_mask.shape:
                yield f"{at}: candidate_nodes have the shape {tuple(step.candidate_nodes.shape)}; the mask has another"
            elif not ((step.candidate_nodes >= -1) & (step.candidate_nodes < nodes)).all():
                yield f"{at}: an action stands for a node outside of -1 to {nodes - 1}"
        for name, base, width in (
            ("scalars", state.done, dims.scalars),
            ("candidates", step.action_mask, dims.candidates),
        ):
            values = getattr(step, name)
            if (values is None) != (width == 0) or (values is not None and values.shape != (*base.shape, width)):
                yield f"{at}: {name} do not have the width {width} of feature_dims"
            if values is not None and not (values.dtype == torch.float32 and values.isfinite().all()):
                yield f"{at}: {name} are not finite float32 numbers"


def starts_are_allowed(case: Case) -> Iterator[str]:
    """The first actions of a multi-start are allowed and distinct; a generator changes only their order."""
    mask = case.env.start(case.instances).action_mask[:, 0]
    ordered, drawn = case.env.first_actions(case.instances), case.env.first_actions(case.instances, rng=case.rng)
    if not mask.gather(1, ordered).all():
        yield "a first action is not allowed"
    if (ordered.sort(1).values.diff(dim=1) == 0).any():
        yield "a first action comes twice"
    if not torch.equal(ordered.sort(1).values, drawn.sort(1).values):
        yield "with a generator the first actions are others"


def starts_are_each_rows_own(case: Case) -> Iterator[str]:
    """The first actions of a row are those that it has alone, in their order: cut, or repeated, to a common number."""
    together = case.env.first_actions(case.instances)
    alone = [case.env.first_actions(instance)[0] for instance in case.instances.split(1)]
    counts, count = [len(own) for own in alone], together.shape[1]
    if not min(counts) <= count <= max(counts):
        yield f"{count} first actions are offered to rows that alone have {min(counts)} to {max(counts)}"
    for row, own in enumerate(alone):
        expected = own[torch.arange(count, device=own.device) % len(own)]
        yield from _difference(f"the first actions of row {row}", together[row], expected)


def symmetries_keep_the_objective(case: Case) -> Iterator[str]:
    """Every image of an instance, fixed or random, gives every solution its objective, and there is a way back."""
    objective = case.env.objective(case.instances, case.actions)
    fixed, drawn = case.env.symmetries(case.instances), case.env.symmetries(case.instances, 12, case.rng)
    for number, image in (*enumerate(fixed), *enumerate(drawn)):
        actions = case.env.imaged(case.instances, case.actions, number)
        yield from _difference(f"objective under image {number}", case.env.objective(image, actions), objective)
        yield from map(str, case.env.violations(image, actions))
        back = case.env.imaged(image, actions, number)
        yield from _difference("actions that come back from an image", back, case.actions)


def equivalent_actions_are_the_same_solution(case: Case) -> Iterator[str]:
    """What ``equivalent_actions`` draws has the objective of the solution it comes from, and no violation."""
    solution = case.actions[:, 0]
    others = case.env.equivalent_actions(case.instances, solution, 6, case.rng)
    expected = case.env.objective(case.instances, case.actions[:, :1]).expand(-1, 6)
    yield from _difference("objective of equivalent actions", case.env.objective(case.instances, others), expected)
    for violation in case.env.violations(case.instances, others):
        yield f"equivalent actions are refused: {violation}"


def neighbourhoods_are_parts_of_the_solution(case: Case) -> Iterator[str]:
    """What ``neighbourhood`` opens belongs to the same solution, and whatever is done instead gives a valid one."""
    env, instances, rng = case.env, case.instances, case.rng
    for free in (1, 3, env.horizon(instances)):
        part = env.neighbourhood(instances, case.actions, free, rng)
        expected = env.objective(instances, case.actions)
        yield from _difference("objective of a neighbourhood", env.objective(instances, part.actions), expected)
        for violation in env.violations(instances, part.actions):
            yield f"a neighbourhood is no solution: {violation}"
        if not 0 <= part.begin < part.end <= part.actions.shape[-1]:
            steps = part.actions.shape[-1]
            yield f"a neighbourhood opens steps {part.begin} to {part.end} of {steps}"
        state = part.env.start(instances, case.actions.shape[1])
        for action in part.actions[..., : part.begin].unbind(-1):
            state = part.env.advance(state, action)
        as_it_was, built = state, [part.actions[..., : part.begin]]
        for number in range(part.begin, part.end):
            mask, action = part.env.step_features(as_it_was).action_mask, part.actions[..., number]
            if not mask.gather(-1, action.unsqueeze(-1)).all():
                yield f"a neighbourhood does not allow what the solution did at step {number}"
            as_it_was = part.env.advance(as_it_was, action)
        for _ in range(part.begin, part.env.horizon(instances)):
            mask = part.env.step_features(state).action_mask
            drawn = torch.multinomial(mask.flatten(0, 1).float(), 1, generator=rng).view(mask.shape[:2])
            built.append(drawn.unsqueeze(-1))
            state = part.env.advance(state, drawn)
        for violation in env.violations(instances, torch.cat([*built, part.actions[..., part.end :]], dim=-1)):
            yield f"what was built in a neighbourhood is refused: {violation}"


def a_walk_is_the_environments_own(case: Case) -> Iterator[str]:
    """What kernels follow, the walk that an environment offers, shows and allows what the environment does itself."""
    walk = case.env.walk(case.instances)
    if walk is None:
        return
    if walk.horizon != case.env.horizon(case.instances):
        yield f"its walk ends after {walk.horizon} steps; the horizon is {case.env.horizon(case.instances)}"
    steps = [case.env.step_features(state) for state, _, _ in _walk(case.env, case.instances, case.actions)]
    for row, rollouts in enumerate(case.actions.tolist()):
        for rollout, actions in enumerate(rollouts):
            nodes = steps[0].action_mask.shape[-1]
            for number, (mask, roles, scalars) in enumerate(_walked(walk, row, actions, nodes)):
                where = f"of step {number}, row {row}, rollout {rollout}"
                step = steps[number]
                yield from _difference(f"the walk's mask {where}", torch.tensor(mask), step.action_mask[row, rollout])
                yield from _difference(f"the walk's nodes {where}", torch.tensor(roles), step.nodes[row, rollout])
                if step.scalars is not None:
                    shown = step.scalars[row, rollout]
                    yield from _difference(f"the walk's scalars {where}", torch.tensor(scalars), shown)


LAWS: tuple[Callable[[Case], Iterator[str]], ...] = (
    random_solutions_are_valid,
    functions_are_pure,  # early: what is not pure breaks other laws too
    rewards_sum_to_the_objective,
    torchrl_steps_alike,
    steps_refuse_what_the_mask_forbids,
    resets_go_on_from_a_state,
    specs_hold,
    broken_solutions_are_named,
    finished_rows_rest,
    shorter_solutions_are_padded,
    seeds_decide,
    unseeded_environments_differ,
    features_fit,
    rows_stand_alone,
    stepping_reads_no_values,
    starts_are_allowed,
    starts_are_each_rows_own,
    symmetries_keep_the_objective,
    equivalent_actions_are_the_same_solution,
    neighbourhoods_are_parts_of_the_solution,
    a_walk_is_the_environments_own,
)


# ---------------------------------------------------------------------- helpers


def _walked(
    walk: Walk, row: int, actions: list[int], nodes: int
) -> Iterator[tuple[list[bool], list[int], list[float]]]:
    """Follow a rollout by the words of its walk alone; yield the mask, the nodes and the scalars of each step."""
    depot = walk.demand is not None
    demand = walk.demand[row].tolist() if walk.demand is not None else [0.0] * nodes
    capacity = float(walk.capacity[row]) if walk.capacity is not None else 0.0
    slack = float(walk.slack[row]) if walk.slack is not None else 0.0
    open_nodes, load = set(range(int(depot), nodes)), capacity
    first = current = 0 if depot else -1
    for action in actions:
        mask = [node in open_nodes and (not depot or demand[node] <= load + slack) for node in range(nodes)]
        if depot:
            mask[0] = current != 0 or not open_nodes
        if not open_nodes:
            mask[current] = True
        known = {"first": first, "current": current, "room": load / capacity if depot else 0.0}
        known["left"] = len(open_nodes) / (nodes - 1)
        yield mask, [int(known[role]) for role in walk.roles], [known[scalar] for scalar in walk.scalars]
        open_nodes.discard(action)
        first = action if first < 0 else first
        current = 0 if depot and not open_nodes else action
        load = capacity if current == 0 else load - demand[action]


@contextmanager
def _naming(env: Any, law: str) -> Iterator[None]:
    """Turn whatever fails inside into a `LawBroken` that names the environment and the law."""
    try:
        yield
    except Exception as error:
        words = str(error) if isinstance(error, LawBroken) else f"{type(error).__name__}: {error}"
        raise LawBroken(f"{env.name} breaks the law '{law}': {words.strip().splitlines()[0]}") from error


def _title(law: Callable[..., Any]) -> str:
    return law.__name__.replace("_", " ")


def _task(env: Env | Task) -> Task:
    return env.task if isinstance(env, Env) else env


def _rebuilt(task: Task) -> Task:
    problem, distribution = task.problem, task.distribution
    fresh = type(distribution)(**distribution.arguments())
    return Task(type(problem)(**problem.arguments()), fresh)  # type: ignore[abstract]


def _torchrl(case: Case, **more: Any) -> Env:
    return case.bridge(_rebuilt(case.env), **more)


def _signed(env: Any, objective: Tensor) -> Tensor:
    return -objective if env.sense == "min" else objective


def _tensors(state: Any) -> dict[str, Tensor]:
    """Return a state's tensors by name, the instance left out."""
    return {name: value for name, value in state._asdict().items() if isinstance(value, Tensor)}


def _equal(ones: dict[str, Tensor], others: dict[str, Tensor]) -> bool:
    return ones.keys() == others.keys() and all(torch.equal(ones[name], others[name]) for name in ones)


def _difference(what: str, found: Tensor, expected: Tensor, tolerance: float = TOLERANCE) -> Iterator[str]:
    """Complain if ``found`` is not ``expected``: exact for whole numbers and masks, else relative to the largest."""
    if found.shape != expected.shape:
        yield f"{what} has the shape {tuple(found.shape)}; it must be {tuple(expected.shape)}"
    elif not found.is_floating_point():
        if not torch.equal(found, expected):
            yield f"{what} is {found.tolist()}; it must be {expected.tolist()}"
    else:
        found, expected = found.double(), expected.double()
        error = (found - expected).abs().nan_to_num(torch.inf).where(found != expected, 0.0)
        scale = expected[expected.isfinite()].abs().amax() if expected.isfinite().any() else 0.0
        if (error > tolerance * scale).any():
            worst = int(error.argmax())
            yield f"{what} is {found.flatten()[worst]}; it must be {expected.flatten()[worst]}"


def _walk(env: Any, instances: TensorDict, actions: Tensor) -> Iterator[tuple[Any, Tensor, Any]]:
    """Yield state, action and successor of each step of ``actions``, int64 ``[batch, rollouts, steps]``."""
    state = env.start(instances, actions.shape[1])
    for action in actions.unbind(-1):
        successor = env.advance(state, action)
        yield state, action, successor
        state = successor


def _random_actions(env: Any, instances: TensorDict, rollouts: int, rng: torch.Generator) -> Tensor:
    state, actions = env.start(instances, rollouts), []
    for number in range(env.horizon(instances)):
        if not state.action_mask.any(-1).all():
            raise LawBroken(f"no action is allowed at step {number}")
        drawn = torch.multinomial(state.action_mask.flatten(0, 1).float(), 1, generator=rng)
        actions.append(drawn.view(-1, rollouts))
        state = env.advance(state, actions[-1])
    return torch.stack(actions, dim=-1)


def _every_sequence(env: Any, instance: TensorDict) -> Tensor:
    """Return all masked action sequences of one instance, int64 ``[1, sequences, steps]``, by breadth-first search."""
    state = env.start(instance)
    actions = torch.empty(1, 1, 0, dtype=torch.int64)
    for _ in range(env.horizon(instance)):
        parent, action = state.action_mask[0].nonzero(as_tuple=True)
        if len(parent) > MAX_SEQUENCES:
            raise LawBroken(f"tiny has over {MAX_SEQUENCES} action sequences, too many to enumerate")
        actions = torch.cat([actions[:, parent], action[None, :, None]], dim=-1)
        parents = state._replace(**{name: value[:, parent] for name, value in _tensors(state).items()})
        state = env.advance(parents, action[None])
    return actions
