"""The gate: is the new model better where it must be, no worse than allowed elsewhere, and fit to be served?

Every condition must hold. The primary one is a single hypothesis, so its interval needs no correction; the guards must
all pass, which no number of them makes easier (an intersection-union test), so theirs need none either.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from nvembed.core.errors import UserError
from nvembed.evaluation.measuring import SUBMISSION
from nvembed.evaluation.verdict import Difference, listed, name_of, outcome, signed

if TYPE_CHECKING:
    from nvembed.evaluation.contamination import Contamination
    from nvembed.evaluation.results import Results
    from nvembed.recipe import Registration
    from nvembed.recipe.registration import Limits

FEW = 4
"""So many guards that pass are spoken of one by one."""
SERVED = {
    "query_ms": ("query_ms_p95", "{:.1f} ms for a short query, at the 95th percentile"),
    "documents_per_second": ("documents_per_second", "{:,.0f} passages a second"),
    "parameters": ("parameters", "{:,.0f} parameters"),
    "size_mb": ("size_mb", "{:,.0f} MB of weights"),
}
"""A limit's name → the measured value's, and how it is said."""


@dataclass(frozen=True)
class Condition:
    """One thing that the gate asks.

    Attributes:
        kind: gain, guard, measured, contamination, limit or export.
        name: the task or limit. passed: None where it is not for this gate to say.
        says: a sentence with the numbers. short: ends a sentence "…, but …". plain: a sentence for a layman, or "".
    """

    kind: str
    name: str
    passed: bool | None
    says: str
    short: str = ""
    plain: str = ""


def gate_tasks(registration: Registration, types: Mapping[str, str]) -> list[str]:
    """The tasks that the primary metric is made of. Raises UserError if there are none.

    Args:
        types: task → type, of the split that judges.
    """
    kind = registration.gate_type
    tasks = sorted(
        task for task, own in types.items() if (task == registration.gate_task if kind is None else kind in ("", own))
    )
    if not tasks:
        known = ", ".join(sorted(types)) or "no tasks"
        raise UserError(
            f"registration.gate_task is {registration.gate_task!r}, but what judges holds {known}; name one of these, "
            f"mean, or mean:<type> with a type out of {', '.join(sorted(set(types.values()))) or 'none'}"
        )
    return tasks


def guard_tasks(registration: Registration, gate: Sequence[str], types: Mapping[str, str]) -> list[str]:
    """The tasks that may not lose. Raises UserError for one that was not measured."""
    if registration.guard_tasks is None:
        return sorted(set(types) - set(gate))
    unknown = sorted(set(registration.guard_tasks) - set(types))
    if unknown:
        known = ", ".join(sorted(types))
        raise UserError(f"registration.guard_tasks names {unknown[0]!r}, which was not measured; measured: {known}")
    return sorted(set(registration.guard_tasks))


def judge(
    challenger: Results,
    rival: Results,
    primary: Difference | None,
    guards: Mapping[str, Difference | None],
    registration: Registration,
    *,
    gate_of: Sequence[str],
    split: str,
    confidence: float,
    contamination: Contamination | None = None,
    uses: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """The verdict on `challenger` against `rival`: what it was to beat, whether it passed, one sentence a reason.

    It passes if the lower end of the primary metric's paired interval lies above `min_gain`, that of every guard task
    above −`guard_margin`, every task of the split was measured for both, no test text stands in the training data, and
    no limit is exceeded.

    Args:
        primary: the difference of the gate's metric, None if it was not measured for both.
        guards: the difference of each guard task, None likewise.
        gate_of: the tasks that the gate's metric is made of.
        contamination: what was found of the test texts in the training data; None: not at hand.
        uses: test set → how many models it has judged, this one included; None: not counted.
    """
    names = (name_of(challenger.candidate), name_of(rival.candidate))
    gate, margin = registration.gate_task, registration.guard_margin
    conditions = [_gained(gate, primary, registration.min_gain, confidence, names, split)]
    conditions += _in_domain(challenger, gate_of, split)
    failed = {task for one in (challenger, rival) for where, task in one.errors if where == split}
    guarded = [
        _guarded(task, row, margin, confidence, names, split)
        for task, row in guards.items()
        if row is not None or task not in failed  # which is a condition of its own
    ]
    conditions += [*guarded, *_guards_in_plain_words(guarded, margin)]
    conditions += _measured(challenger, rival, split)
    conditions += _clean(contamination, challenger)
    conditions += _limits(registration.limits, challenger.speed.get("serving") or {})
    conditions.append(
        Condition("export", "", None, "That the exported model gives these vectors is checked when it is registered.")
    )
    asked = [one for one in conditions if one.passed is not None]
    chance = (1 - confidence) / 2
    return {
        "beats": rival.candidate,
        "challenger": challenger.candidate,
        "passed": all(one.passed for one in asked),
        "failed": [one.name for one in asked if one.kind in ("gain", "guard") and not one.passed],
        "gate": {"task": gate, "min_gain": registration.min_gain, "guard_margin": margin},
        "reasons": _reasons(conditions, margin),
        "conditions": [asdict(one) for one in conditions],
        "uses": dict(uses or {}),
        "chance_to_pass_by_luck": {"this": chance, "so_far": 1 - (1 - chance) ** max([1, *(uses or {}).values()])},
    }


def _gained(
    task: str, row: Difference | None, bound: float, confidence: float, names: tuple[str, str], split: str
) -> Condition:
    if row is None:
        return Condition("gain", task, False, f"{task} ({split}) was not measured for both {names[0]} and {names[1]}.")
    return Condition("gain", task, *outcome(row, bound, confidence, required="the required gain"))


def _guarded(
    task: str, row: Difference | None, margin: float, confidence: float, names: tuple[str, str], split: str
) -> Condition:
    if row is None:
        return Condition("guard", task, False, f"{task} ({split}) was not measured for both {names[0]} and {names[1]}.")
    return Condition("guard", task, *outcome(row, -margin, confidence, required="the allowed loss"))


def _reasons(conditions: Sequence[Condition], margin: float) -> list[str]:
    """What failed and what was asked for; many guards that pass are one sentence."""
    quiet = [one for one in conditions if one.kind == "guard" and one.passed]
    quiet = quiet if len(quiet) > FEW else []
    said = [one.says for one in conditions if one not in quiet and one.passed is not None]
    if quiet:
        said.append(f"{len(quiet)} other tasks stay above the allowed loss of {signed(-margin)}.")
    return said


def _guards_in_plain_words(guards: Sequence[Condition], margin: float) -> list[Condition]:
    if not guards:
        return []
    lost = [one.name for one in guards if not one.passed]
    if lost:
        plain = f"On {listed(lost)} it may lose more than the {margin:.3f} that is allowed."
    elif len(guards) > 1:
        plain = (
            f"On none of the {len(guards)} tasks that guard does it lose more than the {margin:.3f} that is allowed."
        )
    else:
        plain = f"On {guards[0].name}, which guards, it loses no more than the {margin:.3f} that is allowed."
    return [Condition("guards", "", None, plain, plain=plain)]


def _in_domain(challenger: Results, tasks: Sequence[str], split: str) -> list[Condition]:
    seen = [task for task in tasks if challenger.tasks.get((split, task), {}).get("in_domain")]
    if not seen:
        return []
    says = f"It was trained on the training split of {listed(seen)}, so the gain there is not what new data would show."
    return [Condition("in_domain", "", None, says, plain=says)]


def _measured(challenger: Results, rival: Results, split: str) -> list[Condition]:
    """Tasks that failed: a model is not better by what was not seen of it. Of the rival, those that judge."""
    failed = []
    for one in (challenger, rival):
        for (where, task), error in one.errors.items():
            if where == split or (one is challenger and where != SUBMISSION):
                says = f"{task} ({where}) failed for {name_of(one.candidate)}: {error}"
                short = f"{task} could not be measured"
                failed.append(Condition("measured", task, False, says, short, f"{task} could not be measured."))
    return failed


def _clean(found: Contamination | None, challenger: Results) -> list[Condition]:
    if found is None:
        says = "The training data were not at hand, so test texts were not looked for in them."
        return [Condition("contamination", "", None, says, plain=says)]
    unchecked = sorted(
        task for (_, task), row in challenger.tasks.items() if row.get("hf_split") and task not in found.benchmarks
    )
    return [_texts_found(found), *([_unchecked(unchecked)] if unchecked else [])]


def _unchecked(tasks: Sequence[str]) -> Condition:
    says = (
        f"{len(tasks)} benchmark tasks were not looked for when the training data were prepared ({listed(tasks)}): "
        "name them in data.decontamination.tasks."
    )
    return Condition("contamination", "benchmarks", None, says, plain=says)


def _texts_found(found: Contamination) -> Condition:
    looked = f"{found.texts:,} test texts were looked for in {found.examples:,} training examples"
    if not found.found:
        plain = "None of the test texts stands in the training data."
        return Condition("contamination", "", True, f"{looked}; none of them stands there.", plain=plain)
    stands = "example holds" if found.found == 1 else "examples hold"
    says = f"{looked}: {found.found:,} {stands} one, such as {found.example[:80]!r}."
    return Condition("contamination", "", False, says, "it was trained on test texts", "It was trained on test texts.")


def _limits(limits: Limits, served: Mapping[str, float]) -> list[Condition]:
    conditions = []
    for name, limit in limits.model_dump().items():
        if limit is None:
            continue
        key, words = SERVED[name]
        if key not in served:
            says = f"registration.limits.{name} is {limit:g}, but this was not measured; evaluate anew."
            conditions.append(Condition("limit", name, False, says, f"its {name} was not measured", says))
            continue
        least = name == "documents_per_second"
        passed = served[key] >= limit if least else served[key] <= limit
        said = f"{words.format(served[key])}, {'at least' if least else 'at most'} {limit:g} asked for"
        conditions.append(
            Condition("limit", name, passed, f"To serve: {said}.", f"it is over a limit: {said}", f"{said}.")
        )
    return conditions
