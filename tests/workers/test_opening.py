"""Workers hold what the command holds, or are refused."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hands import Hands, Late, losses

from gepa_loop.cluster.piece import Desk
from gepa_loop.config.load import load_config
from gepa_loop.config.tables import JudgeConfig
from gepa_loop.config.whole import Config
from gepa_loop.errors import ConfigError, EnvironmentFault
from gepa_loop.lab import Lab, open_lab, without_limits
from gepa_loop.model.device import cards_under
from gepa_loop.sampling.base import Sampling
from gepa_loop.sampling.vllm.sampler import VllmSampler
from gepa_loop.workers.opening import Opened, Workers, check_workers, open_worker, opened_workers


def when_refused(workers: Workers) -> None:
    """Wait until no place is left: as long as none has opened the command answers itself."""
    for thread in workers.crew._threads:
        thread.join(timeout=60)


def smoke(*sets: str) -> Config:
    return load_config("smoke", sets, env={})


@pytest.fixture(scope="module")
def lab() -> Lab:
    return open_lab(smoke("cluster.workers=1")).for_training()


@pytest.fixture
def here() -> Iterator[None]:
    before = os.getcwd()
    yield
    os.chdir(before)


@pytest.mark.usefixtures("here")
def test_a_worker_that_holds_the_same_answers(lab: Lab) -> None:
    workers, said = Workers(Hands(), lab.config, lab.day, trains=True), list[str]()
    try:
        own = workers.share(lab, {}, said.append)
        items = lab.task.splits["train"][:3]
        found = own.rollouts.completions("", items, 1, Sampling(1.0, 4), "x")
        assert found == lab.rollouts.completions("", items, 1, Sampling(1.0, 4), "x")
        assert own.crew is workers.crew and losses(said) == []
    finally:
        workers.close()


@pytest.mark.usefixtures("here")
def test_until_workers_are_there_the_command_answers_but_by_vllm(lab: Lab) -> None:
    """vLLM would take a share of the card on which a worker starts."""
    for sampler, answers in ((lab.rollouts.sampler, True), (object.__new__(VllmSampler), False)):
        late = Late()
        workers = Workers(late, lab.config, lab.day, trains=False)
        own = workers.share(
            replace(lab, rollouts=replace(lab.rollouts, sampler=sampler)), {}, lambda line: None
        )
        assert own.crew is not None and (own.crew.own is not None) is answers
        late.now.set()
        workers.close()


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("change", "key"),
    [
        (lambda lab: replace(lab, base=replace(lab.base, fingerprint="f" * 16)), "model.fingerprint"),
        (lambda lab: replace(lab, task=replace(lab.task, fingerprint="f")), "task.fingerprint"),
        (lambda lab: replace(lab, engine="cuda, so it is"), "sampling.resolved"),
    ],
)
def test_a_worker_that_holds_something_else_is_refused(lab: Lab, change, key: str) -> None:  # type: ignore[no-untyped-def]
    workers = Workers(Hands(), lab.config, lab.day, trains=True)
    try:
        own = workers.share(change(lab), {}, print)
        when_refused(workers)
        with pytest.raises(EnvironmentFault, match=f"has not what the command has: {key}: ") as told:
            own.rollouts.completions("", lab.task.splits["train"][:1], 1, Sampling(1.0, 4), "x")
        assert told.value.exit_code == 3 and told.value.hint
    finally:
        workers.close()


@pytest.mark.usefixtures("here")
def test_a_workers_code_is_the_users_own(lab: Lab) -> None:
    workers = Workers(Hands(), lab.config, lab.day, trains=True)
    try:
        own = workers.share(lab, {"task.code": "another"}, print)
        when_refused(workers)
        with pytest.raises(EnvironmentFault, match=r"task\.code: None there, 'another' here"):
            own.rollouts.completions("", lab.task.splits["train"][:1], 1, Sampling(1.0, 4), "x")
    finally:
        workers.close()


def test_a_folder_that_is_not_there_is_said(tmp_path: Path) -> None:
    desk = Desk(lambda reference: reference)
    with pytest.raises(EnvironmentFault, match=r"^/.*gone: No such file"):
        open_worker(desk, print, smoke(), "2026-01-01", False, str(tmp_path / "gone"), (), 1)


def test_what_workers_cannot_share_is_refused() -> None:
    config = smoke("cluster.workers=2")
    check_workers(config, cells=False, own=False)
    for cells, own, what in ((True, False, "a sweep"), (False, True, "a task that is an object")):
        with pytest.raises(ConfigError, match=f"cluster.workers = 2: workers do not share {what}"):
            check_workers(config, cells, own)
        check_workers(smoke(), cells, own)
    judge = JudgeConfig(model="m", rubric="r")
    judged = config.model_copy(update={"task": config.task.model_copy(update={"judge": judge})})
    with pytest.raises(ConfigError, match=r"task\.judge"):
        check_workers(judged, cells=False, own=False)


@pytest.mark.parametrize(
    ("key", "device", "cards"), [("model", "cuda:1", 2), ("model", "split", 2), ("teacher", "cuda:2", 3)]
)
def test_a_device_that_no_worker_has_is_refused(key: str, device: str, cards: int) -> None:
    sets = [f"{key}.device={device}", "cluster.workers=1"]
    if key == "teacher":
        sets += ["teacher.kind=model", "teacher.name=random:tiny"]
    with pytest.raises(ConfigError, match=f"{key}.device = '{device}': a worker sees 1 of") as told:
        check_workers(smoke(*sets), cells=False, own=False)
    assert f"to {cards} or more" in told.value.hint
    check_workers(smoke(*sets, f"cluster.gpus_per_worker={cards}"), cells=False, own=False)


def test_a_run_is_not_known_by_its_workers() -> None:
    few, many = (without_limits(smoke(f"cluster.workers={n}").model_dump(mode="json")) for n in (0, 4))
    assert few == many


def test_without_workers_there_are_none_and_where_nothing_is_to_be_done() -> None:
    with opened_workers(smoke(), None, trains=True, idle=False) as workers:
        assert workers is None
    with opened_workers(smoke("cluster.workers=2"), None, trains=True, idle=True) as workers:
        assert workers is None


def test_a_worker_on_a_card_of_the_commands_is_beside_it(lab: Lab) -> None:
    late = Late()
    workers = Workers(late, lab.config, lab.day, trains=True)
    try:
        workers._expected.set_result(Opened({"a": 1}, frozenset({"GPU-1", "GPU-2"})))
        assert [workers._check(Opened({"a": 1}, frozenset({card}))) for card in ("GPU-1", "GPU-3")] == [
            True,
            False,
        ]
        assert cards_under(lab.base.model) == frozenset(), "on a CPU nothing is said of cores"
    finally:
        late.now.set()
        workers.close()
