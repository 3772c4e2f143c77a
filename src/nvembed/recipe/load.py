"""Reading recipes: presets by name, files, whole texts, and overrides `section.key=value`."""

from __future__ import annotations

import difflib
import json
from collections.abc import Hashable, Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from nvembed.core.digests import canonical_json
from nvembed.core.errors import UserError
from nvembed.recipe.schema import Recipe, Section

_PLACEHOLDER = "{{$."
S = TypeVar("S", bound=Section)


def list_presets() -> dict[str, str]:
    """Names of the recipes that ship, each with its one-line description."""
    return {name: load_recipe(name).description for name in _preset_names()}


def load_recipe(recipe: str, overrides: Iterable[str] = ()) -> Recipe:
    """A checked recipe from a preset's name, a YAML file's path or a recipe's whole text.

    A recipe may begin with `extends: <preset>`: it is that preset with what it gives itself laid over it.

    Args:
        recipe: preset name, path ending in .yaml or .yml, or YAML text (it has a line end).
        overrides: `section.key=value` each; the value is read as YAML. Later ones win.

    Raises:
        UserError: unknown recipe, unreadable YAML, unknown key (the nearest known one is named), bad value.
    """
    text, origin = _read(recipe)
    tree = _extended(_parse(text, origin), origin)
    for override in overrides:
        _apply(tree, override)
    checked = _validate(Recipe, tree, origin)
    _check_variants(checked)
    return checked


def variant_recipe(recipe: Recipe, family: str, variant: str) -> Recipe:
    """The whole recipe of one of an ablation's variants: the recipe with the family's changes and its own.

    Raises UserError for a change that no recipe can have.
    """
    assert recipe.ablation is not None
    compared = recipe.ablation.families[family]
    tree = recipe.model_dump(mode="json", exclude={"ablation"})
    for key, value in {**compared.changes, **compared.variants[variant].changes}.items():
        _put(tree, key.split("."), value, f"change {key!r}")
    return _validate(Recipe, tree, f"ablation family {family!r}, variant {variant!r}")


def _check_variants(recipe: Recipe) -> None:
    """Raises UserError for a variant that is no recipe, or has another budget than its family's baseline."""
    for name, family in (recipe.ablation.families if recipe.ablation else {}).items():
        budgets = {}
        for variant in family.variants:
            made = variant_recipe(recipe, name, variant)
            stages = [made.stage1 if stage == "stage1" else made.stage2 for stage in family.stages_of(variant)]
            budgets[variant] = (sum(s.steps for s in stages), sum(s.steps * s.batch_size for s in stages))
        steps, examples = budgets[family.baseline]
        for variant, budget in budgets.items():
            if budget != (steps, examples):
                raise UserError(
                    f"ablation family {name!r}: {variant} takes {budget[0]} steps and {budget[1]} examples, the "
                    f"baseline {family.baseline} {steps} and {examples}; give all variants one budget"
                )


def section_json(section: Section) -> str:
    """A section as canonical JSON, the form in which the pipeline hands it on."""
    return canonical_json(section.model_dump(mode="json"))


def section_from_json(kind: type[S], text: str) -> S:
    """A section back from `section_json`. Raises UserError if it does not fit."""
    try:
        tree = json.loads(text)
    except ValueError as error:
        raise UserError(f"{kind.__name__.lower()} section: not JSON ({error})") from error
    return _validate(kind, tree, f"{kind.__name__.lower()} section")


def _preset_names() -> list[str]:
    folder = resources.files("nvembed.recipe") / "recipes"
    return sorted(item.name.removesuffix(".yaml") for item in folder.iterdir() if item.name.endswith(".yaml"))


def _read(recipe: str) -> tuple[str, str]:
    if "\n" in recipe:
        return recipe, "recipe text"
    if recipe.endswith((".yaml", ".yml")):
        try:
            return Path(recipe).read_text(encoding="utf-8"), recipe
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"recipe file {recipe}: cannot be read ({error}); check the path") from error
    names = _preset_names()
    if recipe not in names:
        raise UserError(
            f"recipe {recipe!r} is unknown{_nearest(recipe, names)}; known: {', '.join(names)}, or a .yaml file"
        )
    return (resources.files("nvembed.recipe") / "recipes" / f"{recipe}.yaml").read_text(encoding="utf-8"), recipe


class _UniqueKeys(yaml.SafeLoader):
    """YAML's silent last-one-wins would hide a key written twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: list[Any] = []  # a key may be a list, which no set takes; the loader itself refuses it below
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue  # `<<: *anchor`; what stands beside it wins, as YAML has it
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", key_node.start_mark)
            seen.append(key)
        return super().construct_mapping(node, deep)


def _parse(text: str, origin: str) -> dict[str, Any]:
    if _PLACEHOLDER in text:
        raise UserError(f"{origin}: contains {_PLACEHOLDER!r}, which the pipeline would take for a placeholder")
    try:
        tree = yaml.load(text, Loader=_UniqueKeys)
    except yaml.YAMLError as error:
        raise UserError(f"{origin}: not valid YAML ({error})") from error
    if not isinstance(tree, dict):
        raise UserError(f"{origin}: a recipe is a mapping of sections, but this is a {type(tree).__name__}")
    return tree


def _extended(tree: dict[str, Any], origin: str, seen: tuple[str, ...] = ()) -> dict[str, Any]:
    """A recipe's tree laid over the preset that it extends. Mappings are laid over key by key, anything else whole."""
    base = tree.pop("extends", None)
    if base is None:
        return tree
    if not isinstance(base, str) or base not in _preset_names():
        raise UserError(
            f"{origin}: extends {base!r}, which is no recipe that ships{_nearest(str(base), _preset_names())}; "
            f"known: {', '.join(_preset_names())}"
        )
    if base in seen:
        raise UserError(f"{origin}: extends {base!r}, which extends it in turn; break the circle")
    text, name = _read(base)
    return _laid_over(_extended(_parse(text, name), name, (*seen, base)), tree)


def _laid_over(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    both = {**under, **over}
    for key in under.keys() & over.keys():
        if isinstance(under[key], dict) and isinstance(over[key], dict):
            both[key] = _laid_over(under[key], over[key])
    return both


def _apply(tree: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise UserError(f"override {override!r}: write it as section.key=value")
    if _PLACEHOLDER in override:
        raise UserError(
            f"override {override!r}: contains {_PLACEHOLDER!r}, which the pipeline would take for a placeholder"
        )
    try:
        parsed = yaml.safe_load(value) if value.strip() else ""
    except yaml.YAMLError:
        parsed = value
    _put(tree, parts, parsed, f"override {override!r}")


def _put(tree: dict[str, Any], parts: list[str], value: Any, what: str) -> None:
    node = tree
    for part in parts[:-1]:
        child = node.setdefault(part, {})
        if not isinstance(child, dict):
            raise UserError(f"{what}: {part} is a value, not a section")
        node = child
    node[parts[-1]] = value


def _validate(kind: type[S], tree: Mapping[str, Any], origin: str) -> S:
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        raise UserError(f"{origin}: " + "; ".join(_explain(kind, detail) for detail in error.errors()[:3])) from None


def _explain(kind: type[BaseModel], detail: Any) -> str:
    location = [str(part) for part in detail["loc"]]
    where = ".".join(location)
    if detail["type"] == "extra_forbidden":
        known = _fields_at(kind, location[:-1])
        return f"unknown key {where!r}{_nearest(location[-1], known)}; known here: {', '.join(known)}"
    if detail["type"] == "missing":
        return f"key {where!r} is missing"
    message = detail["msg"].removeprefix("Value error, ")
    return f"{where}: {message}" if where else message


def _fields_at(kind: type[BaseModel], location: list[str]) -> list[str]:
    for part in location:
        if (inner := _section_in(_annotation(kind, part))) is not None:
            kind = inner
    return sorted(kind.model_fields)


def _annotation(kind: type[BaseModel], name: str) -> Any:
    field = kind.model_fields.get(name)
    return field.annotation if field else None


def _section_in(annotation: Any) -> type[BaseModel] | None:
    """The section that a key holds, alone or in a list or mapping; a place in those is no key and holds none."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for inner in get_args(annotation) if (found := _section_in(inner)) is not None), None)


def _nearest(word: str, known: Iterable[str]) -> str:
    match = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" (did you mean {match[0]!r}?)" if match else ""
