"""What one pipeline task does: rooms called with files and one section, under tracking, with progress.

A KFP component's body imports one function from here and calls it. The functions know nothing of Kubeflow, so a test
or a command can call them with folders of its own.
"""

from nvembed.steps.learn import mine_again, mine_hard_negatives, mine_shard, prepare_data, prepare_shard, train
from nvembed.steps.measure import compare_models, evaluate
from nvembed.steps.publish import finalize_run, register_model
from nvembed.steps.resolve import resolve_recipe
from nvembed.steps.synthetic import synthesize_data

__all__ = [
    "compare_models",
    "evaluate",
    "finalize_run",
    "mine_again",
    "mine_hard_negatives",
    "mine_shard",
    "prepare_data",
    "prepare_shard",
    "register_model",
    "resolve_recipe",
    "synthesize_data",
    "train",
]
