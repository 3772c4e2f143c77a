"""The latent block folded: the plain form's values and gradients, where it pays, and never a fold of other weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from modeling_helpers import DATA, TEXTS, furthest
from torch.utils.flop_counter import FlopCounterMode

from nvembed import NVEmbedModel
from nvembed.core.errors import UserError
from nvembed.modeling import LatentAttention

PUBLISHED = {"num_latents": 512, "num_heads": 8, "head_dim": 4096}
BACKBONE_PARAMETERS = 7_110_660_096


def stirred_block(dim: int = 16, latents: int = 5, heads: int = 3, head_dim: int = 8) -> LatentAttention:
    torch.manual_seed(3)
    block = LatentAttention(dim, num_latents=latents, num_heads=heads, head_dim=head_dim)
    with torch.no_grad():
        for parameter in block.parameters():  # no matter how wide, the attention is far from even
            parameter.copy_(
                torch.randn_like(parameter) * (2 * parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 0.5)
            )
        block.latents.normal_()
    return block


def answers(block: LatentAttention, hidden: torch.Tensor, *, folded: bool) -> dict[str, torch.Tensor]:
    """The block's output, and the gradients of its parameters and its input for one and the same target."""
    block.folded = folded
    hidden = hidden.clone().requires_grad_()
    out = block(hidden)
    target = torch.randn(out.shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    named = {**dict(block.named_parameters()), "input": hidden}
    gradients = torch.autograd.grad((out.double() * target).sum(), list(named.values()))
    return {"output": out.detach(), **dict(zip(named, gradients, strict=True))}


def distance(found: dict[str, torch.Tensor], truth: dict[str, torch.Tensor]) -> dict[str, float]:
    """Norm of the difference over norm of the truth, tensor by tensor."""
    assert found.keys() == truth.keys()
    return {name: float((found[name].double() - true).norm() / true.norm()) for name, true in truth.items()}


def test_folded_and_plain_have_the_same_output_and_gradients_in_float64() -> None:
    block, hidden = stirred_block().double(), torch.randn(2, 6, 16, dtype=torch.float64)
    plain, folded = (answers(block, hidden, folded=form) for form in (False, True))
    assert not torch.equal(plain["output"], folded["output"]), "the folded form was not used: this proves nothing"
    assert max(distance(folded, plain).values()) < 1e-12


def test_at_width_512_output_and_gradients_are_those_of_float64_up_to_rounding() -> None:
    block, hidden = stirred_block(512, latents=64, heads=8, head_dim=512), torch.randn(192, 512)
    found = {form: answers(block, hidden, folded=form) for form in (False, True)}
    truth = answers(block.double(), hidden.double(), folded=False)
    assert max(distance(found[True], truth).values()) < 3e-6
    assert max(distance(found[False], truth).values()) < 3e-6


def test_under_bf16_autocast_folding_loses_no_more_than_the_plain_form_does() -> None:
    block, hidden = stirred_block(128, latents=32, heads=4, head_dim=128), torch.randn(192, 128)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        plain, folded = (answers(block, hidden, folded=form) for form in (False, True))
    truth = answers(block.double(), hidden.double(), folded=False)
    lost, allowed = distance(folded, truth), distance(plain, truth)
    assert all(1e-4 < allowed[name] < 0.05 for name in truth), "bf16 shows in every tensor"
    assert all(lost[name] < 1.5 * allowed[name] for name in truth)
    assert all(folded[name].dtype == torch.float32 for name in truth if name != "output")


@pytest.mark.parametrize(
    "shape", [{"dim": 4096, **PUBLISHED}, {"dim": 384, "num_latents": 64, "num_heads": 4, "head_dim": 96}]
)
def test_training_uses_the_form_for_which_fewer_operations_are_counted(shape: dict[str, int]) -> None:
    """Counted by PyTorch itself, forward and backward, on tensors without contents."""
    with torch.device("meta"):
        block = LatentAttention(**shape)

    def counted(tokens: int, folded: bool | None) -> int:
        block.folded = folded
        with FlopCounterMode(display=False) as counter:
            block(torch.empty(tokens, shape["dim"], device="meta", requires_grad=True)).sum().backward()
        return counter.get_total_flops()

    tokens = [16, 100, 128, 129, 256, 512, 513, 2048]
    cheaper_folded = [counted(n, True) < counted(n, False) for n in tokens]
    assert cheaper_folded == sorted(cheaper_folded) and {True, False} <= set(cheaper_folded)
    assert [counted(n, None) for n in tokens] == [min(counted(n, True), counted(n, False)) for n in tokens]


def test_at_the_published_size_folding_pays_beyond_512_tokens_a_call() -> None:
    with torch.device("meta"):
        block = LatentAttention(4096, **PUBLISHED)
    assert [block.folding_pays(tokens) for tokens in (1, 512, 513, 10**6)] == [False, False, True, True]


def test_a_trainer_that_calls_several_times_a_step_pays_for_as_many_folds() -> None:
    with torch.device("meta"):
        block = LatentAttention(4096, **PUBLISHED)
    chosen = []
    for tokens in (4 * 512, 4 * 512 + 1):
        block.choose_form(tokens, calls=4)
        chosen.append(block.folded)
    assert chosen == [False, True]


def test_a_step_that_keeps_no_gradients_computes_the_very_same_as_one_that_does() -> None:
    """The gradient cache relies on it: it encodes each chunk twice."""
    block, hidden = stirred_block().train(), torch.randn(40, 16)
    assert block.folding_pays(len(hidden))
    kept = block(hidden).detach()
    with torch.no_grad():
        assert torch.equal(block(hidden), kept)


def test_without_gradients_the_fold_is_made_once() -> None:
    block, hidden = stirred_block().eval().requires_grad_(False), torch.randn(6, 16)
    plain = answers(stirred_block(), hidden, folded=False)["output"]
    with torch.inference_mode():
        first = block(hidden)
    assert not torch.equal(first, plain)
    assert (first - plain).abs().max() < 1e-5 * plain.abs().max()
    with FlopCounterMode(display=False) as counter:
        assert torch.equal(block(hidden), first)
    attention = 2 * 6 * 2 * 16 * 15  # multiply and add, tokens, two products, width, heads × latents
    assert counter.get_total_flops() == attention + 2 * 6 * 16 * (2 * 64 + 64)


def test_a_fold_made_for_inference_lets_gradients_through_to_the_states() -> None:
    block, hidden = stirred_block().eval().requires_grad_(False), torch.randn(6, 16)
    with torch.inference_mode():
        block(hidden)
    hidden.requires_grad_()
    (folded,) = torch.autograd.grad(block(hidden).square().sum(), hidden)
    block.folded = False
    (plain,) = torch.autograd.grad(block(hidden).square().sum(), hidden)
    assert not torch.equal(folded, plain)
    torch.testing.assert_close(folded, plain, rtol=1e-4, atol=1e-4)


def test_a_block_made_within_inference_mode_works() -> None:
    with torch.inference_mode():
        block, hidden = stirred_block().eval(), torch.randn(6, 16)
        found = block(hidden)
        block.folded = False
        assert (found - block(hidden)).abs().max() < 1e-5 * found.abs().max()


def test_a_shape_that_folding_would_make_dearer_stays_plain() -> None:
    block = stirred_block(16, latents=40, heads=4, head_dim=4).eval().requires_grad_(False)
    assert not block.folding_pays(None)
    assert not block.folding_pays(10**9)
    assert not block.drop_unfolded().inference_only


def test_a_fold_is_made_anew_when_weights_change_or_are_loaded_or_moved_to_another_type() -> None:
    block, hidden = stirred_block().eval(), torch.randn(6, 16)
    with torch.no_grad():
        first = block(hidden)
        block.latents.neg_()
        assert (block(hidden) - first).abs().max() > 1e-3
        block.load_state_dict(stirred_block().state_dict())
        assert torch.equal(block(hidden), first)
        assert block.double()(hidden.double()).dtype == torch.float64
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rough = block.float()(hidden)
    assert (rough - first).abs().max() < 0.05 * first.abs().max()


def test_a_fold_first_made_under_autocast_is_no_rounder_than_another() -> None:
    """It is kept for all later calls, those in float32 among them."""
    block, hidden = stirred_block().eval().requires_grad_(False), torch.randn(6, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        block(hidden)
    assert torch.equal(block(hidden), stirred_block().eval().requires_grad_(False)(hidden))


def test_a_fold_does_not_outlive_training_that_writes_past_version_counters() -> None:
    block, hidden = stirred_block().eval(), torch.randn(6, 16)
    with torch.no_grad():
        first = block(hidden)
        block.train()
        block.latents.data.neg_()  # as optimisers that keep master weights do
        assert (block.eval()(hidden) - first).abs().max() > 1e-3


def test_weights_kept_in_bf16_lose_no_more_folded_than_plain() -> None:
    block, hidden = stirred_block(128, latents=32, heads=4, head_dim=128).bfloat16(), torch.randn(64, 128).bfloat16()
    with torch.no_grad():
        folded = block.eval()(hidden)
        block.folded = False
        plain = block(hidden)
        truth = block.double()(hidden.double())
    assert (folded - truth).norm() < 1.2 * (plain - truth).norm() < 0.05 * truth.norm()


def test_for_inference_half_a_billion_published_parameters_are_dropped() -> None:
    with torch.device("meta"):
        block = LatentAttention(4096, **PUBLISHED).eval()
    whole = sum(tensor.numel() for tensor in block.state_dict().values())
    left = sum(tensor.numel() for tensor in block.drop_unfolded().state_dict().values())
    assert BACKBONE_PARAMETERS + whole == 7_851_016_192
    assert BACKBONE_PARAMETERS + left == 7_345_594_368


def test_a_model_for_inference_only_gives_the_same_vectors_from_fewer_weights() -> None:
    whole, lean = (NVEmbedModel.from_pretrained(DATA / "nvembed-tiny", inference_only=only) for only in (False, True))
    sizes = [sum(tensor.numel() for tensor in model.state_dict().values()) for model in (whole, lean)]
    assert sizes[1] < sizes[0]
    assert furthest(whole.encode(TEXTS), lean.encode(TEXTS)) == 0
    assert furthest(lean.to(torch.float64).encode(TEXTS), whole.encode(TEXTS)) < 1e-5


def test_a_model_for_inference_only_refuses_to_be_saved_or_trained(tmp_path: Path) -> None:
    model = NVEmbedModel.from_pretrained(DATA / "nvembed-tiny", inference_only=True)
    for layout in ("sentence-transformers", "nv-embed"):
        with pytest.raises(UserError, match="inference_only"):
            model.save_pretrained(tmp_path / "out", layout)
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match="inference_only"):
        model.train().requires_grad_()(*model.collate(model.tokenize(TEXTS)))


def test_encoding_before_saving_changes_nothing_in_the_file(tmp_path: Path) -> None:
    model = NVEmbedModel.from_pretrained(DATA / "nvembed-tiny")
    before = model.save_pretrained(tmp_path / "before") / "model.safetensors"
    model.encode(TEXTS)
    assert (model.save_pretrained(tmp_path / "after") / "model.safetensors").read_bytes() == before.read_bytes()


def test_the_fingerprint_of_a_model_for_inference_only_tells_other_attention_weights() -> None:
    model, other = (NVEmbedModel.from_pretrained(DATA / "nvembed-tiny") for _ in range(2))
    with torch.no_grad():
        other.latent.latents.neg_()
    for one in (model, other):
        one.latent.drop_unfolded()
    assert model.fingerprint() != other.fingerprint()
