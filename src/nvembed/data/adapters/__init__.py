"""Sources of a mix to examples: each dataset where it lies, in its own shape, by its lines in the recipe."""

from nvembed.data.adapters.mix import MixCheck, SourceState, check_mix, open_mix
from nvembed.data.adapters.reader import Opened, SourceReader
from nvembed.data.adapters.tally import Tally

__all__ = ["MixCheck", "Opened", "SourceReader", "SourceState", "Tally", "check_mix", "open_mix"]
