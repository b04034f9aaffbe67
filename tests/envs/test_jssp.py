from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensordict import TensorDict

from ncogym.baselines import SOLVERS
from ncogym.distribution import stack
from ncogym.envs.formats.jobshop import TAILLARD_SEEDS
from ncogym.envs.scheduling.instances import JSSPDistribution, taillard_instance
from ncogym.envs.scheduling.jssp import JSSP
from ncogym.errors import ArgumentError, InstanceError
from ncogym.features import join_steps
from ncogym.laws import check_env
from ncogym.plotting import draw
from ncogym.task import Task

OPTIONS = ({}, {"distribution": "taillard"}, {"non_delay": True}, {"insertion": True})


def shop(duration, machine):
    """Return an instance of the given rows, batch size ``[1]``."""
    return TensorDict({"duration": torch.tensor([duration]), "machine": torch.tensor([machine])}, batch_size=[1])


def orders(*each):
    """Return actions of one instance, ``[1, rollouts, steps]``."""
    return torch.tensor([each], dtype=torch.int64)


def random_orders(instance, rollouts, rng):
    """Return random orders of all operations, ``[batch, rollouts, steps]``; no operation may be missing."""
    batch, jobs, machines = instance["duration"].shape
    keys = torch.rand(batch, rollouts, jobs * machines, generator=rng)
    return keys.argsort(-1) // machines


@pytest.fixture
def env():
    """Two jobs on two machines."""
    return Task.of(JSSP, 2, 2)


@pytest.fixture
def crossing():
    """Job 0 takes machine 0 for 3 and then machine 1 for 2; job 1 takes machine 1 for 2 and then machine 0 for 4."""
    return shop([[3, 2], [2, 4]], [[0, 1], [1, 0]])


# ---------------------------------------------------------------------- the definition, by brute force


def schedules(instance):
    """Yield start times by job of every semi-active schedule: each machine in each order, left-shifted."""
    durations, machines = instance["duration"][0].tolist(), instance["machine"][0].tolist()
    operations = [(j, k) for j, row in enumerate(machines) for k in range(len(row)) if row[k] >= 0]
    users = [[o for o in operations if machines[o[0]][o[1]] == m] for m in range(1 + max(map(max, machines)))]
    for chosen in itertools.product(*(itertools.permutations(each) for each in users)):
        before = {o: [(o[0], o[1] - 1)] if o[1] else [] for o in operations}
        for order in chosen:
            for earlier, later in itertools.pairwise(order):
                before[later].append(earlier)
        start = dict.fromkeys(operations, 0)
        for _ in range(len(operations) + 1):
            ends = {o: start[o] + durations[o[0]][o[1]] for o in operations}
            moved = {o: max([0, *(ends[b] for b in before[o])]) for o in operations}
            if moved == start:
                yield start
                break
            start = moved  # a cycle never settles


def makespan(instance, start):
    """Return when the last operation ends."""
    return max(begin + int(instance["duration"][0, j, k]) for (j, k), begin in start.items())


def shortest(instance):
    """Return the least makespan over all schedules."""
    return min(makespan(instance, start) for start in schedules(instance))


def delays(instance, start):
    """Return whether an operation waits at some time although its job and its machine are free."""
    duration, machine = instance["duration"][0].tolist(), instance["machine"][0].tolist()
    for (j, k), begin in start.items():
        ready = start[j, k - 1] + duration[j][k - 1] if k else 0
        for time in range(ready, begin):
            busy = (
                machine[i][n] == machine[j][k] and other <= time < other + duration[i][n]
                for (i, n), other in start.items()
            )
            if not any(busy):
                return True
    return False


def shortest_without_delay(instance):
    """Return the least makespan over the schedules in which nothing waits needlessly."""
    return min(makespan(instance, start) for start in schedules(instance) if not delays(instance, start))


@pytest.mark.parametrize(("options", "shape"), [*((o, (3, 2)) for o in OPTIONS), ({}, (2, 3))], ids=str)
def test_the_laws_hold(options, shape):
    """Every law holds, and the best of all sequences is the best of all schedules (of its kind) by the definition."""
    env, tiny = Task.of(JSSP, 4, 3, **options), Task.of(JSSP, *shape, **options)
    brute_force = shortest_without_delay if "non_delay" in options else shortest
    # solvers know nothing of the kind, and may find what it rules out
    solvers = [] if "non_delay" in options else [solver() for solver in SOLVERS.values()]
    checked = check_env(env, seed=5, tiny=tiny, brute_force=brute_force, solvers=solvers)
    assert "enumeration finds the optimum" in checked
    assert ("solvers solve what they take" in checked) == bool(solvers)


def test_a_non_delay_schedule_may_miss_the_optimum():
    """Where machine 0 does well to wait one unit for job 1, no order that the mask allows gives the optimum of 14."""
    instance = shop([[10, 1, 1], [1, 1, 10]], [[0, 1, 2], [1, 0, 2]])
    assert (shortest(instance), shortest_without_delay(instance)) == (14, 22)
    env = Task.of(JSSP, 2, 3, non_delay=True)
    waiting, state = orders([1, 1, 1, 0, 0, 0]), env.start(instance)
    assert (env.objective(instance, waiting).item(), env.violations(instance, waiting)) == (14, [])
    for action in (1, 1):
        allowed = state.action_mask[0, 0, action].item()
        state = env.advance(state, torch.tensor([[action]]))
    assert not allowed


# ---------------------------------------------------------------------- dynamics and referee, by hand


def test_a_schedule_step_by_step(env, crossing):
    """Four operations and padding: places, times, mask and reward are what one reads off the chart."""
    state = env.start(crossing)
    for action, places, jobs, machines, mask, left, reward in (
        (0, [1, 0], [3, 0], [3, 0], [1, 1], 3, -3),
        (1, [1, 1], [3, 2], [3, 2], [1, 1], 2, 0),
        (1, [1, 2], [3, 7], [7, 2], [1, 0], 1, -4),  # machine 0 is free at 3, its job at 2
        (0, [2, 2], [5, 7], [7, 5], [1, 0], 0, 0),  # job 0 ends at 3, its machine is free at 2; then padding
        (0, [2, 2], [5, 7], [7, 5], [1, 0], 0, 0),
    ):
        action = torch.tensor([[action]])
        before, state = state, env.advance(state, action)
        assert state.next_operation.tolist() == [[places]]
        assert state.job_ready.tolist() == [[jobs]]
        assert state.machine_ready.tolist() == [[machines]]
        assert state.action_mask.int().tolist() == [[mask]]
        assert (state.num_left.item(), state.done.item()) == (left, left == 0)
        assert env.reward(before, action, state).item() == reward
    assert state.machine_work.tolist() == [[[7, 4]]]


def test_the_objective_is_the_makespan(env, crossing):
    """The six orders of two jobs give 7, 11 where one job goes first, in float64."""
    found = env.objective(crossing, orders([0, 1, 1, 0], [0, 1, 0, 1], [0, 0, 1, 1], [1, 1, 0, 0], [1, 0, 1, 0]))
    assert found.tolist() == [[7, 7, 11, 11, 7]]
    assert found.dtype == torch.float64


def test_the_schedule_is_what_the_chart_shows(env, crossing):
    """Start times stand where the operation stands in the instance."""
    assert env.schedule(crossing, orders([0, 0, 1, 1])).tolist() == [[[[0, 3], [5, 7]]]]


@pytest.mark.parametrize("padded", [[0, 1, 1, 0], [0, 1, 1, 0, 0], [0, 1, 1, 0, 0, 0, 0]])
def test_padding_is_read_as_nothing_done(env, crossing, padded):
    """Repeats of the job placed last change neither the objective nor the verdict."""
    assert env.objective(crossing, orders(padded)).item() == 7
    assert env.violations(crossing, orders(padded)) == []
    assert env.plain_actions(crossing, torch.tensor(padded)) == [0, 1, 1, 0]


@pytest.mark.parametrize(
    ("order", "words"),
    [
        ([0, 1, 1], "job 0 is placed 1 times in 3 steps; it has 2 operations"),
        ([0, 1, 0, 0], "job 0 is placed 3 times in 4 steps; it has 2 operations"),
        ([0, 1, 1, 0, 1], "step 4 places job 1 after the last operation, of job 0"),
        ([0, 1, 1, 1, 0], "job 0 is placed 1 times in 4 steps; it has 2 operations"),
        ([0, 1, 2, 0], "step 2 places job 2; jobs are 0 to 1"),
        ([0, -1, 1, 0], "step 1 places job -1; jobs are 0 to 1"),
        ([0, 1, 1, 0, 7], "step 4 places job 7; jobs are 0 to 1"),
        ([], "job 0 is placed 0 times in 0 steps; it has 2 operations"),
    ],
)
@pytest.mark.parametrize("insertion", [False, True])
def test_violations_are_told_in_words(crossing, order, words, insertion):
    """The referee says which job or step breaks an order, and scores it without complaint."""
    env = Task.of(JSSP, 2, 2, insertion=insertion)
    assert [v.reason for v in env.violations(crossing, orders(order))] == [words]
    assert env.objective(crossing, orders(order)).isfinite()


def test_violations_name_their_row_and_rollout(env, rng):
    """In a batch the referee points at the broken rollouts and at no other."""
    actions = torch.tensor([0, 1, 1, 0]).repeat(2, 3, 1)
    actions[0, 2, 1] = actions[1, 0, 3] = 5
    found = env.violations(env.generate(2, rng), actions)
    assert [(v.row, v.rollout) for v in found] == [(0, 2), (1, 0)]


def test_times_are_exact(env):
    """Durations whose sum no float32 holds are added exactly, and rewards are their differences."""
    instance = shop([[2**40 + 1, 1], [1, 2**40]], [[0, 1], [1, 0]])
    assert env.objective(instance, orders([0, 1, 1, 0])).item() == 2**41 + 1


def test_non_delay_allows_only_who_begins_first():
    """After job 0 took machine 0 for 3, job 1 can begin at 0 and job 0 only at 3: only job 1 is allowed."""
    env = Task.of(JSSP, 2, 2, non_delay=True)
    state, masks = env.start(shop([[3, 2], [2, 4]], [[0, 1], [1, 0]])), []
    for action in (0, 1, 0, 1, 1):
        masks.append(state.action_mask.int().tolist()[0][0])
        state = env.advance(state, torch.tensor([[action]]))
    assert masks == [[1, 1], [0, 1], [1, 1], [0, 1], [0, 1]]


def test_insertion_fills_a_gap():
    """Job 1's first operation fits before what machine 0 already has, and 8 units become 6, in any reading."""
    instance, order = shop([[1, 5], [1, 1]], [[1, 0], [0, 1]]), orders([0, 0, 1, 1])
    plain, filling = Task.of(JSSP, 2, 2), Task.of(JSSP, 2, 2, insertion=True)
    assert plain.schedule(instance, order).tolist() == [[[[0, 1], [6, 7]]]]
    assert filling.schedule(instance, order).tolist() == [[[[0, 1], [0, 1]]]]
    assert (plain.objective(instance, order).item(), filling.objective(instance, order).item()) == (8, 6)
    printed = filling.plain_actions(instance, order[0, 0])
    assert plain.objective(instance, orders(printed)).item() == 6


@given(seed=st.integers(0, 10**6), zeros=st.booleans())
@settings(max_examples=25, deadline=None)
def test_inserted_schedules_are_read_alike_as_orders(seed, zeros):
    """Ordered by start time, a schedule with filled gaps has its start times both with and without insertion."""
    rng = torch.Generator().manual_seed(seed)
    plain, filling = Task.of(JSSP, 4, 4), Task.of(JSSP, 4, 4, insertion=True)
    instance = filling.generate(2, rng)
    if zeros:
        instance["duration"] = instance["duration"] % 4 * (instance["duration"] % 3)
    actions = random_orders(instance, 3, rng)
    start = filling.schedule(instance, actions)
    assert filling.schedule_violations(instance, start) == []
    assert (filling.objective(instance, actions) <= plain.objective(instance, actions)).float().mean() > 0.5
    order = plain.actions_from_start(instance, start)
    assert plain.violations(instance, order) == []
    assert torch.equal(plain.schedule(instance, order), start)
    assert torch.equal(filling.schedule(instance, order), start)


@pytest.mark.parametrize("options", OPTIONS[1:], ids=str)
def test_jobs_may_come_back_to_a_machine(options, rng):
    """A job that visits a machine twice is stepped and refereed as the definition says."""
    env = Task.of(JSSP, 3, 3, **options)
    instance = shop([[2, 0, 3], [4, 1, 1], [2, 2, 0]], [[0, 1, 0], [1, 1, 0], [0, 0, -1]])
    state, rewards, taken = env.start(instance, 20), [], []
    for _ in range(env.horizon(instance)):
        taken.append(torch.multinomial(state.action_mask[0].float(), 1, generator=rng).T)
        before, state = state, env.advance(state, taken[-1])
        rewards.append(env.reward(before, taken[-1], state))
    actions = torch.stack(taken, dim=-1)
    assert state.done.all()
    assert env.violations(instance, actions) == []
    assert torch.equal(-sum(rewards).double(), env.objective(instance, actions))
    assert env.objective(instance, actions).min() >= shortest(instance)


# ---------------------------------------------------------------------- schedules


def pairwise_sound(instance, start):
    """Say by the definition whether start times are a schedule: no two operations at once, jobs in order."""
    duration, machine, begin = instance["duration"][0], instance["machine"][0], start[0, 0]
    jobs, places = duration.shape
    operations = [(j, k) for j in range(jobs) for k in range(places) if machine[j, k] >= 0]
    if any(begin[o] < 0 for o in operations):
        return False
    for one, other in itertools.combinations(operations, 2):
        ends = begin[one] + duration[one] <= begin[other], begin[other] + duration[other] <= begin[one]
        if one[0] == other[0] and not ends[0]:
            return False
        if machine[one] == machine[other] and not any(ends):
            return False
    return True


@given(seed=st.integers(0, 10**6), shift=st.integers(-6, 6), place=st.integers(0, 8))
@settings(max_examples=60, deadline=None)
def test_a_moved_operation_is_judged_as_the_definition_does(seed, shift, place):
    """A schedule in which one operation is moved is refused exactly where two operations then clash."""
    rng, env = torch.Generator().manual_seed(seed), Task.of(JSSP, 3, 3)
    instance = env.generate(1, rng)
    instance["duration"] = instance["duration"] % 5
    start = env.schedule(instance, random_orders(instance, 1, rng))
    assert env.schedule_violations(instance, start) == []
    start[0, 0, place // 3, place % 3] += shift
    assert (env.schedule_violations(instance, start) == []) == pairwise_sound(instance, start)


@pytest.mark.parametrize(
    ("start", "words"),
    [
        ([[0, 3], [0, 3]], None),
        ([[-1, 3], [0, 3]], "operation 0 of job 0 starts at -1; it must not start before 0"),
        ([[0, 2], [0, 3]], "operation 1 of job 0 starts at 2; the one before ends at 3"),
        ([[0, 3], [0, 2]], "machine 0: job 1 starts at 2; job 0 is on it until 3"),
    ],
)
def test_faults_of_a_schedule_are_told_in_words(env, crossing, start, words):
    """Negative starts, broken job orders and overlaps are named with their times."""
    found = env.schedule_violations(crossing, orders(start))
    assert [v.reason for v in found] == ([words] if words else [])


@given(seed=st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_a_schedule_becomes_an_order_that_is_no_later(seed):
    """Any schedule, with idle time and operations of no duration, is turned into actions that start nothing later."""
    rng, env = torch.Generator().manual_seed(seed), Task.of(JSSP, 4, 3)
    instance = env.generate(2, rng)
    instance["duration"] = instance["duration"] % 3
    start = env.schedule(instance, random_orders(instance, 3, rng)) * 2  # stretched, so that nothing is tight
    order = env.actions_from_start(instance, start)
    assert env.violations(instance, order) == []
    assert (env.schedule(instance, order) <= start).all()


def test_reference_schedules_are_sound(shared_instances):
    """CP-SAT's schedules of the validation sets pass, as start times and as actions, with the makespan they claim."""
    for size in (6, 10):
        stored = np.load(shared_instances / "nco" / f"jssp{size}x{size}_seed4321.npz")
        keys = {name: torch.from_numpy(stored[name].astype(np.int64)) for name in ("duration", "machine")}
        env, instance = Task.of(JSSP, size, size), TensorDict(keys, batch_size=[len(stored["duration"])])
        start = torch.from_numpy(stored["ref_start"].astype(np.int64)).unsqueeze(1)
        assert env.schedule_violations(instance, start) == []
        order = env.actions_from_start(instance, start)
        assert env.violations(instance, order) == []
        assert env.objective(instance, order)[:, 0].tolist() == stored["ref_makespan"].tolist()


# ---------------------------------------------------------------------- instances


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"num_jobs": 0}, "num_jobs: 0 is not allowed; it must be a whole number of at least 1"),
        ({"num_machines": 2.5}, "num_machines: 2.5 is not allowed"),
        ({"num_jobs": True}, "num_jobs: True is not allowed"),
        ({"distribution": "uniform"}, "distribution: 'uniform' is not allowed; it must be one of l2d, taillard"),
        ({"insertion": True, "non_delay": True}, "insertion: True is not allowed with non_delay"),
    ],
)
def test_bad_arguments_are_refused(arguments, words):
    """A refused argument is named with its value and what is allowed."""
    with pytest.raises(ArgumentError) as refusal:
        Task.of(JSSP, **arguments)
    assert str(refusal.value).startswith(words)


@pytest.mark.parametrize(("distribution", "longest"), [("l2d", 98), ("taillard", 99)])
def test_generated_instances(distribution, longest, rng):
    """Durations reach from 1 to 98 or 99, and every job visits every machine, in orders that differ."""
    instances = Task.of(JSSP, 12, 15, distribution=distribution).generate(40, rng)
    assert (instances["duration"].min(), instances["duration"].max()) == (1, longest)
    assert torch.equal(instances["machine"].sort(-1).values, torch.arange(15).expand(40, 12, -1))
    assert instances["machine"][..., 0].flatten().bincount().min() > 10
    assert instances["duration"].double().mean().item() == pytest.approx((longest + 1) / 2, rel=0.02)


def test_seeded_instances_are_those_of_l2d(shared_instances):
    """The validation sets of seed 4321 are drawn as the published recipe draws them, and so is any larger set."""
    for size in (6, 10):
        stored = np.load(shared_instances / "nco" / f"jssp{size}x{size}_seed4321.npz")
        drawn = Task.of(JSSP, size, size).seeded(40, 4321)
        assert np.array_equal(drawn["duration"][:32].numpy(), stored["duration"])
        assert np.array_equal(drawn["machine"][:32].numpy(), stored["machine"])


@pytest.mark.parametrize(("shape", "bound"), [((10, 10), 656.6), ((15, 15), 963.4), ((20, 15), 1209.4)])
def test_seed_200_has_the_published_bounds(shape, bound):
    """The mean lower bound of L2D's 100 test instances is that of the published sets."""
    env = Task.of(JSSP, *shape)
    bounds = env.start(env.seeded(100, 200)).instance["bound"]
    assert bounds.mean().item() == pytest.approx(bound, abs=0.05)


def test_published_sets_are_those_of_l2d_and_taillard():
    """L2D's sets are seed 200; each of Taillard's is a single instance of his seeds."""
    found, drawn = JSSPDistribution.reference_set("l2d-jssp20x15"), Task.of(JSSP, 20, 15).seeded(100, 200)
    assert all(torch.equal(found[key], drawn[key]) for key in ("duration", "machine"))
    one = JSSPDistribution.reference_set("ta11")
    assert torch.equal(one["duration"], taillard_instance(*TAILLARD_SEEDS["ta11"])["duration"])
    assert one.batch_size == (1,)


def test_arrays_are_read():
    """A schedule becomes its order; -1 is nothing known, and a makespan that equals its bound is proven."""
    shop = {"duration": np.array([[[3, 2], [2, 4]]] * 3), "machine": np.array([[[0, 1], [1, 0]]] * 3, dtype=np.int16)}
    starts = np.array([[[0, 3], [0, 3]], [[0, 4], [0, 3]], [[-1, -1], [-1, -1]]])
    known = {"ref_makespan": np.array([7, 8, -1]), "ref_lower_bound": np.array([7, 7, -1]), "ref_start": starts}
    found = JSSP.from_arrays({**shop, **known})
    assert found.instances["machine"].dtype == torch.int64
    assert found.best_known.nan_to_num(-1).tolist() == [7, 8, -1]
    assert found.proven.tolist()[:2] == [True, False]
    assert JSSP().objective(found.instances, found.actions[:, None])[:2, 0].tolist() == [7, 7]
    assert JSSP.from_arrays(shop)[1:] == (None, None, None)
    assert JSSP.from_arrays({"duration": shop["duration"]}) is None
    for change, words in (({"machine": shop["machine"] + 1}, "job 0 has the machine 2"), ({"duration": starts}, "-1")):
        with pytest.raises(InstanceError, match=f"instance .: .*{words}"):
            JSSP.from_arrays({**shop, **change})


def test_arrays_of_different_lengths_are_read():
    """What `stack` pads is read back, with a schedule that has -1 where there is no operation."""
    ones = [shop([[3, 2], [2, 4]], [[0, 1], [1, 0]]), shop([[5, 0]], [[1, -1]])]
    stacked = stack(ones, JSSP.padding)
    arrays = {name: stacked[name].numpy() for name in ("duration", "machine")}
    starts = np.array([[[0, 3], [0, 3]], [[0, -1], [-1, -1]]])
    found = JSSP.from_arrays({**arrays, "ref_makespan": np.array([7, 5]), "ref_start": starts})
    assert all(torch.equal(found.instances[name], stacked[name]) for name in arrays)
    env = JSSP()
    assert env.objective(found.instances, found.actions[:, None]).tolist() == [[7], [5]]
    assert not env.violations(found.instances, found.actions[:, None])
    for change, words in (([-1, 0], "job 0 has the machine -1, no operation"), ([-1, -1], "there is no operation")):
        machine = np.array([[[1, 0], [0, 1]], [change, [-1, -1]]])
        with pytest.raises(InstanceError, match=f"instance 1: {words}"):
            JSSP.from_arrays({"duration": np.zeros((2, 2, 2), dtype=int), "machine": machine})


def test_a_file_whose_jobs_leave_machines_out_is_scheduled(env, tmp_path):
    """It is read, written and read again, and has the makespan that one counts by hand."""
    (tmp_path / "ragged.jsp").write_text("3 3\n1 3 0 2\n0 4\n1 1 2 6\n")
    instance = env.read(tmp_path / "ragged.jsp")
    actions = torch.tensor(
        [[[2, 1, 0, 2, 0]]]
    )  # machine 1: jobs 2, 0; machine 0: jobs 1, 0; machine 2: job 2 from 1 to 7
    assert env.objective(instance, actions).item() == shortest(instance) == 7
    assert not env.violations(instance, actions)
    env.write(instance, tmp_path / "again.jsp")
    again = env.read(tmp_path / "again.jsp")
    assert all(torch.equal(again[name], instance[name]) for name in ("duration", "machine"))


def test_other_sizes_keep_the_proportion():
    """A resized environment keeps its options and scales the machines with the jobs."""
    env = Task.of(JSSP, 20, 15, insertion=True, distribution="taillard")
    assert env.resized(10).arguments() == {**env.arguments(), "num_jobs": 10, "num_machines": 8}
    assert Task.of(JSSP, 20, 5).resized(1).num_machines == 1
    assert env.instance_size(env.seeded(2, 0)) == env.size == 20


def test_taillards_instances_can_be_solved(rng):
    """ta01 is an instance of 15 by 15, and no order of it is shorter than its optimum of 1231."""
    instance = taillard_instance(*TAILLARD_SEEDS["ta01"])
    env = Task.of(JSSP, 15, 15)
    orders_ = random_orders(instance, 50, rng)
    assert env.violations(instance, orders_) == []
    assert env.objective(instance, orders_).min() >= 1231


# ---------------------------------------------------------------------- batches of different sizes


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_stacked_instances_behave_as_alone(options, rng):
    """In a padded batch each instance has the mask, times, rewards, features and scores that it has alone."""
    env = Task.of(JSSP, 3, 3, **options)
    ones = [Task.of(JSSP, *shape).generate(1, rng) for shape in ((3, 2), (2, 4), (4, 4))]
    ones.append(shop([[5, 0, 0], [2, 0, 7]], [[1, -1, -1], [0, 2, 1]]))  # jobs of different length
    batch = stack(ones, JSSP.padding)
    assert batch["duration"].shape == batch["machine"].shape == (4, 4, 4)
    together, alone, taken = env.start(batch, 3), [env.start(one, 3) for one in ones], []
    graph = env.instance_features(batch)[0]
    assert (graph.values[graph.machines < 0] == 0).all()
    for row, one in enumerate(ones):
        jobs, machines = one["duration"].shape[1:]
        mine = env.instance_features(one)[0].values.view(jobs, machines, -1)
        torch.testing.assert_close(graph.values[row].view(4, 4, -1)[:jobs, :machines], mine)
    for _ in range(env.horizon(batch) + 1):
        step = env.step_features(together)
        for row, state in enumerate(alone):
            jobs, own = state.job_ready.shape[-1], env.step_features(state)
            assert torch.equal(together.action_mask[row, :, :jobs], state.action_mask[0])
            assert not together.action_mask[row, :, jobs:].any()
            assert torch.equal(together.job_ready[row, :, :jobs], state.job_ready[0])
            assert together.done[row].tolist() == state.done[0].tolist()
            torch.testing.assert_close(step.candidates[row, :, :jobs], own.candidates[0])
            torch.testing.assert_close(step.scalars[row], own.scalars[0])
            assert (step.candidates[row, :, jobs:] == 0).all()
            assert (step.candidate_nodes[row, :, jobs:] == -1).all()
        mask = together.action_mask.flatten(0, 1)
        taken.append(torch.multinomial(mask.float(), 1, generator=rng).view(4, 3))
        before, together = together, env.advance(together, taken[-1])
        for row, state in enumerate(alone):
            alone[row] = env.advance(state, taken[-1][row : row + 1])
            mine = env.reward(state, taken[-1][row : row + 1], alone[row])
            assert torch.equal(env.reward(before, taken[-1], together)[row], mine[0])
    actions = torch.stack(taken, dim=-1)
    assert env.violations(batch, actions) == []
    equivalent = env.equivalent_actions(batch, actions[:, 0], 5, rng)
    assert env.violations(batch, equivalent) == []
    for row, one in enumerate(ones):
        mine = env.objective(one, actions[row : row + 1])
        assert torch.equal(env.objective(batch, actions)[row], mine[0])
        assert (env.objective(batch, equivalent)[row] == mine[0, 0]).all()
        assert len(env.plain_actions(one, actions[row, 0])) == (one["machine"] >= 0).sum()


def test_nothing_cannot_be_stacked():
    """An empty list is refused."""
    with pytest.raises(ArgumentError, match="instances: none is given"):
        stack([], JSSP.padding)


def test_first_actions_are_jobs_that_have_operations(rng):
    """In a padded batch only jobs with an operation are starts; rows with fewer go round again."""
    batch = stack([Task.of(JSSP, jobs, 2).generate(1, rng) for jobs in (2, 4)], JSSP.padding)
    env = Task.of(JSSP, 4, 2)
    assert env.first_actions(batch).tolist() == [[0, 1, 0, 1], [0, 1, 2, 3]]
    drawn = {tuple(row) for _ in range(40) for row in env.first_actions(batch, rng).tolist()}
    assert {row[:2] for row in drawn if max(row) < 2} >= {(0, 1), (1, 0)}
    assert len(drawn) > 15


# ---------------------------------------------------------------------- files


def test_both_file_layouts_are_one_instance(env, data):
    """A file and its twin in Taillard's layout have the same optimum, 11, which brute force finds."""
    one, other = env.read(data / "three_jobs.jsp"), env.read(data / "three_jobs_taillard.jsp")
    assert all(torch.equal(one[key], other[key]) for key in ("duration", "machine"))
    assert one.batch_size == (1,)
    assert shortest(one) == 11


def test_a_written_instance_is_read_back(env, rng, tmp_path):
    """What `write` writes, `read` reads."""
    instance = Task.of(JSSP, 5, 3).generate(1, rng)
    env.write(instance, tmp_path / "mine.jsp")
    again = env.read(tmp_path / "mine.jsp")
    assert all(torch.equal(instance[key], again[key]) for key in ("duration", "machine"))


def test_a_written_solution_holds_the_start_times(env, crossing, tmp_path):
    """The schedule file has the makespan in a comment and a line of start times a job."""
    written = env.write_solution(crossing, torch.tensor([0, 1, 1, 0]), tmp_path / "mine.jsp", "mine")
    assert written == tmp_path / "mine.schedule"
    first, *rows = written.read_text().splitlines()
    assert first.startswith("# mine: makespan 7;")
    assert rows == ["0 3", "0 3"]


# ---------------------------------------------------------------------- features, views, picture


def test_features_are_free_of_the_time_unit(rng):
    """An instance with all durations ten times as long shows the same numbers, at rest and on the way."""
    env = Task.of(JSSP, 5, 4)
    instance = env.generate(3, rng)
    longer = instance.clone().update({"duration": 10 * instance["duration"]})
    actions, shown = random_orders(instance, 2, rng), []
    for each in (instance, longer):
        state, steps = env.start(each, 2), []
        for action in actions.unbind(-1):
            steps.append(env.step_features(state))
            state = env.advance(state, action)
        joined = join_steps(steps)
        shown.append((env.instance_features(each)[0].values, joined.scalars, joined.candidates))
    for mine, theirs in zip(*shown, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_operation_features_by_hand(env, crossing):
    """The numbers of the four operations are what one counts: mean duration 2.75, lower bound 7 (machine 0)."""
    graph = env.instance_features(crossing)[0]
    assert graph.jobs.tolist() == [[0, 0, 1, 1]]
    assert graph.machines.tolist() == [[0, 1, 1, 0]]
    mean = 2.75
    expected = {
        0: [3 / mean, 2 / mean, 2 / mean, 4 / mean],
        1: [0.5 / mean, -0.5 / mean, -1 / mean, 1 / mean],
        2: [-0.5 / mean, 0, 0, 0.5 / mean],
        3: [0, -1 / mean, -2 / mean, 0],
        4: [-1 / mean, 0, 0, 0],
        5: [0, 1, 0, 1],
        6: [0, 3 / 5, 0, 2 / 6],
        7: [2 / 5, 0, 4 / 6, 0],
        8: [0, 3 / 7, 0, 2 / 7],
        9: [2 / 7, 0, 4 / 7, 0],
        10: [5 / 7, 5 / 7, 6 / 7, 6 / 7],
        11: [1, 4 / 7, 4 / 7, 1],
        12: [-1 / 7, 1.5 / 7, -1.5 / 7, 1 / 7],
    }
    assert graph.values.shape[-1] == len(expected) == env.feature_dims.operation
    for column, values in expected.items():
        torch.testing.assert_close(graph.values[0, :, column], torch.tensor(values, dtype=torch.float32))


def test_candidate_features_by_hand(env, crossing):
    """After job 0's first operation: times in sevenths, of job 0 on machine 1 and of job 1 on machine 1."""
    state = env.advance(env.start(crossing), torch.tensor([[0]]))
    step = env.step_features(state)
    assert step.candidate_nodes.tolist() == [[[1, 2]]]
    job0 = [0, -3, 2, 3, 3, 1.5, -2, 0, -2, -3, -3, 2, 2, 4]
    job1 = [-3, -3, -1, 0, 0, -1.5, 2, 0, -1, -3, 0, 2, 6, 4]
    torch.testing.assert_close(step.candidates[0, 0] * 7, torch.tensor([job0, job1]).float())
    torch.testing.assert_close(step.scalars[0, 0], torch.tensor([1 / 4, 3 / 7, 0]))
    for action in (0, 1, 1):
        state = env.advance(state, torch.tensor([[action]]))
    finished = env.step_features(state)
    assert finished.candidate_nodes.tolist() == [[[-1, -1]]]
    assert not finished.candidates.any()
    assert finished.scalars[0, 0, 0] == 1


def test_solvers_see_the_instance(env, crossing):
    """Solvers see durations and machines as whole numbers in processing order."""
    model = env.model(crossing)
    assert model.durations.tolist() == [[[3, 2], [2, 4]]]
    assert model.machines.tolist() == [[[0, 1], [1, 0]]]
    assert model.durations.dtype == model.machines.dtype == torch.int64


@pytest.mark.parametrize("options", [{}, {"non_delay": True}, {"insertion": True}], ids=str)
def test_equivalent_actions_are_the_same_schedule(options, rng):
    """Other orders of a solution have its start times, differ, and are allowed step by step."""
    env = Task.of(JSSP, 6, 4, **options)
    instance = env.generate(2, rng)
    instance["duration"] = instance["duration"] % 4
    state, taken = env.start(instance), []
    for _ in range(24):
        action = torch.multinomial(state.action_mask[:, 0].float(), 1, generator=rng)
        state = env.advance(state, action)
        taken.append(action)
    solution = torch.cat(taken, dim=1)
    others = env.equivalent_actions(instance, solution, 30, rng)
    start = env.schedule(instance, solution[:, None])
    assert torch.equal(env.schedule(instance, others), start.expand(-1, 30, -1, -1))
    assert len(set(map(tuple, others[0].tolist()))) > 20
    state = env.start(instance, 30)
    for action in others.unbind(-1):
        assert state.action_mask.gather(-1, action.unsqueeze(-1)).all()
        state = env.advance(state, action)
    assert state.done.all()


def test_neighbourhoods_are_windows_of_time(rng):
    """Only operations of the window may be placed in it; every operation is open at times."""
    env = Task.of(JSSP, 4, 3)
    instance = env.generate(2, rng)
    solution = torch.stack([torch.arange(12)[torch.randperm(12, generator=rng)] % 4 for _ in range(2)])[:, None]
    start, opened = env.schedule(instance, solution), torch.zeros(4, 3)
    for _ in range(60):
        part = env.neighbourhood(instance, solution, 5, rng)
        assert part.end - part.begin == 5
        assert torch.equal(env.schedule(instance, part.actions), start)
        times = start.flatten(2).sort(-1).values[..., part.begin : part.end]
        inside = (start >= times[..., :1, None]) & (start <= times[..., -1:, None])
        opened += inside[0, 0]
        state = part.env.start(instance, 1)
        for number in range(part.end):
            if number == part.begin:
                left = part.env.step_features(state).action_mask
                window = part.actions[..., part.begin : part.end]
                assert torch.equal(left, torch.zeros_like(left).scatter(-1, window, True))
            state = part.env.advance(state, part.actions[..., number])
        assert not part.env.step_features(state).action_mask.any()
        assert part.env.horizon(instance) == part.end
    assert (opened > 0).all()


def test_time_can_be_reversed(rng):
    """The second image has every job backwards; the mirrored order of jobs has the same makespan there, 9 by hand."""
    env, empty = Task.of(JSSP, 2, 2), -1
    instance = TensorDict(
        {"duration": torch.tensor([[[3, 2], [4, 0]]]), "machine": torch.tensor([[[0, 1], [1, empty]]])}, batch_size=[1]
    )
    same, mirrored = env.symmetries(instance, 8)
    assert torch.equal(same["duration"], instance["duration"])
    assert mirrored["duration"].tolist() == [[[2, 3], [4, 0]]]
    assert mirrored["machine"].tolist() == [[[1, 0], [1, empty]]]
    actions = torch.tensor([[[0, 0, 1, 1]]])  # the last is padding
    backwards = env.imaged(instance, actions, 1)
    assert backwards.tolist() == [[[1, 0, 0, 0]]]
    assert env.objective(instance, actions).item() == env.objective(mirrored, backwards).item() == 9
    assert env.imaged(mirrored, backwards, 1).tolist() == actions.tolist()


@pytest.mark.parametrize("option", ["non_delay", "insertion"])
def test_other_schedules_have_no_mirror(option, rng):
    """What would place operations otherwise in reversed time stands alone."""
    env = Task.of(JSSP, 2, 2, **{option: True})
    instance = env.generate(2, rng)
    assert env.symmetries(instance, 8) == [instance]


def test_a_schedule_can_be_drawn(env, crossing, tmp_path):
    """A picture file is written."""
    pytest.importorskip("matplotlib")
    draw(env.sketch(crossing, torch.tensor([0, 1, 1, 0])), tmp_path / "chart.png", "two jobs")
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")


def test_a_sketch_is_the_gantt_chart(env, crossing):
    """A bar an operation from its start on, as wide as it lasts, the first machine on top, a colour a job."""
    sketch = env.sketch(crossing, torch.tensor([0, 1, 1, 0]))
    assert [tuple(bar) for bar in sketch.bars] == [
        *((0, 1, 3, 1, 0, "0"), (3, 0, 2, 1, 0, "0"), (0, 0, 2, 1, 1, "1"), (3, 1, 4, 1, 1, "1")),
    ]
    assert (sketch.width, sketch.height, sketch.proportional) == (7, 2, False)
    partial = env.sketch(crossing, torch.tensor([1, 5]))  # what was placed of a broken solution
    assert [bar.label for bar in partial.bars] == ["1"]
    assert env.sketch(crossing, torch.empty(0, dtype=torch.int64)).width == 0
