from __future__ import annotations

import pytest
from fuzz.measure import measured
from fuzz.targets import TARGETS, Files, Target
from hypothesis import HealthCheck, Phase, given, settings


@pytest.fixture(
    params=[target for target in TARGETS.values() if target.ci], ids=lambda target: target.name.replace(" ", "-")
)
def target(request: pytest.FixtureRequest) -> Target:
    """A target."""
    return request.param


def test_valid_files_are_read(target: Target) -> None:
    """What is damaged below is valid at first, and is used: read, solved, drawn, trained."""
    for files, _ in target.valid:
        target.run(files, True)


def test_only_documented_errors(target: Target) -> None:
    """Damaged files are read or refused in one documented line, within 2 CPU seconds and 1 GB."""

    @settings(
        max_examples=target.ci,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(target.strategy())
    def read(case: tuple[Files, bool]) -> None:
        outcome = measured(lambda: target.run(*case))
        assert outcome.kind != "FAILED", outcome.words

    read()
