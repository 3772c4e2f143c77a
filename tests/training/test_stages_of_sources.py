"""A stage trains on the sources of a mix that are for it, and on no other: in its plan, its report and its steps."""

import json

import pytest
import torch
from mix_stand_in import write_stand_in
from training.plain_loss import plain_losses
from training.support import make_dataset, make_examples, recipe

from nvembed.cli import main
from nvembed.core.artifacts import read_manifest
from nvembed.core.errors import UserError
from nvembed.data import open_examples, prepare, read_examples
from nvembed.data.stages import FILE, unseen_sources
from nvembed.mining import mine
from nvembed.modeling import NVEmbedModel
from nvembed.recipe import load_recipe
from nvembed.training import stage as training
from nvembed.training import train_stage
from nvembed.training.examples import stage_rows
from nvembed.training.history import read_history
from nvembed.training.settings import token_lengths

ROWS = 16
MIX = ["data.decontamination.tasks=[]", "data.dev_queries=0", "mining.enabled=false"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Three sources of the paper's mix, fever for stage 2 alone, and one by itself; prepared, and through mining."""
    folder = tmp_path_factory.mktemp("sources")
    mirror = write_stand_in(folder / "hub", ROWS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NVEMBED_STATE", str(folder / "state"))
        make(folder, "mixed", mirror, "data.only=[nq, fever, banking77]", "data.sources.fever.stages=[2]")
        make(folder, "alone", mirror, "data.only=[nq]")
        yield folder


def make(folder, name, mirror, *overrides):
    made = load_recipe("nvembed-v2", [*MIX, f"data.hub_mirror={mirror}", *overrides])
    prepare(made.data, folder / f"{name}-data", folder / f"{name}-eval")
    mine(made.mining, made.resources, folder / f"{name}-data", folder / name)


def sources_of(folder, name, stage):
    table = open_examples(folder)
    return {table[row].source for row in stage_rows(name, stage, folder, table).rows}


@pytest.mark.parametrize("kind", ["mixed-data", "mixed"])
def test_a_stage_has_the_sources_that_name_it_and_whose_task_type_it_takes(place, kind):
    made = recipe()
    assert sources_of(place / kind, "stage1", made.stage1) == {"nq"}
    assert sources_of(place / kind, "stage2", made.stage2) == {"nq", "fever", "banking77"}
    every = made.stage1.model_copy(update={"task_types": ["retrieval", "classification"]})
    assert sources_of(place / kind, "stage1", every) == {"nq"}, "banking77 is for stage 2, whatever stage 1 takes"


def test_what_is_no_mix_is_used_whole(tmp_path, monkeypatch):
    monkeypatch.setenv("NVEMBED_STATE", str(tmp_path / "state"))
    folder = make_dataset(tmp_path / "own", make_examples(12))
    found = stage_rows("stage1", recipe().stage1, folder, open_examples(folder))
    assert (found.rows.tolist(), found.unseen, found.left_out) == (list(range(12)), [], 0)


def test_a_source_that_changes_its_stages_is_another_dataset(place, tmp_path):
    made = load_recipe("nvembed-v2", [*MIX, f"data.hub_mirror={place / 'hub'}", "data.only=[nq, fever, banking77]"])
    prepare(made.data, tmp_path / "data", tmp_path / "eval")
    assert unseen_sources(tmp_path / "data", "stage1") == ["banking77"]
    assert unseen_sources(place / "mixed", "stage1") == ["banking77", "fever"]
    assert unseen_sources(place / "mixed", "stage2") == []
    assert read_manifest(tmp_path / "data").content != read_manifest(place / "mixed-data").content


def test_a_plan_measures_the_lengths_of_the_stages_own_sources(place):
    made = recipe()
    found = {name: token_lengths("stage1", made.model, made.stage1, place / name) for name in ("mixed", "alone")}
    assert found["mixed"] == found["alone"]
    without = made.stage1.model_copy(update={"task_types": made.stage2.task_types})
    assert token_lengths("stage2", made.model, without, place / "mixed") != found["alone"]


def plain_loss(made, folder):
    """The mean loss of all examples of a dataset in one batch, on the model as it is before its first step."""
    batch, model, stage = read_examples(folder), NVEmbedModel.from_section(made.model), made.stage1
    (instruction,) = {one.query_instruction for one in batch}
    queries = model.encode([one.query for one in batch], instruction, stage.query_max_length)
    documents = model.encode([one.positive for one in batch], "", stage.document_max_length)
    query_of = {one.query: torch.tensor(row) for one, row in zip(batch, queries, strict=True)}
    document_of = {one.positive: torch.tensor(row) for one, row in zip(batch, documents, strict=True)}
    losses = plain_losses(batch, stage, lambda one: query_of[one.query], lambda _, text: document_of[text])
    return losses.mean().item()


def test_the_steps_see_the_stages_own_sources_alone_and_it_is_said_before(place, monkeypatch):
    monkeypatch.setenv("NVEMBED_PROGRESS", str(place / "progress"))
    made = recipe("stage1.steps=1", "stage1.negatives=0", f"stage1.batch_size={ROWS}", "stage1.temperature=0.1")
    out = place / "adapter"
    train_stage("stage1", made.stage1, made.model, made.resources, place / "mixed", None, out)
    (record,) = read_history(out / "metrics.jsonl")
    assert record["loss"] == pytest.approx(plain_loss(made, place / "alone"), rel=1e-5), "nq's examples fill the batch"

    (part,) = read_manifest(out, kind="adapter").extra["composition"]
    assert (part["source"], part["examples"], part["share"]) == ("nq", ROWS, 1)
    said = [json.loads(line).get("text", "") for line in (place / "progress").read_text().splitlines()]
    left_out = f"stage1 leaves out {ROWS} examples, whose sources are not for it: fever"
    assert said.count(left_out) == 1
    (composition,) = [text for text in said[said.index(left_out) :] if text.startswith("an epoch: ")]
    assert "(nq) 100.0%" in composition


@pytest.fixture
def nothing_left(place, tmp_path, monkeypatch):
    """The mix's folder as if nq were for stage 2 alone as well."""
    monkeypatch.setenv("NVEMBED_STATE", str(tmp_path / "state"))
    make(
        tmp_path,
        "none",
        place / "hub",
        "data.only=[nq, fever]",
        *(f"data.sources.{n}.stages=[2]" for n in ("nq", "fever")),
    )
    return tmp_path / "none"


LEFT_WITHOUT = (
    f"stage1 is left without examples: the folder holds {2 * ROWS} training examples of retrieval, all of sources "
    "that are not for stage 1 (fever, nq); add 1 to data.sources.fever.stages"
)


def test_a_stage_that_is_left_without_examples_says_so_in_a_line_before_anything_is_trained(
    nothing_left, tmp_path, monkeypatch, capsys
):
    def never(*_, **__):
        raise AssertionError("ranks were started")

    monkeypatch.setattr(training, "run_workers", never)
    made = recipe()
    with pytest.raises(UserError) as error:
        train_stage("stage1", made.stage1, made.model, made.resources, nothing_left, None, tmp_path / "out")
    assert str(error.value) == f"{nothing_left}: {LEFT_WITHOUT}"
    assert not (tmp_path / "out").exists()

    assert main(["train", "--recipe", "tiny", "--plan", "--dataset", str(nothing_left)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and LEFT_WITHOUT in said
    assert main(["train", "--recipe", "tiny", "--stage", "stage2", "--plan", "--dataset", str(nothing_left)]) == 0


def test_a_damaged_file_of_stages_is_refused(tmp_path):
    for text in ("[1]", "{", '{"nq": 1}'):
        (tmp_path / FILE).write_text(text)
        with pytest.raises(UserError, match=r"does not give each source's stages .*make the folder anew"):
            unseen_sources(tmp_path, "stage1")
    (tmp_path / FILE).write_text("{")
    assert unseen_sources(tmp_path, "a stage of one's own") == []
