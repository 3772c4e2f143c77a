"""The registered model as MLflow runs it: models-from-code, so the artifact holds this file and safetensors, no pickle.

Input: texts, as a list, a Series, or a DataFrame with one column. Parameters: `instruction`, the task sentence (empty:
none), `max_length` in tokens and `dimensions` of a vector (0: the model's own). Output: float32 (n, dim), rows of norm
1. To a request in the form of OpenAI's embeddings, `{"input": "a text" or [texts], …}`, it answers in that form.
"""

import base64
from typing import Any

import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext

INPUT = "input"  # the key, thus the column, of a request in OpenAI's form


class Embedder(PythonModel):
    """`NVEmbedModel.encode` behind MLflow's `predict`."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the model folder that lies beside this file. Raises UserError if it is not the one that was registered.

        Its files are digested: a model that was changed after it was judged answers nothing.
        """
        from nvembed import NVEmbedModel
        from nvembed.core.artifacts import read_manifest

        folder, config = context.artifacts["model"], context.model_config or {}
        read_manifest(folder, kind="model", verify=True)
        self._model = NVEmbedModel.from_pretrained(folder, device=str(config.get("device") or "cpu"))

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> np.ndarray | dict[str, Any]:
        """Vectors of the texts in the first column, or in the one called `text`."""
        given = params or {}
        if INPUT in model_input.columns:
            return self._answer(_texts(model_input[INPUT]), given)
        column = "text" if "text" in model_input.columns else model_input.columns[0]
        return self._vectors([str(text) for text in model_input[column]], given)

    def _vectors(self, texts: list[str], given: dict[str, Any]) -> np.ndarray:
        from nvembed.core.errors import UserError

        try:
            return self._model.encode(texts, dimensions=int(given.get("dimensions") or 0) or None, **_asked(given))
        except UserError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from error

    def _answer(self, texts: list[str], given: dict[str, Any]) -> dict[str, Any]:
        """The vectors as OpenAI's embeddings API gives them."""
        coded = str(given.get("encoding_format") or "float")
        if coded not in ("float", "base64"):
            raise MlflowException.invalid_parameter_value(f"encoding_format {coded!r}: give float or base64")
        vectors = self._vectors(texts, given)
        tokens = sum(len(each.input_ids) for each in self._model.tokenize(texts, **_asked(given)))
        data = [
            {"object": "embedding", "index": at, "embedding": _base64(row) if coded == "base64" else row.tolist()}
            for at, row in enumerate(vectors)
        ]
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return {"object": "list", "data": data, "model": str(given.get("model") or "nvembed"), "usage": usage}


def _asked(given: dict[str, Any]) -> dict[str, Any]:
    return {
        "instruction": str(given.get("instruction") or ""),
        "max_length": int(given.get("max_length") or 0) or None,
    }


def _texts(column: pd.Series) -> list[str]:
    """MLflow makes one row of a request's whole list, or one row a text of a DataFrame."""
    found = [text for cell in column for text in (cell if isinstance(cell, list) else [cell])]
    if not all(isinstance(text, str) for text in found):
        raise MlflowException.invalid_parameter_value("input: give a text or a list of texts, no token ids")
    return found


def _base64(row: np.ndarray) -> str:
    return base64.b64encode(row.astype("<f4").tobytes()).decode("ascii")


set_model(Embedder())
