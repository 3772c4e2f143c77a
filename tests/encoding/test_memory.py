"""When memory runs out: half the budget, said once, nothing encoded again; a text too large is the user's to mend."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from modeling_helpers import furthest

from nvembed import NVEmbedModel
from nvembed.core.errors import UserError
from nvembed.modeling.encoder import Encoder, is_out_of_memory
from nvembed.modeling.plan import make_plan

MANY = [f"text {number} " * (number % 9 + 1) for number in range(120)]


def cuda_says_no() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def cpu_says_no() -> None:
    torch.empty(1 << 60)  # the allocator's own error


@pytest.fixture
def small_memory(model: NVEmbedModel) -> Iterator[Callable[..., list[list[int]]]]:
    """Makes the backbone fail above a number of tokens, or of texts, as an allocator would.

    It gives the lengths of the texts in each batch that went through.
    """
    handles = []

    def limit(tokens: int, fail: Callable[[], None] = cuda_says_no, *, texts: int = 1000) -> list[list[int]]:
        passed: list[list[int]] = []

        def check(_: object, __: object, inputs: dict[str, torch.Tensor]) -> None:
            if inputs["input_ids"].numel() > tokens or len(inputs["input_ids"]) > texts:
                fail()
            passed.append(inputs["attention_mask"].sum(1).tolist())

        handles.append(model.backbone.register_forward_pre_hook(check, with_kwargs=True))
        return passed

    yield limit
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize("fail", [cuda_says_no, cpu_says_no])
def test_encoding_goes_on_with_smaller_batches_and_gives_the_same_vectors(model, small_memory, fail) -> None:
    expected = model.encode(MANY)
    small_memory(700, fail)
    assert furthest(model.encode(MANY, batch_tokens=8000), expected) < 1e-6


def test_it_is_said_once_however_often_the_budget_is_halved(model, small_memory, caplog) -> None:
    small_memory(300, texts=3)
    with caplog.at_level(logging.INFO, logger="nvembed"):
        model.encode(MANY, batch_tokens=8000)
    said = [record for record in caplog.records if "out of memory on cpu" in record.message]
    assert len(said) > 2
    assert [record.levelname for record in said if record.levelno >= logging.WARNING] == ["WARNING"]


def test_what_is_done_is_not_encoded_again(model, small_memory) -> None:
    whole = [len(item.input_ids) for item in model.tokenize(MANY)]
    passed = small_memory(700, lambda: failures.append(len(passed)) or cuda_says_no(), texts=12)
    failures: list[int] = []
    model.encode(MANY, batch_tokens=700)
    assert failures[0] > 3  # long texts come first and go through; of short ones a batch holds too many
    assert sorted(length for batch in passed for length in batch) == sorted(whole)


def test_the_budget_is_halved_and_stays_so_for_the_rest(model, small_memory) -> None:
    encoder = Encoder(model, make_plan(model, batch_tokens=8000))
    passed = small_memory(1100)
    encoder.encode(MANY)
    assert 550 <= encoder.budget <= 1100
    budget = encoder.budget
    passed.clear()
    encoder.encode(MANY[::-1])
    assert encoder.budget == budget
    assert max(len(batch) * max(batch) for batch in passed) <= budget


def test_a_single_text_that_does_not_fit_is_an_error_that_names_the_way_out(model, small_memory) -> None:
    small_memory(20)
    with pytest.raises(UserError, match=r"a single text of \d+ tokens does not fit .* lower max_length"):
        model.encode(["short", "a text longer than twenty bytes"])


def test_other_errors_of_the_backbone_are_left_as_they_are(model, small_memory) -> None:
    def shapes_differ() -> None:
        torch.ones(2, 3) @ torch.ones(2, 3)

    small_memory(20, shapes_differ)
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        model.encode(MANY)


def test_the_cpu_allocators_and_numpys_errors_are_known_for_what_they_are() -> None:
    with pytest.raises(RuntimeError) as of_torch:
        torch.empty(1 << 60)
    with pytest.raises(MemoryError) as of_numpy:
        np.empty(1 << 50)
    assert is_out_of_memory(of_torch.value)
    assert is_out_of_memory(of_numpy.value)
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
