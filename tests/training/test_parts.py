"""Chunks, learning rate and history: the small parts of the loop."""

import json

import pytest
import torch

from nvembed.modeling.batching import token_batches, tokens_held
from nvembed.training.chunks import chunk_seed
from nvembed.training.history import History, read_history
from nvembed.training.job import section
from nvembed.training.schedule import learning_rate_factor, parameter_groups

LENGTHS = [7, 96, 12, 96, 40, 41, 3, 90, 11, 64] * 20


@pytest.mark.parametrize("budget", [96, 500, 4096])
def test_chunks_hold_every_text_once_within_the_budget(budget):
    chunks = token_batches(LENGTHS, budget)
    assert sorted(index for chunk in chunks for index in chunk) == list(range(len(LENGTHS)))
    assert all(len(chunk) * max(LENGTHS[i] for i in chunk) <= budget for chunk in chunks)


def test_a_text_longer_than_the_budget_is_a_chunk_of_its_own():
    assert token_batches([500, 20, 20], 100) == [[0], [1, 2]]


def test_chunks_of_uneven_texts_waste_little_on_padding():
    assert tokens_held(LENGTHS, token_batches(LENGTHS, 10**6)) < 1.25 * sum(LENGTHS)
    assert len(LENGTHS) * max(LENGTHS) > 2 * sum(LENGTHS), "one padded batch would waste more than half"


def test_chunk_seeds_differ_by_seed_step_rank_and_chunk_and_repeat():
    places = [(17, 0, 0, 0), (18, 0, 0, 0), (17, 1, 0, 0), (17, 0, 1, 0), (17, 0, 0, 1), (1, 70, 0, 0)]
    seeds = [chunk_seed(*place) for place in places]
    assert len(set(seeds)) == len(seeds)
    assert seeds == [chunk_seed(*place) for place in places]
    for seed in seeds:
        torch.manual_seed(seed)


def test_the_learning_rate_rises_over_the_warm_up_and_falls_to_nothing():
    factors = [learning_rate_factor(step, steps=10, warmup_steps=4) for step in range(10)]
    assert factors == pytest.approx([0.25, 0.5, 0.75, 1, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6])
    assert learning_rate_factor(0, steps=3, warmup_steps=0) == 1
    assert all(learning_rate_factor(step, steps=2, warmup_steps=50) > 0 for step in range(2))


def test_the_latent_block_may_have_a_rate_of_its_own_and_vectors_are_not_decayed():
    names = {"backbone.w": 2, "backbone.b": 1, "latent.w": 2, "latent.b": 1}
    named = {name: torch.nn.Parameter(torch.zeros([3] * ndim)) for name, ndim in names.items()}
    stage = section({"learning_rate": 1.0, "latent_learning_rate": 5.0, "weight_decay": 0.1})
    groups = parameter_groups(named, stage, is_latent=lambda name: name.startswith("latent."))
    found = {
        name: (g["peak"], g["weight_decay"])
        for name, p in named.items()
        for g in groups
        if any(p is q for q in g["params"])
    }
    assert found == {"backbone.w": (1, 0.1), "backbone.b": (1, 0), "latent.w": (5, 0.1), "latent.b": (5, 0)}
    stage.latent_learning_rate = None
    assert {g["peak"] for g in parameter_groups(named, stage, is_latent=lambda name: True)} == {1.0}


def told(path):
    return [(line["step"], line["metrics"]["train/loss"]) for line in map(json.loads, path.read_text().splitlines())]


def test_a_resumed_history_forgets_lost_steps_and_tells_the_whole_curve_again(tmp_path, monkeypatch):
    monkeypatch.setenv("NVEMBED_METRICS", str(tmp_path / "first"))
    history = History(tmp_path / "metrics.jsonl", log_steps=2, upto=0)
    for step in range(1, 6):
        history.add({"step": step, "loss": float(step)})
    assert told(tmp_path / "first") == [(2, 1.5), (4, 3.5)]
    with (tmp_path / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 6, "lo')

    monkeypatch.setenv("NVEMBED_METRICS", str(tmp_path / "second"))
    history = History(tmp_path / "metrics.jsonl", log_steps=2, upto=3)
    history.add({"step": 4, "loss": 40.0})
    assert told(tmp_path / "second") == [(2, 1.5), (4, 21.5)]
    assert [record["step"] for record in read_history(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4]
