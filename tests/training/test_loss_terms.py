"""What a stage may change in its loss, each against the formula written in loops (`plain_loss.py`), in float64.

What is pinned: the default changes nothing, to the bit; whose documents stand in which denominator, by stage, task and
kind; weights; which negatives are left out; hardness; Matryoshka; distillation; and that none of it encodes more texts.
"""

import numpy as np
import pytest
import torch
from training.plain_loss import example, plain_losses, vector_of

from nvembed.core.errors import UserError
from nvembed.data import Example
from nvembed.recipe import InBatch, Stage
from nvembed.training.denominators import known_classes
from nvembed.training.layout import Text, lay_out
from nvembed.training.losses import SUMS, Weighing, info_nce, means, stage_loss

BATCH = [
    example("q1", "p1", ["n11", "n12"], task="one"),
    example("q2", "p2", ["n21", "p1"], task="two"),
    example("q3", "p3", ["n31"], task="one"),
    example("q4", "p4", ["p4", "n41"], task="two"),
    example("q5", "p5", ["n51"], task="two"),
]
SCORES = {  # numbers that float32 holds exactly; none for the fifth
    "q1p1": {"p1": 0.875, "n11": 0.75, "n12": 0.25},
    "q2p2": {"p2": 0.375, "n21": 0.5, "p1": 0.125},
    "q3p3": {"p3": 0.75},
    "q4p4": {"p4": 0.625, "n41": 0.5625},
}


def stage(**keys) -> Stage:
    return Stage.model_validate({"steps": 1, "negatives": 2, "temperature": 0.3} | keys)


class Bench:
    """A batch laid out for one process, its vectors, and both ways to the losses."""

    def __init__(self, batch, of, *, classes=None, scores=None, rank=0, world=1):
        self.batch, self.stage, self.scores = batch, of, scores
        self.layout = lay_out(
            batch,
            negatives=of.negatives,
            in_batch=of.in_batch,
            query_max_length=16,
            document_max_length=32,
            classes=classes,
            teacher=scores,
            rank=rank,
            world=world,
        )
        self.vectors = torch.tensor(np.array([vector_of(text) for text in self.layout.texts]), requires_grad=True)

    def parts(self, vectors=None):
        rows = self.vectors if vectors is None else vectors
        layout = self.layout
        return stage_loss(rows[layout.queries], rows[layout.documents], layout.comparison, self.stage)

    def plain(self, same_class=None):
        place = {text: row for row, text in enumerate(self.layout.texts)}
        return plain_losses(
            self.batch,
            self.stage,
            lambda one: self.vectors[place[Text(one.query, one.query_instruction, 16)]],
            lambda one, text: self.vectors[place[Text(text, one.document_instruction, 32)]],
            same_class=same_class,
            scores=self.scores,
        )


def assert_as_written(bench, same_class=None):
    """Losses and gradients are those of the loops; what the loops give is returned."""
    ours, plain = bench.parts(), bench.plain(same_class)
    torch.testing.assert_close(ours.losses, plain, rtol=1e-12, atol=1e-12)
    # The loops divide by norms, so their gradient lacks the part along the vector, which normalising takes away too.
    (mine,) = torch.autograd.grad(ours.losses.mean(), bench.vectors)
    (theirs,) = torch.autograd.grad(plain.mean(), bench.vectors)
    across = bench.vectors.detach()
    mine = mine - (mine * across).sum(1, keepdim=True) * across
    torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)
    assert ours.sums[SUMS.index("loss")].item() == pytest.approx(plain.sum().item())
    return plain.detach()


VARIANTS = {
    "default": {},
    "others' positives alone": {"in_batch": {"others_hard_negatives": False}},
    "off for a task": {"in_batch": {"off_for": ["one"]}},
    "on for a task": {"in_batch": {"enabled": False, "on_for": ["two"]}},
    "weights": {"in_batch": {"weight": 0.25}, "hard_negatives_weight": 3},
    "margin": {"false_negatives": {"margin": 0.1}},
    "hardness of all": {"hardness": {"strength": 5}},
    "hardness of own hard negatives": {"hardness": {"strength": 5, "of": "hard"}},
    "hardness of the others' documents": {"hardness": {"strength": 9, "of": "in-batch"}},
    "prefixes": {"matryoshka": {"dims": [5, 2]}},
    "weighed prefixes": {"matryoshka": {"dims": [5, 2], "weights": [0.5, 0.1]}},
    "distillation": {"distillation": {"weight": 2}},
    "distillation from a cooler teacher": {"distillation": {"weight": 0.7, "teacher_temperature": 0.05}},
    "everything": {
        "in_batch": {"others_hard_negatives": False, "off_for": ["one"], "weight": 0.5},
        "hard_negatives_weight": 2,
        "false_negatives": {"margin": 0.05},
        "hardness": {"strength": 5},
        "matryoshka": {"dims": [4], "weights": [0.3]},
        "distillation": {"weight": 0.5, "teacher_temperature": 0.1},
    },
}


@pytest.mark.parametrize("name", VARIANTS)
def test_loss_and_gradient_are_those_of_the_formula_in_loops(name):
    losses = assert_as_written(Bench(BATCH, stage(**VARIANTS[name]), scores=SCORES))
    if name != "default":
        default = Bench(BATCH, stage(), scores=SCORES).plain()
        assert not torch.allclose(losses, default, rtol=1e-3), "the variant changed nothing, so nothing was shown"


def test_the_default_is_plain_info_nce_to_the_bit():
    bench = Bench(BATCH, stage())
    rows, layout = bench.vectors.detach().float().requires_grad_(), bench.layout
    ours = bench.parts(rows).losses
    cosines = (rows[layout.queries] @ rows[layout.documents].T)[:, layout.comparison.columns]
    logits = (cosines / 0.3).masked_fill(~layout.comparison.allowed, float("-inf"))
    plain = torch.nn.functional.cross_entropy(logits, layout.comparison.target, reduction="none")
    assert torch.equal(ours, plain)
    gradients = [torch.autograd.grad(losses.sum(), rows, retain_graph=True)[0] for losses in (ours, plain)]
    assert torch.equal(*gradients)


def test_weights_of_one_and_a_strength_of_zero_are_no_weights():
    bench, layout = Bench(BATCH, stage()), Bench(BATCH, stage()).layout
    queries, documents = bench.vectors[layout.queries], bench.vectors[layout.documents]
    plain = info_nce(queries, documents, layout.comparison, 0.3).losses
    assert torch.equal(info_nce(queries, documents, layout.comparison, 0.3, Weighing(hardness_of="hard")).losses, plain)


def test_a_tasks_name_goes_before_its_type_and_both_before_the_stage():
    batch = [
        example("q1", "p1", task="banking", task_type="classification"),
        example("q2", "p2", task="toxic", task_type="classification"),
        example("q3", "p3"),
    ]

    def compared(**keys):
        layout = lay_out(batch, negatives=1, in_batch=InBatch(**keys), query_max_length=8, document_max_length=8)
        return (layout.comparison.allowed.sum(1) > 1).tolist()

    assert compared() == [True, True, True]
    assert compared(off_for=["classification"]) == [False, False, True]
    assert compared(off_for=["classification"], on_for=["banking"]) == [True, False, True]
    assert compared(enabled=False, on_for=["toxic"]) == [False, True, False]


def test_ranks_send_documents_only_if_some_query_of_the_batch_is_compared_with_them():
    batch = [example(f"q{i}", f"p{i}", task="b" if i == 3 else "a") for i in range(4)]
    for keys, sent in [({"enabled": False}, False), ({"enabled": False, "on_for": ["b"]}, True)]:
        layouts = [
            lay_out(batch, negatives=1, in_batch=InBatch(**keys), query_max_length=8, document_max_length=8, **where)
            for where in ({"rank": 0, "world": 2}, {"rank": 1, "world": 2})
        ]
        assert [layout.gathered_rows is not None for layout in layouts] == [sent, sent]


def labelled(query, positive, negatives=(), task="topics") -> Example:
    return example(
        query,
        positive,
        negatives,
        task=task,
        task_type="classification",
        query_instruction="x",
        document_instruction="x",
    )


def test_classes_are_what_query_positive_pairs_link_within_a_task():
    classes = known_classes(
        [
            labelled("a", "b"),
            labelled("c", "b"),
            labelled("d", "e"),
            labelled("a", "d", task="other"),
            example("a", "e"),
        ]
    )
    assert classes["topics", "a"] == classes["topics", "b"] == classes["topics", "c"]
    assert classes["topics", "d"] == classes["topics", "e"] != classes["topics", "a"]
    assert classes["other", "a"] == classes["other", "d"] not in (classes["topics", "a"], classes["topics", "d"])
    assert len(classes) == 7
    assert all(("topics", text) in classes for text in "abcde")
    assert ("other", "b") not in classes, "b has a class in another task alone"


def test_label_texts_as_positives_tell_the_whole_class():
    classes = known_classes([labelled(f"text {i}", f"label {i % 3}") for i in range(30)])
    assert len({classes["topics", f"text {i}"] for i in range(30)}) == 3
    assert len({classes["topics", f"text {i}"] for i in range(0, 30, 3)}) == 1


def test_documents_known_to_be_of_the_querys_class_are_no_negatives():
    outside = labelled("c", "a")  # not in the batch, but it tells that a, b, c and d are of one class
    batch = [
        labelled("a", "b", ["e"]),
        labelled("c", "d", ["e", "f"]),
        labelled("e", "f", ["a"]),
        example("q", "p", ["b"]),
        labelled("a", "z", task="other"),
    ]
    classes = known_classes([*batch, outside])
    groups = [("topics", "abcd"), ("topics", "ef"), ("other", "az")]

    def same_class(one, text):
        same_query = one.query == "a" and text in ("b", "z")
        return same_query or any(one.task == task and one.query in g and text in g for task, g in groups)

    bench = Bench(batch, stage(false_negatives={"same_class": True}), classes=classes)
    masked = assert_as_written(bench, same_class)
    assert not torch.allclose(masked, Bench(batch, stage()).plain())
    left = [[], [], [], [], []]
    columns = bench.layout.comparison.columns
    for row, column in bench.layout.comparison.negatives().nonzero().tolist():
        left[row].append(bench.layout.texts[bench.layout.documents[columns[column]]].text)
    assert [sorted(texts) for texts in left] == [
        ["e", "e", "f", "f", "p"],
        ["e", "e", "f", "f", "p", "z"],
        ["a", "b", "b", "d", "p", "z"],
        ["a", "b", "b", "d", "e", "e", "f", "f", "z"],
        ["d", "e", "e", "f", "f", "p"],
    ], "the fourth is of a task without classes; a has two positives, one in either task"


def test_a_negative_at_the_margin_stays_and_one_above_goes():
    batch = [example("q", "p", ["n1", "n2"])]
    rows = {"q": [1.0, 0.0], "p": [0.5, 0.75**0.5], "n1": [0.75, 0.4375**0.5], "n2": [0.8125, 0.33984375**0.5]}
    layout = lay_out(batch, negatives=2, in_batch=InBatch(), query_max_length=8, document_max_length=8)
    vectors = torch.tensor([rows[text.text] for text in layout.texts], dtype=torch.float64)
    parts = info_nce(vectors[layout.queries], vectors[layout.documents], layout.comparison, 1.0, Weighing(margin=0.25))
    assert parts.losses.item() == pytest.approx(np.log(1 + np.exp(0.25)))
    assert parts.sums[SUMS.index("negatives")] == 1


@pytest.mark.parametrize("mode", ["all", "hard", "in-batch"])
def test_hardness_equals_that_of_sentence_transformers(mode):
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    batch = [example(f"q{i}", f"p{i}", [f"n{i}"]) for i in range(5)]
    bench = Bench(batch, stage(hardness={"strength": 5, "of": mode}))
    where = {text.text: place for place, text in enumerate(bench.layout.texts)}
    columns = [bench.vectors[[where[f"{kind}{i}"] for i in range(5)]] for kind in "qpn"]
    names = {"all": "all_negatives", "hard": "hard_negatives", "in-batch": "in_batch_negatives"}
    theirs = MultipleNegativesRankingLoss(
        torch.nn.Module(), scale=1 / 0.3, hardness_mode=names[mode], hardness_strength=5
    )
    torch.testing.assert_close(bench.parts().losses.mean(), theirs.compute_loss_from_embeddings(columns, None))


def test_gradients_of_prefixes_and_of_distillation_are_those_of_finite_differences():
    keys = {"matryoshka": {"dims": [5, 2]}, "distillation": {"weight": 2}, "hard_negatives_weight": 3}
    bench = Bench(BATCH, stage(**keys), scores=SCORES)
    torch.autograd.gradcheck(lambda rows: bench.parts(rows).losses.mean(), (bench.vectors,))


def test_distillation_is_watched_and_a_query_without_two_scores_has_none():
    bench = Bench(BATCH, stage(distillation={"weight": 2}), scores=SCORES)
    plain = [Bench(BATCH, stage(distillation={"weight": weight}), scores=SCORES).plain() for weight in (1, 0)]
    divergences = plain[0] - plain[1]
    assert divergences[2] == divergences[4] == 0 and all(divergences[i] > 0 for i in (0, 1, 3))
    watched = means(bench.parts().sums, distilled=True)
    assert watched["distillation_loss"] == pytest.approx(divergences.mean().item())
    assert watched["loss"] == pytest.approx((plain[1] + 2 * divergences).mean().item())
    assert "distillation_loss" not in means(bench.parts().sums)


def test_a_model_that_ranks_as_its_teacher_has_no_divergence():
    scores = {"q1p1": {}}
    bench = Bench(BATCH[:1], stage(distillation={"weight": 1}), scores=scores)
    place, vectors = {text.text: row for row, text in enumerate(bench.layout.texts)}, bench.vectors.detach()
    for text in ("p1", "n11", "n12"):
        scores["q1p1"][text] = float(vectors[place["q1"]] @ vectors[place[text]])
    agreeing = Bench(BATCH[:1], bench.stage, scores=scores).parts()
    assert agreeing.sums[SUMS.index("distillation")].item() == pytest.approx(0, abs=1e-9)


def test_a_prefix_as_long_as_the_vector_is_refused():
    with pytest.raises(UserError, match=r"matryoshka\.dims: 8 is not below the 8 of the whole vector; lower it"):
        Bench(BATCH, stage(matryoshka={"dims": [8]})).parts()


@pytest.mark.parametrize("name", VARIANTS)
def test_no_variant_encodes_a_text_more(name):
    assert Bench(BATCH, stage(**VARIANTS[name]), scores=SCORES).layout.texts == Bench(BATCH, stage()).layout.texts
