"""The Role that ships gives the rights that are asked for, and says no more than the tests of manifests allow."""

from pathlib import Path

import pytest
import yaml

from nvembed.cluster import checks, reaping

ROLES = Path(__file__).resolve().parents[2] / "manifests" / "60-service-account.yaml"


def rules():
    documents = yaml.safe_load_all(ROLES.read_text(encoding="utf-8"))
    return next(one for one in documents if one["kind"] == "Role")["rules"]


@pytest.mark.parametrize("right", sorted({*checks.RIGHTS, *reaping.RIGHTS}), ids=lambda right: "-".join(right))
def test_the_role_gives_the_right(right):
    group, resource, subresource, verb = right
    whole = f"{resource}/{subresource}" if subresource else resource
    assert any(group in rule["apiGroups"] and whole in rule["resources"] and verb in rule["verbs"] for rule in rules())
