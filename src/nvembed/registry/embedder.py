"""The registered model as MLflow runs it: models-from-code, so the artifact holds this file and safetensors, no pickle.

Input: texts, as a list, a Series, or a DataFrame with one column. Parameters: `instruction`, the task sentence (empty:
none), and `max_length` in tokens (0: the model's own). Output: float32 (n, dim), rows of norm 1.
"""

from typing import Any

import numpy as np
import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext


class Embedder(PythonModel):
    """`NVEmbedModel.encode` behind MLflow's `predict`."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the model folder that lies beside this file."""
        from nvembed import NVEmbedModel

        device = "cpu"
        if context.model_config and context.model_config.get("device"):
            device = str(context.model_config["device"])
        self._model = NVEmbedModel.from_pretrained(context.artifacts["model"], device=device)

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> np.ndarray:
        """Vectors of the texts in the first column, or in the one called `text`."""
        given = params or {}
        column = "text" if "text" in model_input.columns else model_input.columns[0]
        texts = [str(text) for text in model_input[column]]
        return self._model.encode(
            texts, instruction=str(given.get("instruction") or ""), max_length=int(given.get("max_length") or 0) or None
        )


set_model(Embedder())
