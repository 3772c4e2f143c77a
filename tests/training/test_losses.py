"""The loss and its denominators, against computations that share no code with ours.

What is pinned: the value and gradient of InfoNCE; which documents enter the denominator; that texts equal to an own
positive do not; that a missing negative is missing and not replaced.
"""

import numpy as np
import pytest
import torch
from training.plain_loss import example, vector_of

from nvembed.data.lengths import Lengths
from nvembed.recipe import InBatch
from nvembed.training.layout import deal, lay_out, texts_of
from nvembed.training.losses import info_nce, means

TEMPERATURE = 0.07


def arranged(batch, *, negatives=2, in_batch=True, rank=0, world=1):
    return lay_out(
        batch,
        negatives=negatives,
        in_batch=InBatch(enabled=in_batch),
        query_max_length=16,
        document_max_length=32,
        rank=rank,
        world=world,
    )


def vectors_of(texts):
    """A fixed unit vector a text, in float64."""
    return np.array([vector_of(text) for text in texts])


def our_losses(batch, dtype=torch.float64, **options):
    layout = arranged(batch, **options)
    vectors = torch.tensor(vectors_of(layout.texts), dtype=dtype)
    return info_nce(vectors[layout.queries], vectors[layout.documents], layout.comparison, TEMPERATURE)


def by_hand(batch, denominators):
    """InfoNCE in numpy, the denominator of each query listed document by document (its positive first)."""
    from nvembed.training.layout import Text

    losses = []
    for one, documents in zip(batch, denominators, strict=True):
        query = vectors_of([Text(one.query, one.query_instruction, 16)])[0]
        scores = vectors_of([Text(text, one.document_instruction, 32) for text in documents]) @ query / TEMPERATURE
        losses.append(np.log(np.exp(scores).sum()) - scores[0])
    return np.array(losses)


BATCH = [
    example("q1", "p1", ["n11", "n12", "unused"]),
    example("q2", "p2", ["n21", "n22"]),
    example("q3", "p3", ["n31"]),
]


def test_in_batch_denominator_is_own_positive_own_negatives_and_all_documents_of_the_others():
    everything = ["n11", "n12", "n21", "n22", "n31"]
    expected = by_hand(
        BATCH,
        [["p1", "p2", "p3", *everything], ["p2", "p1", "p3", *everything], ["p3", "p1", "p2", *everything]],
    )
    np.testing.assert_allclose(our_losses(BATCH).losses, expected, rtol=1e-12)


def test_without_in_batch_the_denominator_is_the_examples_own_documents_and_a_missing_negative_stays_missing():
    expected = by_hand(BATCH, [["p1", "n11", "n12"], ["p2", "n21", "n22"], ["p3", "n31"]])
    np.testing.assert_allclose(our_losses(BATCH, in_batch=False).losses, expected, rtol=1e-12)


def test_documents_with_the_text_of_an_own_positive_are_no_negatives():
    batch = [example("q1", "same", ["n1", "same"]), example("q2", "same", ["n2"]), example("q3", "p3", ["same"])]
    expected = by_hand(
        batch,
        [["same", "n1", "n2", "p3"], ["same", "n1", "n2", "p3"], ["p3", "same", "n1", "same", "same", "n2", "same"]],
    )
    np.testing.assert_allclose(our_losses(batch).losses, expected, rtol=1e-12)


def test_another_positive_of_the_same_query_is_no_negative():
    batch = [example("q1", "p1"), example("q1", "p2"), example("q3", "p3")]
    expected = by_hand(batch, [["p1", "p3"], ["p2", "p3"], ["p3", "p1", "p2"]])
    np.testing.assert_allclose(our_losses(batch).losses, expected, rtol=1e-12)


def test_a_query_with_nothing_to_compare_has_loss_zero_and_is_not_judged():
    parts = our_losses([example("q1", "p1"), example("q2", "p2", ["n2"])], in_batch=False)
    assert parts.losses[0] == 0
    assert parts.sums.tolist()[2] == 1


def test_equal_texts_are_encoded_once_and_a_query_text_apart_from_the_same_text_as_document():
    batch = [example("a", "b", ["c", "c"]), example("b", "a", ["c"])]
    layout = arranged(batch)
    assert len(layout.texts) == 5, "a and b as queries, b, c and a as documents"
    symmetric = [
        example("a", "b", query_instruction="x", document_instruction="x"),
        example("b", "a", query_instruction="x", document_instruction="x"),
    ]
    layout = lay_out(symmetric, negatives=1, in_batch=InBatch(), query_max_length=32, document_max_length=32)
    assert len(layout.texts) == 2, "with one instruction and length on both sides a text has one vector"


@pytest.mark.parametrize("in_batch", [True, False])
def test_value_and_gradient_are_those_of_finite_differences(in_batch):
    layout = arranged(BATCH, in_batch=in_batch)
    vectors = torch.tensor(vectors_of(layout.texts), requires_grad=True)

    def loss(rows):
        return info_nce(rows[layout.queries], rows[layout.documents], layout.comparison, TEMPERATURE).losses.mean()

    torch.autograd.gradcheck(loss, (vectors,))


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_equals_multiple_negatives_ranking_loss_of_sentence_transformers_where_both_apply(cached, dtype, tolerance):
    from sentence_transformers.sentence_transformer import losses

    batch = [example(f"q{i}", f"p{i}", [f"n{i}"]) for i in range(5)]
    layout = arranged(batch, negatives=1)
    raw = 3 * torch.tensor(vectors_of(layout.texts), dtype=dtype)
    ours_in, theirs_in = raw.clone().requires_grad_(), raw.clone().requires_grad_()
    unit = torch.nn.functional.normalize(ours_in)
    ours = info_nce(unit[layout.queries], unit[layout.documents], layout.comparison, TEMPERATURE).losses.mean()
    where = {text.text: place for place, text in enumerate(layout.texts)}
    columns = [{"input_ids": torch.tensor([[where[f"{kind}{i}"]] for i in range(5)])} for kind in "qpn"]

    class Rows(torch.nn.Module):
        """Gives the loss the vectors whose numbers it is asked for."""

        def forward(self, features):
            return {"sentence_embedding": theirs_in[features["input_ids"][:, 0]]}

    model = torch.nn.Sequential(Rows())
    if cached:
        loss = losses.CachedMultipleNegativesRankingLoss(model, scale=1 / TEMPERATURE, mini_batch_size=2)
    else:
        loss = losses.MultipleNegativesRankingLoss(model, scale=1 / TEMPERATURE)
    theirs = loss(columns, None)
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)
    ours.backward()
    theirs.backward()
    assert float(theirs_in.grad.abs().max()) > 0
    torch.testing.assert_close(ours_in.grad, theirs_in.grad, rtol=tolerance, atol=tolerance)


def test_losses_of_low_precision_vectors_are_computed_in_float32():
    layout = arranged(BATCH)
    vectors = torch.tensor(vectors_of(layout.texts)).bfloat16()
    parts = info_nce(vectors[layout.queries], vectors[layout.documents], layout.comparison, TEMPERATURE)
    exact = info_nce(
        vectors.double()[layout.queries], vectors.double()[layout.documents], layout.comparison, TEMPERATURE
    )
    assert parts.losses.dtype == torch.float32
    torch.testing.assert_close(parts.losses.double(), exact.losses, rtol=1e-5, atol=1e-5)


def test_what_one_watches_is_counted_over_the_documents_of_the_denominator():
    layout = lay_out(
        [example("q1", "p1", ["n1"]), example("q2", "p2")],
        negatives=1,
        in_batch=InBatch(enabled=False),
        query_max_length=8,
        document_max_length=8,
    )
    rows = {"q1": [1.0, 0], "p1": [0.6, 0.8], "n1": [0.8, 0.6], "q2": [0, 1.0], "p2": [0, 1.0]}
    vectors = torch.tensor([rows[text.text] for text in layout.texts])
    parts = info_nce(vectors[layout.queries], vectors[layout.documents], layout.comparison, 1.0)
    watched = means(parts.sums)
    assert watched["in_batch_accuracy"] == 0, "q1 prefers its negative; q2 has none and is not judged"
    assert watched["positive_similarity"] == pytest.approx(0.8)
    assert watched["negative_similarity"] == pytest.approx(0.8)
    assert watched["loss"] == pytest.approx(np.log(1 + np.exp(0.2)) / 2)


@pytest.mark.parametrize("world", [2, 3])
def test_divided_over_ranks_the_losses_are_the_same(world):
    batch = [example(f"q{i}", f"p{i % 4}" * (i + 1), [f"n{i}", f"n{i % 2}"]) for i in range(7)]
    whole = our_losses(batch).losses
    layouts = [arranged(batch, rank=rank, world=world) for rank in range(world)]
    rows = max(len(layout.documents) for layout in layouts)
    padded = []
    for layout in layouts:
        documents = vectors_of([layout.texts[i] for i in layout.documents])
        padded.append(np.pad(documents, ((0, rows - len(documents)), (0, 0))))
    gathered = torch.tensor(np.concatenate(padded))
    divided = torch.empty_like(whole)
    lengths = Lengths(negatives=2, query_max_length=16, document_max_length=32)
    hands = deal([texts_of(one, lengths) for one in batch], world)
    for layout, members in zip(layouts, hands, strict=True):
        assert layout.gathered_rows == rows
        vectors = torch.tensor(vectors_of(layout.texts))
        parts = info_nce(vectors[layout.queries], gathered, layout.comparison, TEMPERATURE)
        divided[members] = parts.losses
    torch.testing.assert_close(divided, whole, rtol=1e-12, atol=1e-12)
