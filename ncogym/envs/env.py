"""The bridge from a problem and a distribution of its instances to TorchRL.

TorchRL's ``reset``/``step``/``rollout`` run the functions `start` and `advance` of a `ncogym.problem.Problem` with one
rollout per instance and everything in a TensorDict.
"""

from __future__ import annotations

import multiprocessing
import zlib
from collections.abc import Mapping
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.data import Binary, Categorical, Composite, Unbounded
from torchrl.envs import EnvBase

from ncogym.distribution import Distribution
from ncogym.errors import ArgumentError
from ncogym.problem import Problem
from ncogym.task import Task

CHECKSUM = "checksum"  # TorchRL's key for what `step` knows the numbers by that it has to read
ALTERED = 1e-5  # relative; a number in another precision is still the same number
READ_BY_STEP = "step reads it, so a transform must write what it makes of it to another key (out_keys)"


class AllowedActions(Categorical):
    """The actions that an environment has; which of them are allowed now is no part of what they are.

    So the actions behind TorchRL's ``ActionMask`` are still the environment's own, and TorchRL asks its `rand_action`,
    which looks at the mask of each state, and not at that of the state which came last.
    """

    def __eq__(self, other: object) -> bool:
        ours = (self.space, self.shape, self.device, self.dtype)
        return isinstance(other, AllowedActions) and ours == (other.space, other.shape, other.device, other.dtype)

    def is_in(self, val: Tensor) -> bool:
        return bool(Categorical(self.space.n, self.shape, self.device, self.dtype).is_in(val))


class Env(EnvBase):
    """A problem and a distribution of its instances as a TorchRL environment: `ncogym.make` returns one.

    All that both offer is offered here, too (``generate``, ``start``, ``objective``, ...), by the same name.

    TorchRL's ``step`` refuses actions that ``action_mask`` does not allow: an `ArgumentError` on the CPU, a failed
    assertion on a GPU and in what ``torch.compile`` has made. It reads instance and state from the tensordict, so that
    a transform which changes them in place would change the problem: that is refused, too; let ``ObservationNorm`` and
    its like write to other keys. ``reset`` begins with instances of one's own where it is given any; from a tensordict
    in mid-episode it goes on, or with ``set_state=False`` begins anew on its instances.

    Until ``set_seed`` is called, instances and random actions follow ``torch.manual_seed``; where nobody has called
    that either, each environment draws its own.

    Args:
        task: the problem, and the distribution that instances are drawn from.
        batch_size: TorchRL's batch size, ``()`` or ``(batch,)``: the instances that ``reset()`` draws.
        device: where ``reset()`` draws its instances.

    Attributes:
        task: the same.

    Example:
        >>> import ncogym
        >>> env = ncogym.make("tsp", num_nodes=5)
        >>> env.problem.name, env.distribution.size, env.reset()["locs"].shape
        ('tsp', 5, torch.Size([5, 2]))
    """

    batch_locked = False
    _supports_set_state = True

    def __init__(self, task: Task, *, batch_size: tuple[int, ...] = (), device: torch.device | str = "cpu") -> None:
        super().__init__(device=torch.device(device), batch_size=torch.Size(batch_size), allow_done_after_reset=True)
        if len(self.batch_size) > 1:
            raise ArgumentError(f"batch_size: {tuple(batch_size)} is not allowed; it must be () or (batch,)")
        self.task = task
        self._generator: torch.Generator | None = None
        self._summed: tuple[list[Any], list[Tensor], Tensor] | None = None
        self._make_specs()

    def __getattr__(self, name: str) -> Any:
        """Return what problem and distribution have by a name that TorchRL's environments do not have."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name.startswith("_") or "task" not in self.__dict__:
                raise
            return getattr(self.task, name)

    @property
    def problem(self) -> Problem:
        """The rules."""
        return self.task.problem

    @property
    def distribution(self) -> Distribution:
        """Where instances come from."""
        return self.task.distribution

    def _make_specs(self) -> None:
        state = self.task.start(self.task.fitted(self.task.generate(1, torch.Generator().manual_seed(0))))
        shown = self._shown(state)
        self._constant = tuple(key for key, value in state.instance.items() if value.dtype != torch.bool)
        self._changing = tuple(key for key in shown if key not in self._constant and shown[key].is_floating_point())
        self._forms = {key: (value.dtype, value.ndim) for key, value in shown.items()}
        batch = self.batch_size

        def spec(key: str, value: Tensor) -> Any:
            shape = (*batch, *value.shape[1:])
            if key == "action_mask":
                return Binary(shape=shape, dtype=torch.bool, device=self.device)
            return Unbounded(shape=shape, dtype=value.dtype, device=self.device)

        shown[CHECKSUM] = self._sums(shown, (*self._constant, *self._changing))
        observed = {key: spec(key, value) for key, value in shown.items()}
        self.observation_spec = Composite(observed, shape=batch)
        # what `step` reads beside the action: TorchRL's wrappers pass on what is said here, and drop the rest
        read = {key: value.clone() for key, value in observed.items()}
        done = Binary(shape=(*batch, 1), dtype=torch.bool, device=self.device)
        self.state_spec = Composite({**read, "done": done}, shape=batch)
        self.action_spec = AllowedActions(shown["action_mask"].shape[-1], shape=batch, device=self.device)
        self.reward_spec = Unbounded(shape=(*batch, 1), device=self.device)
        self.done_spec = done.clone()

    @staticmethod
    def _shown(state: Any) -> dict[str, Tensor]:
        """Return the tensors of instance and state by name, ``[batch, ...]``."""
        own = {key: value.squeeze(1) for key, value in state._asdict().items() if key not in ("instance", "done")}
        return {**dict(state.instance.items()), **own}

    @staticmethod
    def _sums(numbers: Mapping[str, Tensor], keys: tuple[str, ...]) -> Tensor:
        """Return a sum over each row's numbers, float64 ``[batch, keys]``, for those of the keys that are there."""
        batch = numbers["action_mask"].shape[0]
        present = [numbers[key].reshape(batch, -1) for key in keys if key in numbers]
        sums = [(value.abs() if value.is_floating_point() else value).sum(-1).double() for value in present]
        return torch.stack(sums, dim=-1) if sums else numbers["action_mask"].new_zeros(batch, 0, dtype=torch.float64)

    def _constant_sums(self, numbers: Mapping[str, Tensor]) -> Tensor:
        """Return the sums over the instance's numbers, added up anew unless these are the tensors of the last time.

        They are, if they lie where those lie, which are kept meanwhile, and torch has counted no write to them since;
        it counts none in inference mode, nor those of other processes to memory that is shared.
        """
        found = [numbers[key] for key in self._constant if key in numbers]
        if torch.compiler.is_compiling() or any(value.is_inference() or value.is_shared() for value in found):
            return self._sums(numbers, self._constant)
        marks = [(value.data_ptr(), value._version, value.dtype, value.shape, value.stride()) for value in found]
        if self._summed is None or self._summed[0] != marks:
            self._summed = marks, found, self._sums(numbers, self._constant)
        return self._summed[2]

    def _to_tensordict(self, state: Any, batch: tuple[int, ...], constant: Tensor | None = None) -> TensorDict:
        shown, done = self._shown(state), state.done.reshape(-1, 1)
        constant = self._constant_sums(shown) if constant is None else constant
        checksum = torch.cat([constant, self._sums(shown, self._changing)], dim=-1) if self._changing else constant
        merged = {**shown, CHECKSUM: checksum, "done": done, "terminated": done.clone()}
        return TensorDict(merged, batch_size=[done.shape[0]]).reshape(batch)

    def _to_state(self, flat: TensorDictBase) -> Any:
        kind = self.problem.state_type
        own = {k: flat[k].unsqueeze(1) for k in kind._fields if k not in ("instance", "done")}
        return kind(instance=flat.select(*self.problem.instance_keys, strict=False), done=flat["done"], **own)

    def _input_td_has_state(self, tensordict: TensorDictBase | None) -> bool:
        """Say whether ``reset`` is given a state to go on from; where it starts rows anew, there is none."""
        if tensordict is None or "_reset" in tensordict.keys():
            return False
        own = set(self.problem.state_type._fields) - {"instance", "done"}
        return not own.isdisjoint(tensordict.keys())

    # TorchRL's rollout(break_when_any_done=False) draws new instances for finished rows and keeps keys that these lack;
    # with instances that were given with optional keys (TSP: dists), reset with instances of one's own instead
    def _reset(self, tensordict: TensorDictBase | None = None, set_state: bool = False, **_: Any) -> TensorDictBase:
        self._summed = None  # a reset is rare, and may be given memory that was written to by numpy, uncounted
        if tensordict is not None and set_state and self._input_td_has_state(tensordict):
            flat = tensordict.reshape(-1)
            numbers = dict(flat.items())
            self._refuse(numbers, self._read_sums(numbers), None)
            return self._to_tensordict(self._to_state(flat), tuple(tensordict.batch_size))
        if tensordict is not None and any(key in tensordict.keys() for key in self.problem.instance_keys):
            instance = tensordict.select(*self.problem.instance_keys, strict=False)
        else:
            shape = self.batch_size if tensordict is None else tensordict.batch_size
            instance = self.task.fitted(self.task.generate(shape.numel(), self._rng)).reshape(shape)
        batch = tuple(instance.batch_size)
        return self._to_tensordict(self.task.start(instance.reshape(-1)), batch)

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        batch, flat = tuple(tensordict.batch_size), tensordict.reshape(-1)
        numbers = dict(flat.items())
        sums = self._read_sums(numbers)
        self._refuse(numbers, sums, self._allowed(numbers))
        state, action = self._to_state(flat), numbers["action"].reshape(-1, 1)
        successor = self.task.advance(state, action)
        constant = sum(key in numbers for key in self._constant)
        out = self._to_tensordict(successor, batch, sums[:, :constant])
        out["reward"] = self.task.reward(state, action, successor).reshape(*batch, 1)
        return out

    def _read_sums(self, numbers: dict[str, Tensor]) -> Tensor:
        """Return the sums over the numbers that ``step`` reads.

        Raises:
            ArgumentError: something that it needs is missing, or whole numbers are such no longer.
        """
        for key in (*self.problem.state_type._fields, CHECKSUM):
            if key != "instance" and key not in numbers:
                raise ArgumentError(f"tensordict: {key!r} is missing; step needs all that reset and step gave")
        for key, (dtype, axes) in self._forms.items():
            found = numbers.get(key)
            if found is not None and (found.ndim != axes or (found.dtype != dtype and not dtype.is_floating_point)):
                form = f"{found.dtype} of shape {tuple(found.shape)}"
                raise ArgumentError(f"{key}: {form} is not what reset gave; {READ_BY_STEP}")
        sums = self._constant_sums(numbers)
        if self._changing:
            sums = torch.cat([sums, self._sums(numbers, self._changing)], dim=-1)
        if sums.shape != numbers[CHECKSUM].shape:
            raise ArgumentError(
                f"tensordict: an instance needs its {', '.join(self.problem.instance_keys)}; {READ_BY_STEP}"
            )
        return sums

    @staticmethod
    def _altered(numbers: dict[str, Tensor], sums: Tensor) -> Tensor:
        """Say which numbers are not those that ``reset`` and ``step`` gave, bool ``[batch, keys]``."""
        given = numbers[CHECKSUM]
        return (sums - given).abs() > ALTERED * given.abs()

    @staticmethod
    def _allowed(numbers: dict[str, Tensor]) -> Tensor:
        """Say in which rows the action is allowed, bool ``[batch, 1]``.

        Raises:
            ArgumentError: it is no whole number.
        """
        mask, action = numbers["action_mask"], numbers["action"]
        if action.dtype != torch.int64 or action.numel() != len(mask):
            found = f"{action.dtype} of shape {tuple(action.shape)}"
            raise ArgumentError(f"action: {found} is not allowed; it must be torch.int64, one for each row")
        action = action.reshape(-1, 1)
        inside = action.clamp(0, mask.shape[-1] - 1)
        return mask.gather(-1, inside) & (inside == action)

    def _refuse(self, numbers: dict[str, Tensor], sums: Tensor, allowed: Tensor | None) -> None:
        """Raise an error unless all is well; on a GPU and in compiled code by an assertion that waits for nothing."""
        given = numbers[CHECKSUM]
        if sums.device.type != "cpu" or torch.compiler.is_compiling():
            sound = ~self._altered(numbers, sums).any()
            sound = sound if allowed is None else sound & allowed.all()
            torch._assert_async(sound, f"an action is not in action_mask, or numbers were changed: {READ_BY_STEP}")
            return
        # what nobody has touched is the same to the last bit
        if (
            not (sums.dtype == given.dtype and torch.equal(sums, given))
            and (altered := self._altered(numbers, sums)).any()
        ):
            row, name = altered.nonzero()[0].tolist()
            key = [key for key in (*self._constant, *self._changing) if key in numbers][name]
            raise ArgumentError(f"{key}: row {row} is not what reset and step gave; {READ_BY_STEP}")
        if allowed is not None and not allowed.all():
            row = int(allowed.long().argmin())
            mask, action = numbers["action_mask"][row], int(numbers["action"].reshape(-1)[row])
            raise ArgumentError(refused_action(action, mask, row if len(allowed) > 1 else None))

    def rand_action(self, tensordict: TensorDictBase | None = None) -> TensorDictBase:
        """Draw a uniformly random allowed action into ``tensordict``, from the env's own generator."""
        if tensordict is None:
            return super().rand_action(tensordict)
        mask = tensordict["action_mask"]
        drawn = torch.multinomial(mask.reshape(-1, mask.shape[-1]).float(), 1, generator=self._rng)
        tensordict["action"] = drawn.reshape(tensordict.batch_size)
        return tensordict

    @property
    def _rng(self) -> torch.Generator:
        """The source of instances and random actions; made at its first use, which ``set_seed`` may come before."""
        if self._generator is None:
            self._generator = torch.Generator(device=self.device).manual_seed(_some_seed())
        return self._generator

    def _set_seed(self, seed: int | None) -> None:
        if seed is not None:
            self._generator = torch.Generator(device=self.device).manual_seed(seed)


def refused_action(action: int, mask: Tensor, row: int | None = None) -> str:
    """Say that an action is not allowed, and which are.

    Args:
        action: what was chosen.
        mask: bool ``[actions]``.
        row: of the batch, or None where there is one alone.
    """
    allowed = mask.nonzero()[:, 0].tolist()
    listed = ", ".join(map(str, allowed[:10])) + (", ..." if len(allowed) > 10 else "")
    where = "" if row is None else f" in row {row}"
    return f"action: {action} is not allowed{where}; action_mask allows {listed}"


def _some_seed() -> int:
    """Draw a seed from torch's global generator, which is another in each process until somebody seeds it.

    A forked worker has its parent's: its name, which is numbered, tells it from the others.
    """
    worker = multiprocessing.current_process().name if multiprocessing.parent_process() else ""
    return int(torch.randint(2**62, ())) ^ zlib.crc32(worker.encode())


Problem.register(Env)  # it can do all that its problem can
