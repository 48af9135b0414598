"""The accumulated gradient of one optimiser step does not depend on how the step is cut (docs/method.md §6.7, §6.8)."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from inpo.methods import METHODS, Method, method
from inpo.noising import Inversion
from inpo.training.gradient import micro_batches, own_places, step_times
from inpo.training.step import preference_step
from tests.tiny_denoiser import MemoryLoader, TinyDenoiser
from tests.training_runs import TRAIN, both, difference, first_steps, gradient, moved_subject, ran_on_ranks, settings, trainer

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}
CUTS = ({"micro_batch_pairs": 4}, {"micro_batch_pairs": 32}, {"micro_batch_pairs": 5}, {"inversion_batch_pairs": 1})


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes left behind; see tests/two_ranks.py."""
    return ran_on_ranks(tmp_path_factory.mktemp("two-ranks"), "two_ranks.py")


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("name", METHODS)
def test_cutting_a_step_changes_nothing(name: str, dtype: torch.dtype) -> None:
    """32 × 1 = 8 × 4 = 1 × 32 = 7 batches of at most 5, and inversion one pair at a time."""
    whole = gradient(name, dtype, micro_batch_pairs=1, inversion_batch_pairs=32)
    for cut in CUTS:
        assert difference(gradient(name, dtype, **cut), whole) < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_cutting_a_step_of_shared_walks_changes_nothing(dtype: torch.dtype) -> None:
    """Four points of each pair's walk: 128 points, whatever the micro-batch and the groups that walk together."""
    shared = replace(method("inpo"), noising=Inversion(times_per_trajectory=4))
    whole = gradient(shared, dtype, micro_batch_pairs=1, inversion_batch_pairs=32)
    for cut in CUTS:
        assert difference(gradient(shared, dtype, **cut), whole) < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_two_processes_have_the_gradient_of_one(two_ranks: Path, dtype: torch.dtype) -> None:
    """Sixteen pairs on each of two gloo processes, in micro-batches of 5: both hold the gradient of the 32."""
    whole = gradient("inpo", dtype, micro_batch_pairs=8, inversion_batch_pairs=16)
    for rank in range(2):
        found = load_file(two_ranks / f"fp{64 if dtype == torch.float64 else 32}-{rank}.safetensors")
        assert difference(found, whole) < TOLERANCE[dtype]


def test_an_odd_pair_is_not_lost(two_ranks: Path) -> None:
    """7 pairs on two processes are 4 and 3, and their gradient is that of the 7."""
    alone = trainer(use=settings(pairs_per_step=7, micro_batch_pairs=7)).step_once(0).line["grad_norm"]
    said = both(two_ranks, "gradients")
    assert sorted(each["n"] for each in said) == [3, 4]
    assert all(math.isclose(each["uneven"], alone, rel_tol=1e-5) for each in said)


@pytest.mark.parametrize(
    ("name", "made"),
    [("kto", "diffusion-kto"), ("shared walks", replace(method("inpo"), noising=Inversion(times_per_trajectory=4)))],
    ids=["kto", "shared walks"],
)
def test_two_processes_take_the_steps_of_one(two_ranks: Path, name: str, made: str | Method) -> None:
    """KTO's baseline is the mean over both, and points of one walk are counted once each: four steps have the same loss, gradient norm,
    baseline and counts as alone."""
    alone = first_steps(made)
    for said in both(two_ranks, "gradients"):
        for found, expected in zip(said[name], alone, strict=True):
            assert found == pytest.approx(expected, rel=1e-4, abs=1e-9)
    assert name != "kto" or max(step[2] for step in alone) > 0


def test_one_metrics_collective_a_step(two_ranks: Path) -> None:
    """Three steps of two micro-batches: gradients are reduced three times, numbers gathered three times, and nothing else is asked."""
    assert both(two_ranks, "collectives") == [{"all_reduce": 3, "all_gather": 3}] * 2


def test_all_ranks_stop_for_one_ranks_nan(two_ranks: Path) -> None:
    """The message is the same on both and names the pair that only one of them saw; the last checkpoint stays."""
    first, second = both(two_ranks, "fault")
    assert first == second
    assert first["message"].startswith("step 3: the clean latent is not finite for 1 pair(s): pair-")
    assert first["checkpoints"] == ["step-000002"]


def test_a_signal_to_one_rank_drops_the_step_on_both(two_ranks: Path) -> None:
    """They agree in the step's own collective; the resumed run's final weights are the uninterrupted run's, bit for bit."""
    assert both(two_ranks, "stopped") == [{"step": 2, "signal": 15, "same": True}] * 2


def test_a_replacement_is_decided_for_all_ranks(two_ranks: Path) -> None:
    """The earlier run is back after a first step that failed, and gone after one that did not."""
    replaced = ["checkpoints", "config.yaml", "environment.json", "metrics.jsonl", "step-000002", "step-000004"]
    assert both(two_ranks, "replacing") == [{"kept": True, "replaced": replaced}] * 2


def test_rows_are_examined_by_one_process(two_ranks: Path) -> None:
    """Decoding a whole data set once a process would take as many times as long on the same disk. The others wait for it, for hours."""
    first, second = both(two_ranks, "opening")
    assert first["hours"] == second["hours"] >= 6
    assert (first["scans"], second["scans"]) == (1, 0)
    assert (first["size"], first["fingerprint"]) == (second["size"], second["fingerprint"])


def test_what_the_main_process_refuses_is_refused_everywhere(two_ranks: Path) -> None:
    """Otherwise the others would wait for it for ever."""
    first, second = both(two_ranks, "refusals")
    assert first == second
    assert first[0] == "only rank 0 saw this"
    assert "train.pairs_per_step=1 is fewer than the 2 processes" in first[1]


@pytest.mark.parametrize("name", METHODS)
def test_a_batch_of_n_is_n_batches_of_one(name: str) -> None:
    """Losses and predictions of a pair do not depend on its neighbours, each at its own t."""
    made = trainer(MemoryLoader(dtype=torch.float64), moved_subject(torch.float64), name=name)
    source = made.gradient
    times = step_times(made.networks.policy.schedule, TRAIN, 0)
    noised = source.points(0).noised
    whole = preference_step(made.networks.policy, made.networks.reference, noised, method(name)).losses
    ones = [preference_step(made.networks.policy, made.networks.reference, noised[[i]], method(name)).losses for i in range(8)]
    assert len(set(times.tolist())) == 8
    torch.testing.assert_close(torch.cat(ones), whole, rtol=1e-10, atol=0)


def test_every_pair_of_a_step_belongs_to_one_process_and_work_is_even() -> None:
    """Places are dealt out in order of t, so that E[k] is nearly the same on all processes."""
    schedule = TinyDenoiser().schedule
    times = step_times(schedule, TRAIN, 7)
    dealt = [own_places(times, rank, 3) for rank in range(3)]
    assert sorted(place for places in dealt for place in places) == list(range(8))
    work = [int(schedule.bucket(times[places], 10).sum()) / len(places) for places in dealt]
    assert max(work) - min(work) < 2


def test_micro_batches_cover_everything_once() -> None:
    """The remainder is last."""
    assert list(micro_batches(7, 3)) == [slice(0, 3), slice(3, 6), slice(6, 7)]
    assert list(micro_batches(2, 9)) == [slice(0, 2)]
