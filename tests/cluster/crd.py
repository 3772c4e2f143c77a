"""A CRD's schema as the API server applies it with strict field validation: unknown keys are refused."""

import functools
import json
import re
from pathlib import Path
from typing import Any

import jsonschema

SCHEMAS = Path(__file__).resolve().parents[1] / "data" / "crds"
TRAINJOB = "trainjobs.trainer.kubeflow.org-v1alpha1.json"


def strict(schema: Any) -> Any:
    """The schema with `additionalProperties: false` wherever the API server prunes, and Kubernetes' own words read."""
    if isinstance(schema, list):
        return [strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: strict(value) for key, value in schema.items()}
    if schema.get("x-kubernetes-int-or-string"):
        made.pop("type", None)
        made["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    known = isinstance(schema.get("properties"), dict) and schema.get("type") == "object"
    if known and not schema.get("x-kubernetes-preserve-unknown-fields") and "additionalProperties" not in schema:
        made["additionalProperties"] = False
    return made


@functools.cache
def validator(name: str = TRAINJOB) -> jsonschema.Draft202012Validator:
    schema = strict(json.loads((SCHEMAS / name).read_text()))
    schema["properties"]["metadata"] = {"type": "object"}  # the API server's own, checked by itself
    return jsonschema.Draft202012Validator(schema)


def faults(job: dict[str, Any]) -> list[str]:
    """What the API server would refuse a TrainJob for: by schema, and by the rules on its name and immutable parts."""
    found = [f"{'.'.join(map(str, error.absolute_path))}: {error.message}" for error in validator().iter_errors(job)]
    name = job["metadata"]["name"]
    if not re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name) or len(name) > 63:
        found.append(f"metadata.name: {name} must match RFC 1035 DNS label format")
    for variable in job["spec"]["trainer"].get("env", []):
        if variable["name"].startswith("PET_"):
            found.append(f"spec.trainer.env: {variable['name']} is reserved")
    return found
