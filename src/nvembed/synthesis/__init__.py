"""Examples written by language models, from documents or from tasks they think up, within a budget, sifted and told."""

from nvembed.synthesis.candidate import RETRIEVAL
from nvembed.synthesis.planning import Part
from nvembed.synthesis.synthesize import check_synthesis, plan, synthesize

__all__ = ["RETRIEVAL", "Part", "check_synthesis", "plan", "synthesize"]
