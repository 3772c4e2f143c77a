"""What `mlflow models serve` answers, and that it follows the champion."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from registry_support import GATE, MODEL, Contest

import nvembed
from nvembed import registry
from nvembed.registry.serving import INSTRUCTION, TEXTS, answers, ask, served, served_check
from nvembed.registry.versions import fetch_model

Adapters = Callable[[int], Path]
Hold = Callable[..., Contest]
CHAMPION = f"models:/{GATE.name}@champion"


def _publish(adapter: Path, contest: Contest) -> dict[str, object]:
    return registry.publish(GATE, MODEL, adapter, contest.folder, contest.results, {})


@pytest.mark.slow
def test_the_served_answers_are_the_offline_vectors_and_follow_a_rollback(
    store: str, adapters: Adapters, contest: Hold
) -> None:
    offline = {n: nvembed.NVEmbedModel.from_section(MODEL, adapters(n)) for n in (1, 2)}
    _publish(adapters(1), contest(adapters(1), gain=0.1))
    assert _publish(adapters(2), contest(adapters(2), gain=0.2))["promoted"]
    with served(CHAMPION) as address:
        for instruction in ("", INSTRUCTION):
            expected = offline[2].encode(TEXTS, instruction=instruction)
            assert np.abs(expected - offline[1].encode(TEXTS, instruction=instruction)).max() > 0.01
            for form, got in answers(address, TEXTS, instruction).items():
                assert got.shape == expected.shape and np.abs(got - expected).max() <= 1e-5, form
        one = ask(address, {"input": "Open a file.", "dimensions": 8})
        assert [len(row["embedding"]) for row in one["data"]] == [8]
        assert np.allclose(one["data"][0]["embedding"], offline[2].encode(["Open a file."], dimensions=8)[0], atol=1e-5)
        assert one["object"] == "list" and one["usage"]["prompt_tokens"] == one["usage"]["total_tokens"] > 0
        for wrong in ({"input": [1, 2]}, {"input": "a", "encoding_format": "hex"}, {"input": "a", "dimensions": 9999}):
            with pytest.raises(RuntimeError, match="refused"):
                ask(address, wrong)
        _ask_as_openais_own_client_does(address, offline[2])
    assert registry.rollback(GATE.name, "it was slower").version == "1"
    differences = served_check(registry.list_versions(GATE.name)[1], uri=CHAMPION)
    assert len(differences) == 6 and max(differences.values()) <= 1e-5
    assert registry.list_versions(GATE.name)[1].tags["nvembed.served"].startswith("equal, largest difference")


def _ask_as_openais_own_client_does(address: str, offline: nvembed.NVEmbedModel) -> None:
    """MLflow serves one path, so the client is told it; the request and the answer are OpenAI's own."""
    from openai import OpenAI
    from openai.types import CreateEmbeddingResponse

    client = OpenAI(base_url=address, api_key="none")
    body = {"model": "m", "input": list(TEXTS), "encoding_format": "float", "instruction": INSTRUCTION}
    answer = client.post("/invocations", cast_to=CreateEmbeddingResponse, body=body)
    got = np.array([one.embedding for one in answer.data], dtype=np.float32)
    assert np.abs(got - offline.encode(TEXTS, instruction=INSTRUCTION)).max() <= 1e-5
    assert answer.usage.total_tokens > 0 and answer.model == "m"


def test_a_model_that_was_changed_after_it_was_registered_is_neither_served_nor_promoted(
    store: str, adapters: Adapters, contest: Hold
) -> None:
    import mlflow

    _publish(adapters(1), contest(adapters(1), gain=-0.1))
    (version,) = registry.list_versions(GATE.name)
    card = fetch_model(version) / "README.md"
    card.write_text(card.read_text(encoding="utf-8") + "better", encoding="utf-8")
    with pytest.raises(nvembed.core.errors.UserError, match=r"its files changed since .* not made champion"):
        registry.promote(GATE.name, 1)
    assert registry.champion(GATE.name) is None
    with pytest.raises(nvembed.core.errors.UserError, match="its files changed since"):
        mlflow.pyfunc.load_model(version.uri)
