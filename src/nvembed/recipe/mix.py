"""What a data section says of a mix of sources: which, from where, under which licences, labelled how."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator

from nvembed.recipe.base import Positive, Section
from nvembed.recipe.decontamination import Decontamination
from nvembed.recipe.licences import refused_sources
from nvembed.recipe.sources import LabelRule, Source


class Mix(Section):
    """The keys of a data section that are for a mix alone (`source: mix`)."""

    sources: dict[str, Source] = Field({}, description="the datasets of a mix by name; null takes one out")
    only: list[str] = Field([], description="the sources of these names alone; none given: all")
    hub_mirror: str | None = Field(
        None, description="folder in place of the hub: <repo>/<config>/<split>.parquet (.jsonl, .csv)"
    )
    allow_fallback: bool = Field(False, description="where a source cannot be had, read its fallback and say so")
    forbid_licenses: list[str] = Field(
        [], description="sources so licensed are left out: names with *, non-commercial, share-alike, unspecified"
    )
    label_rule: LabelRule | None = Field(None, description="for all labelled sources of a mix, whatever theirs says")
    decontamination: Decontamination = Decontamination()
    dev_queries: Annotated[int, Field(ge=0)] = Field(
        0, description="queries held out of each retrieval source of a mix, for dev/retrieval; 0: none"
    )
    download_attempts: Positive = Field(5, description="tries for each file of the hub before it is given up")

    @model_validator(mode="before")
    @classmethod
    def _only_what_is_wanted(cls, tree: Any) -> Any:
        if not isinstance(tree, dict) or not isinstance(sources := tree.get("sources"), dict):
            return tree
        only = tree.get("only") or [name for name, source in sources.items() if source is not None]
        if isinstance(only, list) and (missing := [name for name in only if sources.get(name) is None]):
            raise ValueError(f"only names {missing[0]!r}, which is no source; there are {', '.join(sorted(sources))}")
        kept = {name: source for name, source in sources.items() if source is not None and name in only}
        return {**tree, "sources": kept}

    def of_stage(self, stage: int) -> list[str]:
        """Names of the sources that a training stage sees, those included that a licence or a switch leaves out."""
        return sorted(name for name, source in self.sources.items() if stage in source.stages)

    def check_sources(self) -> None:
        """Raises ValueError for a mix without sources, or one whose licences are all refused."""
        if not self.sources:
            raise ValueError("source is 'mix' but sources is empty; name at least one")
        refused = refused_sources(self.sources, self.forbid_licenses)
        if len(refused) == len(self.sources):
            first = refused[0]
            raise ValueError(
                f"forbid_licenses leaves no source ({first.name} is {first.license}, refused by {first.pattern!r})"
            )
