"""The model card: what the model is, what it was made from, how good it is and how sure that is, how to use it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nvembed.recipe import Model

# Identifiers that the hub's card format knows; anything else is "other" there and named in the text.
_HUB_LICENSES = {"apache-2.0", "mit", "bsd-3-clause", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc0-1.0", "gpl-3.0"}


def model_card(model: Model, dim: int, card: Mapping[str, Any]) -> str:
    """README.md of a model folder: YAML front matter for the hub, then text for people.

    Args:
        model: the model section. dim: width of a vector.
        card: `name`; `licenses` (data source → licence); `table` (Markdown of scores with intervals); `verdict`
            (sentences); `instructions` (task type → sentence); `sections` (recipe sections by name); `lineage` (what
            made it, by name); `counts` (training examples by kind); `sources` (lineage of each source of a mix);
            `note` (what must be known of the scores); `writers` (language models that wrote examples);
            `checked_against` (evaluation task → texts of it that training was checked against). What is missing is
            left out.
    """
    parts = [
        _front_matter(model, card),
        f"# {card.get('name') or 'nvembed model'}",
        _what(model, dim),
        _data(card),
        _scores(card.get("table"), [*(card.get("verdict") or []), *filter(None, [card.get("note")])]),
        _use(model, card),
        _limits(model),
        _recipe(model, card.get("sections") or {}, card.get("lineage") or {}),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def backbone_license(backbone: str) -> str | None:
    """Licence of a backbone that an installed package ships (`package:<module>`); None where nothing says it."""
    if backbone.startswith("random:"):
        return "apache-2.0"  # this project's own made-up weights
    if not backbone.startswith("package:"):
        return None
    for distribution in metadata.packages_distributions().get(backbone.removeprefix("package:"), []):
        fields = metadata.metadata(distribution)
        for field in ("License-Expression", "License", "Classifier"):
            for text in fields.get_all(field) or []:
                short = text.rpartition(" :: ")[2].lower().removesuffix(" license")
                if "apache" in short:
                    return "apache-2.0"
                if short in _HUB_LICENSES:
                    return short
    return None


def _front_matter(model: Model, card: Mapping[str, Any]) -> str:
    import yaml

    licence = backbone_license(model.backbone)
    front: dict[str, Any] = {
        "license": licence if licence in _HUB_LICENSES else "other",
        "library_name": "sentence-transformers",
        "pipeline_tag": "sentence-similarity",
        "tags": ["sentence-transformers", "feature-extraction", "text-embeddings", "nvembed"],
    }
    if front["license"] == "other":
        front["license_name"] = "see-backbone"
    if ":" not in model.backbone and model.backbone.count("/") == 1 and not model.backbone.startswith((".", "/", "~")):
        front["base_model"] = model.backbone
    if card.get("licenses"):
        front["datasets"] = sorted({_hub_id(one) for one in card.get("sources") or ()} or card["licenses"])
    return f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---"


def _what(model: Model, dim: int) -> str:
    pooling = {
        "latent": "a latent attention block and mean pooling",
        "self-attention": "a self-attention layer and mean pooling",
        "mean": "mean pooling",
        "last": "its last token",
    }
    lora = f"LoRA (rank {model.lora.rank})" if model.lora.enabled else "full training"
    return (
        f"A text embedding model: `{model.backbone}` with {model.attention} attention, {pooling[model.pooling]}, "
        f"trained with {lora} by contrast in two stages, the NV-Embed way (arXiv 2405.17428). It turns a text of up to "
        f"{model.max_length} tokens into a vector of {dim} numbers of norm 1; similar texts have a high cosine."
    )


def _hub_id(source: Mapping[str, Any]) -> str:
    """The dataset a source was read from, without revision and split."""
    return str(source["place"]).partition("@")[0].partition(" ")[0]


def _data(card: Mapping[str, Any]) -> str:
    licenses, counts = card.get("licenses") or {}, card.get("counts") or {}
    if not licenses:
        return ""
    rows = "\n".join(f"| {source} | {licence} |" for source, licence in sorted(licenses.items()))
    head = "| source | licence |\n|---|---|"
    if sources := card.get("sources"):
        head = (
            "| source | read from | licence | rows | left by the cap | dropped | examples |\n|---|---|---|" + "--:|" * 4
        )
        rows = "\n".join(map(_source_row, sources))
    told = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in counts.items())
    licence = "The weights are a work derived from the backbone, whose own licence holds; heed those of the data too."
    return f"## Data\n\n{head}\n{rows}\n\n{told + '. ' if told else ''}{licence}{_written(card)}{_checked(card)}"


def _written(card: Mapping[str, Any]) -> str:
    """Which language models wrote examples, if any did."""
    if not (writers := card.get("writers")):
        return ""
    return f"\n\nSynthetic examples were written by {', '.join(map(str, writers))}; the terms of use of these hold too."


def _source_row(source: Mapping[str, Any]) -> str:
    dropped = sum(source["dropped"].values())
    numbers = (source["rows"], source["left_by_cap"], dropped, source["examples"])
    cells = [str(source["name"]), str(source["place"]), str(source["license"]), *(f"{n:,}" for n in numbers)]
    return f"| {' | '.join(cell.replace('|', ' ') for cell in cells)} |"


def _checked(card: Mapping[str, Any]) -> str:
    """What training was checked against, where that is known."""
    if (checked := card.get("checked_against")) is None:
        return ""
    if not checked:
        return "\n\nThe training texts were not checked against any evaluation task."
    texts = sum(one["texts"] for one in checked.values())
    return (
        f"\n\nThe training texts were checked against {texts:,} texts of {len(checked)} evaluation tasks, and what "
        f"they share was dropped: {', '.join(sorted(checked))}."
    )


def _scores(table: str | None, said: Sequence[str]) -> str:
    if not table:
        return ""
    told = "\n".join(f"- {sentence}" for sentence in said)
    return (
        "## Scores\n\nOn sets held out from the sources above, beside what training started from. Intervals are paired "
        f"bootstrap intervals. Such scores depend on the sets: compare rows of this table, not tables."
        f"\n\n{table.strip()}" + (f"\n\n{told}" if told else "")
    )


def _use(model: Model, card: Mapping[str, Any]) -> str:
    instructions = card.get("instructions") or {}
    sentence = instructions.get("retrieval") or next(iter(instructions.values()), "Retrieve passages that answer")
    task = json.dumps(sentence)
    prefix = json.dumps(model.query_template.replace("{task}", sentence).replace("{text}", ""))
    name = card.get("name") or "nvembed"
    return f"""## Use

Give queries the task as an instruction; give documents none. `import nvembed` makes the model type known; no remote
code is run. All ways give the same vectors.

```python
import nvembed                                   # pip install nvembed's repository first

task = {task}
prompt = {prefix}

# 1. this project's own class
model = nvembed.NVEmbedModel.from_pretrained("path/to/this/folder")
queries = model.encode(["a question"], instruction=task)
documents = model.encode(["a passage"])
scores = queries @ documents.T

# 2. Sentence Transformers
from sentence_transformers import SentenceTransformer
model = SentenceTransformer("path/to/this/folder")
queries = model.encode(["a question"], prompt=prompt)
documents = model.encode(["a passage"])

# 3. transformers: average the token states, then divide by the norm
import torch
from transformers import AutoModel, AutoTokenizer
model = AutoModel.from_pretrained("path/to/this/folder")
tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")
states = model(**tokenizer("a passage", return_tensors="pt")).last_hidden_state
document = torch.nn.functional.normalize(states.mean(1), dim=-1)
# with an instruction: tokenizer(prompt + "a question") and model(..., prompt_length=<tokens of the prompt alone>)

# 4. MLflow
import mlflow
model = mlflow.pyfunc.load_model("models:/{name}@champion")
queries = model.predict(["a question"], params={{"instruction": task}})
documents = model.predict(["a passage"])
```

Served by `mlflow models serve -m models:/{name}@champion --env-manager local`, it also answers requests in the form of
OpenAI's embeddings; leave `instruction` out for documents:

```console
$ curl localhost:5000/invocations -H 'Content-Type: application/json' \\
    -d '{{"input": ["a question"], "instruction": {task}}}'
```"""


def _limits(model: Model) -> str:
    return (
        "## Limits\n\n"
        f"- What lies beyond {model.max_length} tokens of a text is cut off.\n"
        "- It was trained on the sources above; on other kinds of text and other languages it may be no better than "
        "its backbone. Measure it on your own before use.\n"
        "- It keeps what biases its backbone and its data have. A high cosine says that texts are alike, not that they "
        "are true."
    )


def _recipe(model: Model, sections: Mapping[str, Any], lineage: Mapping[str, str]) -> str:
    import yaml

    whole = {"model": model.model_dump(mode="json"), **sections}
    text = yaml.safe_dump(whole, sort_keys=False, allow_unicode=True).rstrip()
    made = "\n".join(f"- {name}: `{value}`" for name, value in lineage.items() if value)
    return f"## Recipe\n\n{made + chr(10) * 2 if made else ''}```yaml\n{text}\n```"
