"""The processor's kernel does what the plain loop does: actions, log-probabilities, and every gradient."""

from __future__ import annotations

import ctypes
import os
import signal
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from ncogym import kernels, make
from ncogym.errors import Abandoned, ArgumentError, NcogymWarning, SolverError
from ncogym.kernels import cpu
from ncogym.policies.attention import AttentionPolicy
from ncogym.policies.decoding import Greedy, Sample
from ncogym.policies.graph import GraphPolicy
from ncogym.rollout import act, log_probs, replay

ENVS = {
    "tsp": make("tsp", num_nodes=35),
    "tiny": make("tsp", num_nodes=3),
    "atsp": make("atsp", num_nodes=17),
    "cvrp": make("cvrp", num_customers=33),
    "one route": make("cvrp", num_customers=9, capacity=1000),
}
NETWORKS = {  # heads of 8, 4, 16, 12 and 32: whole vectors of the processor, parts of one, and several
    "8": {"dim": 16, "num_heads": 2},
    "4": {"dim": 8, "num_heads": 2},
    "16": {"dim": 48, "num_heads": 3},
    "12": {"dim": 12, "num_heads": 1},
    "32": {"dim": 64, "num_heads": 2},
}


@pytest.fixture(autouse=True, scope="module")
def _compiler():
    if isinstance(built := cpu._library(16, 2, 1, 0), str):
        pytest.skip(built)


def make_policy(env, **arguments) -> AttentionPolicy:
    """Return a small attention policy, none of whose parts is idle."""
    torch.manual_seed(0)
    arguments = {"dim": 16, "num_heads": 2, "num_layers": 1, "feedforward": 16, **arguments}
    policy = AttentionPolicy(env.feature_dims, **arguments)
    if policy.edge_bias is not None:
        nn.init.normal_(policy.edge_bias.network[2].weight, std=0.3)
    return policy


def run(env, policy, decoding, acting, rng, batch=3, starts=False, rollouts=7, **arguments):
    """Let a policy act on instances that the generator decides."""
    instances = env.generate(batch, rng.manual_seed(1))
    encoded = policy.encode(env.instance_features(instances))
    first = env.first_actions(instances) if starts else None
    return act(
        env,
        policy,
        encoded,
        instances,
        decoding,
        rng.manual_seed(2),
        rollouts=rollouts,
        first_actions=first,
        log_prob=True,
        acting=acting,
        **arguments,
    )


def assert_same(env, plain, fast):
    """Compare rollouts, of which one in a hundred may differ where rounding decides a near tie."""
    instances, steps = plain.instances, max(plain.actions.shape[-1], fast.actions.shape[-1])
    one, other = (env.padded(instances, t.actions, steps) for t in (plain, fast))
    same = (one == other).all(-1)
    assert same.float().mean() >= 0.99
    torch.testing.assert_close(fast.log_prob[same], plain.log_prob[same], rtol=1e-4, atol=1e-4)
    assert env.violations(instances, fast.actions) == []


class Allowed:
    """A clock that allows so many seconds."""

    def __init__(self, seconds):
        self.allowed = seconds

    def look(self):
        """There is time to begin."""


def test_rollouts_end_with_their_time(rng):
    """Rollouts of seconds are given up within them; those that end in time are as without a clock."""
    env = make("tsp", num_nodes=1000)
    policy, settings = make_policy(env), {"batch": 1, "rollouts": 2}
    plain, timed = (run(env, policy, Sample(), "kernel", rng, clock=c, **settings) for c in (None, Allowed(1e6)))
    assert torch.equal(plain.actions, timed.actions)
    with pytest.raises(Abandoned):
        run(env, policy, Sample(), "kernel", rng, batch=1, rollouts=100, clock=Allowed(1e-3))


@pytest.mark.parametrize("env", ENVS.values(), ids=ENVS)
@pytest.mark.parametrize("starts", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("decoding", [Greedy(), Sample(), Sample(temperature=0.5)], ids=["greedy", "sample", "cool"])
def test_it_acts_like_the_plain_loop(env, starts, bias, decoding, rng):
    """For the same seed it takes the plain loop's actions and knows their log-probability."""
    policy = make_policy(env, edge_bias=bias)
    plain, fast = (run(env, policy, decoding, acting, rng, starts=starts) for acting in ("eager", "kernel"))
    assert fast.forced == plain.forced == starts
    assert_same(env, plain, fast)


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_it_takes_networks_of_any_width(network, rng):
    """Whatever part of a vector a head fills, actions and gradients are those of the plain loop."""
    env = ENVS["cvrp"]
    policy = make_policy(env, **network)
    plain, fast = (run(env, policy, Sample(), acting, rng) for acting in ("eager", "kernel"))
    assert_same(env, plain, fast)
    assert_same_gradients(env, policy, plain)


def gradients(env, policy, trajectories, acting, **arguments):
    """Return log-probabilities, and every gradient of a loss that weighs each rollout differently."""
    encoded = policy.encode(env.instance_features(trajectories.instances))
    scored = log_probs(env, policy, encoded, trajectories, acting=acting, **arguments)
    weights = torch.linspace(-1, 2, scored.numel()).view_as(scored).roll(1, 0)
    return scored.detach(), torch.autograd.grad((weights * scored).sum(), list(policy.parameters()), allow_unused=True)


def assert_same_gradients(env, policy, trajectories):
    """Compare the kernel's scores with the plain pass, each gradient relative to its own size."""
    trajectories = replace(trajectories, log_prob=None)
    plain, fast = (gradients(env, policy, trajectories, acting) for acting in ("eager", "kernel"))
    torch.testing.assert_close(fast[0], plain[0], rtol=1e-4, atol=1e-4)
    noise = 0.01 * max(g.abs().max() for g in plain[1] if g is not None)
    for (name, _), mine, theirs in zip(policy.named_parameters(), fast[1], plain[1], strict=True):
        # after a start nobody plays the part of "nobody": no gradient, which the kernel tells as zeros
        difference = mine if theirs is None else mine - theirs
        assert difference.abs().max() <= 1e-3 * max(0 if theirs is None else theirs.abs().max(), noise), name


@pytest.mark.parametrize("env", ENVS.values(), ids=ENVS)
@pytest.mark.parametrize("starts", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_it_scores_like_the_plain_pass(env, starts, bias, rng):
    """Log-probabilities and every gradient are those of the plain pass, with and without a forced start."""
    policy = make_policy(env, edge_bias=bias)
    assert_same_gradients(env, policy, run(env, policy, Sample(), "eager", rng, starts=starts))


def test_its_gradient_is_that_of_differences(rng):
    """A step along a table's gradient changes the log-probability as the gradient says."""
    env = ENVS["cvrp"]
    policy = make_policy(env)
    acted = run(env, policy, Sample(), "kernel", rng)
    encoded = policy.encode(env.instance_features(acted.instances))
    walk, pointer = env.walk(acted.instances), policy.as_pointer(encoded)
    weights = torch.rand(acted.reward.shape, generator=rng)
    found = cpu.gradient(pointer, walk, acted.actions, 0, weights)
    names = ["keys", "values", "logit_keys", "queries", "bias", "scalars"]
    assert pointer._fields[:6] == tuple(names)
    for name, gradient in zip(names, found, strict=True):
        value = getattr(pointer, name).detach()
        step = gradient * (0.02 * value.norm() / gradient.norm())
        up, down = (
            (weights * cpu.log_prob(pointer._replace(**{name: value + sign * step}), walk, acted.actions, 0)).sum()
            for sign in (1, -1)
        )
        assert (up - down).item() / 2 == pytest.approx((gradient * step).sum().item(), rel=0.02), name


def test_known_log_probabilities_are_not_computed_again(rng, monkeypatch):
    """After acting only the gradient is computed, and only of the rollouts whose weight is not 0."""
    env = ENVS["tsp"]
    policy = make_policy(env)
    acted = run(env, policy, Sample(), "kernel", rng)
    monkeypatch.setattr(cpu, "log_prob", None)
    whole = gradients(env, policy, acted, "auto")
    best = acted.reward.argmax(1, keepdim=True)
    encoded = policy.encode(env.instance_features(acted.instances))
    taken = []
    gradient = cpu.gradient
    monkeypatch.setattr(cpu, "gradient", lambda *a: (taken.append(a[2].shape[1]), gradient(*a))[1])
    log_probs(env, policy, encoded, acted, carrying=1).gather(1, best).sum().backward()
    assert taken == [1]
    assert len(whole[1]) == len(list(policy.parameters()))


def test_heads_may_be_sharp(rng):
    """Where visited nodes had nearly all of a head's attention, the shares of the others are still found."""
    env = ENVS["tsp"]
    policy = make_policy(env)
    with torch.no_grad():
        policy.glimpse.weight.mul_(60)
    plain, fast = (run(env, policy, Sample(), acting, rng, rollouts=20) for acting in ("eager", "kernel"))
    keys = policy.encode(env.instance_features(plain.instances)).keys
    assert keys.abs().amax() > 50  # so that products of query and keys spread over hundreds
    assert_same(env, plain, fast)
    assert_same_gradients(env, policy, plain)


def test_threads_change_nothing(rng):
    """One thread, and two that share the rollouts of an instance, give the same actions and the same sums."""
    env = ENVS["cvrp"]
    policy, threads = make_policy(env), torch.get_num_threads()
    found = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            acted = run(env, policy, Sample(), "kernel", rng, batch=5)
            assert cpu._parts(acted.actions) == count
            encoded = policy.encode(env.instance_features(acted.instances))
            pointer, walk = policy.as_pointer(encoded), env.walk(acted.instances)
            found.append(
                (acted.actions, acted.log_prob, *cpu.gradient(pointer, walk, acted.actions, 0, acted.log_prob))
            )
    finally:
        torch.set_num_threads(threads)
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-4)


def test_a_forked_process_has_threads_of_its_own(rng):
    """After a fork the child acts, too, instead of waiting for threads that it does not have."""
    env = ENVS["cvrp"]
    policy, threads = make_policy(env), torch.get_num_threads()
    torch.set_num_threads(1)  # torch's own threads do not survive a fork either
    instances = env.generate(5, rng)
    encoded = policy.encode(env.instance_features(instances))
    pointer, walk = policy.as_pointer(encoded), env.walk(instances)
    given = torch.zeros(5, 6, 0, dtype=torch.int64)
    try:
        torch.set_num_threads(2)
        cpu.rollouts(pointer, walk, given, temperature=1.0, noise=None)
        child = os.fork()
        if child == 0:
            cpu.rollouts(pointer, walk, given, temperature=1.0, noise=None)
            os._exit(7)
        for _ in range(3000):
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                break
            time.sleep(0.1)
        else:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        assert ended
        assert os.waitstatus_to_exitcode(status) == 7
    finally:
        torch.set_num_threads(threads)


def test_low_precision_in_is_low_precision_out(rng):
    """From an encoding in bfloat16 the gradients come back in bfloat16."""
    env = ENVS["tsp"]
    policy = make_policy(env)
    instances = env.generate(2, rng)
    with torch.autocast("cpu", torch.bfloat16):
        encoded = policy.encode(env.instance_features(instances))
        acted = act(env, policy, encoded, instances, Sample(), rng, rollouts=3, log_prob=True, acting="kernel")
        scored = log_probs(env, policy, encoded, acted, acting="kernel")
    assert encoded.keys.dtype == torch.bfloat16
    scored.sum().backward()
    assert all(p.grad.isfinite().all() for p in policy.parameters() if p.grad is not None)


def test_what_it_cannot_do_is_said(rng):
    """Asked for by name it refuses in words; by itself the plain loop is taken instead."""
    tsp, shop = ENVS["tsp"], make("jssp", num_jobs=3, num_machines=2)
    policy = make_policy(tsp)
    with pytest.raises(ArgumentError, match="acting: 'kernel' is not allowed here; it samples without top-k and top-p"):
        run(tsp, policy, Sample(top_k=3), "kernel", rng)
    assert run(tsp, policy, Sample(top_k=3), "auto", rng).actions.shape == (3, 7, 35)
    with pytest.raises(ArgumentError, match="jssp offers no walk"):
        run(shop, GraphPolicy(shop.feature_dims, dim=16), Greedy(), "kernel", rng)
    with pytest.raises(ArgumentError, match="heads of width 6 are not a multiple of 4"):
        run(tsp, make_policy(tsp, dim=12), Greedy(), "kernel", rng)
    instances = tsp.generate(1, rng)
    encoded = policy.encode(tsp.instance_features(instances))
    assert isinstance(kernels.find(tsp, policy, encoded, instances, None), kernels.Kernel)


def test_without_a_compiler_there_is_none(rng, monkeypatch, tmp_path):
    """Where nothing compiles the plain loop acts, and asking for the kernel says why there is none."""
    policy = make_policy(ENVS["tsp"])
    cpu._library.cache_clear()
    monkeypatch.setenv("NCOGYM_CACHE", str(tmp_path))
    for variable, value, words in (("CXX", "false", "it could not be built"), ("PATH", "", "it takes a C.. compiler")):
        monkeypatch.setenv(variable, value)
        if variable == "PATH":
            monkeypatch.delenv("CXX")
        cpu._library.cache_clear()
        with pytest.raises(ArgumentError, match=f"acting: 'kernel' is not allowed here; {words}"):
            run(ENVS["tsp"], policy, Greedy(), "kernel", rng)
        assert run(ENVS["tsp"], policy, Greedy(), "auto", rng).actions.shape == (3, 7, 35)
    cpu._library.cache_clear()


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """A cache that is empty; the folder of its kernels."""
    monkeypatch.setenv("NCOGYM_CACHE", str(tmp_path))
    cpu._library.cache_clear()
    yield tmp_path / "kernels"
    cpu._library.cache_clear()


def use() -> None:
    """Act by the kernel as a process does that has not loaded it yet."""
    cpu._library.cache_clear()
    run(ENVS["tiny"], make_policy(ENVS["tiny"]), Greedy(), "kernel", torch.Generator())


@pytest.fixture
def compiled(cache, built):
    """The cache with a kernel in it; the kernel's file."""
    cache.mkdir(mode=0o700)
    path = cache / built.name
    path.write_bytes(built.read_bytes())
    path.chmod(0o755)
    return path


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A kernel that was compiled by itself."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("NCOGYM_CACHE", str(folder))
        use()
    cpu._library.cache_clear()
    (path,) = (folder / "kernels").iterdir()
    return path


def test_it_is_built_before_the_clock_starts(cache, rng):
    """What a policy will take in an environment is compiled when it is prepared, once; others need nothing."""
    items = make("knapsack", num_items=9)
    assert (
        kernels.prepare(
            items, items.generate(1, rng), AttentionPolicy(items.feature_dims, dim=16, num_heads=2, num_layers=1)
        )
        == 0
    )
    assert not cache.exists()
    one = ENVS["cvrp"].generate(1, rng)
    assert kernels.prepare(ENVS["cvrp"], one, make_policy(ENVS["cvrp"])) > 0
    assert len(list(cache.iterdir())) == 1
    assert kernels.prepare(ENVS["cvrp"], one, make_policy(ENVS["cvrp"])) == 0
    cpu._library.cache_clear()
    assert kernels.prepare(ENVS["cvrp"], one, make_policy(ENVS["cvrp"])) == 0


def test_it_is_compiled_once(compiled):
    """The compiled kernel is kept in the cache, with nothing beside it, and taken from there the next time."""
    before = len(cpu.compiling)
    use()
    assert len(cpu.compiling) == before
    assert list(compiled.parent.iterdir()) == [compiled]


@pytest.mark.parametrize("damage", ["empty", "half", "zeros", "random", "longer"])
def test_a_damaged_kernel_is_compiled_anew(damage, compiled):
    """A file in the cache that is not what was written there is never loaded, but replaced, and the user is told."""
    whole = compiled.read_bytes()
    half = len(whole) // 2
    noise = np.random.default_rng(0).integers(256, size=200, dtype=np.uint8).tobytes()
    spoilt = {
        "empty": b"",
        "half": whole[:half],
        "zeros": whole[:half] + bytes(len(whole) - half),
        "random": whole[:half] + noise + whole[half + 200 :],
        "longer": whole + b"x",
    }
    compiled.write_bytes(spoilt[damage])
    with pytest.warns(NcogymWarning, match=r"kernel: .*\.so was damaged; it is compiled anew"):
        use()
    (healed,) = compiled.parent.iterdir()
    assert cpu._named(healed, healed.name.rsplit("-", 1)[0]) == healed.name
    before = len(cpu.compiling)
    use()
    assert len(cpu.compiling) == before


@pytest.mark.skipif(os.name != "posix", reason="no owners and modes as POSIX has them")
@pytest.mark.parametrize("what", ["file of others", "file for all", "folder of others", "folder for all", "link"])
def test_what_others_may_have_written_is_not_loaded(what, compiled, monkeypatch, tmp_path):
    """A kernel, or a folder of kernels, that is not ours or that others may write is passed over in words."""
    folder, loaded, temporary = compiled.parent, [], tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    if what == "file for all":
        compiled.chmod(0o777)
    elif what == "folder for all":
        folder.chmod(0o777)
    elif what == "link":
        folder.rename(folder.with_name("elsewhere"))
        folder.symlink_to(folder.with_name("elsewhere"))
        folder.with_name("elsewhere").chmod(0o777)
    elif os.geteuid() == 0:
        os.chown(compiled if what == "file of others" else folder, 65534, 65534)
    else:
        pytest.skip("only root can give files away")
    load = ctypes.CDLL
    monkeypatch.setattr(cpu.ctypes, "CDLL", lambda path: (loaded.append(path), load(path))[1])
    words = "is not used; it is not yours, or others may write it" if "file" in what else "compiled at every start"
    with pytest.warns(NcogymWarning, match=words):
        use()
    assert [path for path in loaded if Path(path).exists() and not cpu._safe(Path(path))] == []
    if "file" not in what:  # compiled for this process alone, with nothing left
        assert not Path(loaded[0]).exists()
        assert not list(temporary.iterdir())


def test_a_home_that_cannot_be_written_to_is_no_obstacle(cache, monkeypatch, tmp_path):
    """Without a cache it is compiled for this process alone, which is told, and leaves nothing behind."""
    (tmp_path / "file").write_text("")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("NCOGYM_CACHE", os.fspath(tmp_path / "file" / "cache"))
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    with pytest.warns(NcogymWarning, match="cannot be written to, .* compiled at every start; .* NCOGYM_CACHE"):
        use()
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("script", ["echo oops >&2; exit 1", "sleep 600 & sleep 600"])
def test_a_compiler_that_fails_or_hangs_leaves_nothing(script, cache, monkeypatch, tmp_path):
    """The plain loop acts, the compiler's processes are ended, and the cache is as it was."""
    compiler = tmp_path / "compiler"
    compiler.write_text(f"#!/bin/sh\n{script}\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setattr(cpu, "COMPILE_SECONDS", 0.5)
    policy, rng = make_policy(ENVS["tiny"]), torch.Generator()
    with pytest.raises(ArgumentError, match=r"it could not be built .*(oops|timed out)"):
        run(ENVS["tiny"], policy, Greedy(), "kernel", rng)
    assert run(ENVS["tiny"], policy, Greedy(), "auto", rng).actions.shape == (3, 7, 3)
    assert list(cache.iterdir()) == []


def test_tables_that_do_not_fit_are_an_error_in_words(monkeypatch):
    """A kernel that says that it has no memory is an error of the package, not one of Python's."""

    class Full:
        act = staticmethod(lambda job: 0)

    monkeypatch.setattr(cpu, "_library", lambda *widths: Full)
    with pytest.raises(SolverError, match="acting: the kernel's tables of 3 nodes do not fit into memory"):
        run(ENVS["tiny"], make_policy(ENVS["tiny"]), Greedy(), "kernel", torch.Generator())


def test_labels_are_scored(rng):
    """Probabilities of all tours that share a start sum to 1."""
    import itertools

    env = make("tsp", num_nodes=5)
    policy = make_policy(env)
    instances = env.generate(2, rng)
    every = torch.tensor([[0, *rest] for rest in itertools.permutations(range(1, 5))]).expand(2, -1, -1)
    encoded = policy.encode(env.instance_features(instances))
    scored = log_probs(env, policy, encoded, replay(env, instances, every, forced=1), acting="kernel")
    torch.testing.assert_close(scored.exp().sum(1), torch.ones(2))
