"""Which tasks a section names, under which sentences, and how they are shared out. mteb's lists, no data."""

from __future__ import annotations

import mteb
import pytest

from nvembed.core.errors import UserError
from nvembed.evaluation.in_domain import sources_seen, trained_on
from nvembed.evaluation.instructions import instruction_for
from nvembed.evaluation.plan import plan_items, plan_tasks, read_item, shared_out, task_name
from nvembed.evaluation.selection import UNKNOWN_COST, choose_tasks
from nvembed.recipe import Evaluation, load_recipe

ENGLISH = Evaluation(benchmarks=["MTEB(eng, v1)"])


def test_a_benchmark_is_its_tasks_and_an_aggregate_is_one_of_them() -> None:
    chosen = {task.name: task for task in choose_tasks(ENGLISH)}
    assert len(chosen) == 56
    forums = chosen["CQADupstackRetrieval"].parts
    assert len(forums) == 12 and forums[0].label == forums[0].name == "CQADupstackAndroidRetrieval"
    assert [part.label for part in chosen["ArguAna"].parts] == [""]
    assert chosen["STS17"].parts[0].subsets == ("en-en",)
    assert all(task.cost != UNKNOWN_COST for task in chosen.values())
    assert chosen["MSMARCO"].cost > 100 * chosen["SciFact"].cost


def test_types_and_languages_choose_and_a_task_named_twice_is_there_once() -> None:
    section = Evaluation(benchmarks=["MTEB(eng, v1)", "MTEB(eng, v2)"], tasks=["SciFact"], task_types=["Retrieval"])
    names = [task.name for task in choose_tasks(section)]
    assert len(names) == len(set(names)) and names.count("SciFact") == 1 and "STS12" not in names
    (korean,) = choose_tasks(Evaluation(tasks=["STS17"], languages=["kor"]))
    assert korean.parts[0].subsets == ("ko-ko",)


def test_a_task_on_several_splits_is_one_task_of_several_parts() -> None:
    (task,) = choose_tasks(Evaluation(tasks=["GreekLegalCodeClassification"]))
    assert [part.label for part in task.parts] == [part.hf_split for part in task.parts] == ["validation", "test"]


@pytest.mark.parametrize(
    ("section", "says"),
    [
        ({"tasks": ["SciFct"]}, "'SciFct' is no task of MTEB; did you mean 'SciFact'"),
        ({"tasks": ["MTEB(eng, v1)"]}, "it is a benchmark; name it under evaluation.benchmarks"),
        ({"benchmarks": ["MTEB(eng,v1)"]}, "did you mean 'MTEB(eng, v1)'"),
        ({"benchmarks": ["STS12"]}, "it is a task; name it under evaluation.tasks"),
        ({"tasks": ["STS12"], "task_types": ["sts"]}, "did you mean 'STS'"),
        ({"tasks": ["STS12"], "languages": ["german"]}, "give three letters"),
        ({"tasks": ["STS17"], "task_types": ["Retrieval"]}, "no task of STS17 is of task_types Retrieval"),
    ],
)
def test_an_unknown_name_is_refused_in_one_line_that_says_what_was_meant(section: dict, says: str) -> None:
    with pytest.raises(UserError) as error:
        choose_tasks(Evaluation(**section))
    assert says in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("task", "query", "document"),
    [
        ("ArguAna", "Given a claim, retrieve documents that support or refute the claim", ""),  # the checkpoint's own
        ("STS12", "Retrieve semantically similar text", "Retrieve semantically similar text"),
        ("FEVERHardNegatives", "Given a claim, retrieve documents that support or refute the claim", ""),
        ("SciDocsRR", "Given a title of a scientific paper, retrieve the titles of other relevant papers", ""),
    ],
)
def test_the_published_sentence_stands_on_the_published_sides(task: str, query: str, document: str) -> None:
    assert instruction_for(mteb.get_task(task)) == (query, document)


def test_every_english_task_has_a_published_sentence_and_symmetric_ones_have_it_on_both_sides() -> None:
    for name in ("MTEB(eng, v1)", "MTEB(eng, v2)"):
        for task in mteb.get_benchmark(name).tasks:
            told = instruction_for(task)
            assert len(told.query) > 20, task.metadata.name
            symmetric = task.metadata.type not in ("Retrieval", "Reranking")
            symmetric |= task.metadata.name in ("QuoraRetrieval", "AskUbuntuDupQuestions", "StackOverflowDupQuestions")
            assert told.document == (told.query if symmetric else ""), task.metadata.name


def test_shares_hold_every_task_once_and_are_as_even_as_the_dearest_task_allows() -> None:
    planned, again = plan_tasks(ENGLISH, []), plan_tasks(ENGLISH, [])
    order = [task.key for task in planned]
    for shares in (1, 2, 5, 80):
        parts = shared_out(planned, shares)
        keys = [[task.key for task in part] for part in parts]
        assert keys == [[task.key for task in part] for part in shared_out(again, shares)]
        assert sorted(key for part in keys for key in part) == sorted(order)
        assert all(part == sorted(part, key=order.index) for part in keys)
        loads = [sum(task.cost for task in part) for part in parts]
        total, dearest = sum(loads), max(task.cost for task in planned)
        assert max(loads) <= max(4 / 3 * total / shares, dearest), "largest first is within 4/3 of the best"


def test_the_loop_goes_over_candidates_and_shares_in_one_list_of_texts() -> None:
    assert plan_items(Evaluation()) == ["bm25", "base", "stage1", "stage2"]
    items = plan_items(Evaluation(candidates=["base", "stage2"], shards=2))
    assert items == ["base 1/2", "base 2/2", "stage2 1/2", "stage2 2/2"]
    assert [read_item(item) for item in items][1] == ("base", 2, 2) and read_item("bm25") == ("bm25", 1, 1)
    assert task_name("stage2 2/2") == "evaluate_stage2_2of2"
    for wrong in ("stage2 3/2", "stage2 0/2", "stage2 a/b", ""):
        with pytest.raises(UserError):
            read_item(wrong)


def test_tasks_whose_training_split_the_mix_names_are_known_by_dataset_or_name() -> None:
    seen = trained_on(load_recipe("nvembed-v1").data)
    planned = {task.name: task for task in plan_tasks(ENGLISH, [])}
    by = {name: sources_seen(task, seen["stage2"]) for name, task in planned.items()}
    for name in ("HotpotQA", "MSMARCO", "NQ", "FEVER", "Banking77Classification", "ArxivClusteringP2P"):
        assert by[name], name
    for name in ("SCIDOCS", "TRECCOVID", "Touche2020", "ClimateFEVER", "StackExchangeClustering", "TwitterURLCorpus"):
        assert not by[name], (name, by[name])
    assert by["HotpotQA"] == ["hotpotqa"]
    assert not sources_seen(planned["Banking77Classification"], seen["stage1"]), "stage 1 is for retrieval alone"
    assert trained_on(load_recipe("tiny").data) == {}
