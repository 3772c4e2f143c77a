"""What was decided about a version, by whom, when and why: tags that stay with it."""

from __future__ import annotations

import getpass
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime

from nvembed.registry.versions import EVALUATION_TAG, Version
from nvembed.tracking.client import client
from nvembed.tracking.store import pipeline_run_id

RECORD_TAG = "nvembed.decision."  # + a number of three digits; the value is a `Record` as JSON
PROMOTED, REFUSED, TAKEN_BACK = "promoted", "refused", "rolled back"
PASSED = "passed"  # but whoever asked may set no alias; see `waiting`
UNTRAINED = "untrained"
_LONGEST = 5000  # MLflow's limit on a tag
_OF_A_REASON = 3500


@dataclass(frozen=True)
class Record:
    """One decision.

    Attributes:
        what: `PROMOTED`, `PASSED`, `REFUSED` or `TAKEN_BACK`.
        who: a person's or a pod's user. run: the pipeline run that asked, if one did.
        against: the champion it was judged against, as a version number; `UNTRAINED` for the untrained backbone,
            empty where nothing was judged.
        evaluation: content digest of that rival's evaluation.
    """

    what: str
    who: str
    when: str
    why: str
    against: str = ""
    evaluation: str = ""
    run: str = ""


def read_records(version: Version) -> list[Record]:
    """A version's decisions, oldest first."""
    names = sorted(name for name in version.tags if name.startswith(RECORD_TAG))
    return [Record(**json.loads(version.tags[name])) for name in names]


def record(version: Version, what: str, why: str, *, against: str = "", evaluation: str = "") -> Record:
    """Add a decision to a version's tags. What the same run was told before (it was retried) is there already.

    The caller holds the model's lock, and `version` was read under it: the number of the tag is one more than the last.
    """
    before = read_records(version)
    made = Record(what, who(), now(), why[:_OF_A_REASON], against, evaluation, pipeline_run_id() or "")
    if what in (REFUSED, PASSED) and any(replace(one, who=made.who, when=made.when) == made for one in before):
        return made
    text = json.dumps({name: value for name, value in asdict(made).items() if value}, ensure_ascii=False)
    client().set_model_version_tag(version.name, version.version, f"{RECORD_TAG}{len(before) + 1:03d}", text[:_LONGEST])
    return made


def evaluations_of(version: Version) -> dict[str, str]:
    """What a version was measured on: key of the eval sets → content digest of the evaluation folder."""
    return _after(EVALUATION_TAG, version.tags)


def _after(prefix: str, tags: Mapping[str, str]) -> dict[str, str]:
    return {key.removeprefix(prefix): value for key, value in tags.items() if key.startswith(prefix)}


def now() -> str:
    """This moment, UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def who() -> str:
    """Whom MLflow knows us as, else whom the machine does."""
    try:
        return os.environ.get("MLFLOW_TRACKING_USERNAME") or getpass.getuser()
    except (KeyError, OSError):  # a container's user often has no name
        return f"uid {os.getuid()}"
