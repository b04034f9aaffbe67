"""Every error that ncogym raises on purpose.

    NcogymError
    ├── ArgumentError(ValueError)         an argument's value is outside what is allowed
    ├── InstanceError(ValueError)         an instance or its file is malformed
    ├── InvalidSolution(ValueError)       a solution breaks a constraint of its problem
    ├── UnsupportedFeatures(TypeError)    a policy cannot read what an environment shows
    ├── UnsupportedProblem(TypeError)     a solver cannot take this kind of problem
    ├── SolverError(RuntimeError)
    │   ├── NoSolutionFound               the budget ended before the first feasible solution
    │   │   └── Abandoned                 a rollout was given up for lack of time
    │   ├── NotEnoughMemory(MemoryError)  an instance is too large for the memory that is free
    │   └── SolverNotInstalled(ImportError)   an optional package is missing; the text names the extra
    └── CheckpointError(RuntimeError)     weights or a training state cannot be read

Each text is one line: what, which value, what is allowed. The command line prints it and exits with code 2
(`NoSolutionFound`: 3). What a user must know but work goes on without is a `NcogymWarning`, by ``warnings.warn``.
"""


class NcogymError(Exception):
    """Base of all errors that ncogym raises on purpose."""


class ArgumentError(NcogymError, ValueError):
    """An argument's value is outside what is allowed."""


class InstanceError(NcogymError, ValueError):
    """An instance or the file that holds it is malformed."""


class InvalidSolution(NcogymError, ValueError):
    """A solution breaks a constraint of its problem; the text is the referee's."""


class UnsupportedFeatures(NcogymError, TypeError):
    """A policy cannot read a feature that an environment shows; the text names both."""


class UnsupportedProblem(NcogymError, TypeError):
    """A solver cannot take this kind of problem; the text names both."""


class SolverError(NcogymError, RuntimeError):
    """A solver failed for a reason of its own."""


class NoSolutionFound(SolverError):
    """The budget ended before the first feasible solution."""


class Abandoned(NoSolutionFound):
    """A rollout was given up for lack of time; caught by who holds another solution (`Progress.abandoning`)."""


class NotEnoughMemory(SolverError, MemoryError):
    """An instance is too large for the memory that is free; the text says what it takes and what there is."""


class SolverNotInstalled(SolverError, ImportError):
    """The package behind a solver is not installed; the text names the extra to install."""


class CheckpointError(NcogymError, RuntimeError):
    """Weights or a training state cannot be read."""


class NcogymWarning(UserWarning):
    """What a user must know while the work goes on, in one line: a file that is passed over, a doubtful value."""
