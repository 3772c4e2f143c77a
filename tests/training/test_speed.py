"""What a step costs and what the machine can do, and the next step that is made ready beside it."""

import json
import threading

import pytest
import torch
from training.support import recipe

from nvembed.core.errors import UserError
from nvembed.modeling import NVEmbedModel
from nvembed.training.peak import Work, cost_of, peak_flops
from nvembed.training.prefetch import Prefetch


def test_the_next_step_is_made_ready_while_this_one_computes_and_errors_wait_for_their_step():
    ready = {step: threading.Event() for step in range(5)}

    def make(step):
        ready[step].set()
        if step == 3:
            raise UserError("step 3 has no batch")
        return step * 10

    prefetch = Prefetch(make, steps=4)
    assert prefetch.get(0) == 0
    assert ready[1].wait(10), "nobody asked for step 1 yet"
    assert prefetch.get(1) == 10
    assert prefetch.get(0) == 0, "any step at any time"
    assert prefetch.get(2) == 20
    assert ready[3].wait(10)
    with pytest.raises(UserError, match="no batch"):
        prefetch.get(3)
    assert not ready[4].is_set(), "there is no step behind the last"


@pytest.mark.parametrize("trained", ["lora", "all", "block"])
@pytest.mark.parametrize("folded", [False, True])
def test_the_flops_of_a_step_are_those_that_pytorch_counts(trained, folded):
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    # Few latents and a large batch, so that keys, values and fold, which are paid once a call, weigh little.
    made = recipe("model.latent.num_latents=2", f"model.lora.enabled={trained == 'lora'}")
    model = NVEmbedModel.from_section(made.model, trainable=True)
    if trained == "block":
        model.backbone.requires_grad_(False)
    model.latent.folded = folded
    tokens = model.tokenize([" ".join(f"word{i}" for i in range(40))] * 16, "", 64)
    assert len({len(item.input_ids) for item in tokens}) == 1, "padding would be counted"

    def added_in_place(onto, one, other, *_, out_shape=None, **__):
        return 2 * one[0] * one[1] * other[1]

    own = {torch.ops.aten.addmm_: added_in_place}  # torch's counter knows it out of place alone
    with FlopCounterMode(display=False, custom_mapping=own) as counter, sdpa_kernel(SDPBackend.MATH):
        model(*model.collate(tokens)).sum().backward()
    ours = cost_of(model).flops(Work.of(tokens), forward_passes=1, folded=folded)
    assert ours == pytest.approx(counter.get_total_flops(), rel=0.05)
    twice = cost_of(model).flops(Work.of(tokens), forward_passes=2, folded=folded)
    assert twice - ours == pytest.approx(ours - cost_of(model).flops(Work.of(tokens), forward_passes=0, folded=folded))


def test_the_peak_is_measured_once_and_kept_by_device_and_precision(tmp_path):
    cache = tmp_path / "peak.json"
    found = peak_flops(torch.device("cpu"), "float32", cache)
    assert 1e8 < found < 1e15
    (key,) = json.loads(cache.read_text())
    cache.write_text(json.dumps({key: 5.0}))
    assert peak_flops(torch.device("cpu"), "float32", cache) == 5.0
    assert peak_flops(torch.device("cpu"), "bfloat16", cache) > 1e8 and len(json.loads(cache.read_text())) == 2
