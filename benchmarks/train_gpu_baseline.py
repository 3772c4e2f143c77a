"""The case `baseline` of `train_gpu.py`: transformers and PEFT as they come."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from train_gpu_measure import TEMPERATURE, TEXTS, Batches, build, free, measured, tokenized, told

from nvembed.data import Example
from nvembed.training.peak import cost_of


def baseline(asked: argparse.Namespace, device: torch.device, peak: float) -> dict[str, Any]:
    """transformers and PEFT as they come: padded, checkpointed, InfoNCE over an example's own documents."""
    from peft import LoraConfig, get_peft_model

    free()
    model = build(asked, device, lora=False)
    base = model.backbone
    base.set_attn_implementation("sdpa")
    base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    config = LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear")
    adapted = get_peft_model(base, config)  # type: ignore[arg-type]
    adapted.enable_input_require_grads()
    adapted.train()
    model.latent.folded = False  # type: ignore[union-attr]
    trained = [p for p in (*adapted.parameters(), *model.latent.parameters()) if p.requires_grad]  # type: ignore[union-attr]
    optimizer = torch.optim.AdamW(trained, lr=2e-5, weight_decay=0.03, fused=True)
    batches, micro = Batches(max(asked.batch // 4, 1), asked.tiny), [1 if asked.tiny else 4]
    print(f"\nbaseline: {len(batches.examples)} examples a step, in batches of {micro[0]}, padded, checkpointed")

    def step(number: int) -> dict[str, float]:
        examples, total = batches.batch(number), 0.0
        for some in in_groups(examples, micro[0]):
            texts = [text for e in some for text in (e.query, e.positive, *e.negatives)]
            ids, mask, pooled = (part.to(device) for part in model.collate(model.tokenize(texts), packed=False))
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=not asked.tiny):
                states = adapted(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
                states = model.latent(states)  # type: ignore[misc]
            weights = (mask.bool() & pooled).unsqueeze(-1).float()
            vectors = nn.functional.normalize((states.float() * weights).sum(1) / weights.sum(1), dim=-1)
            query, documents = vectors.view(len(some), TEXTS, -1).split([1, TEXTS - 1], dim=1)
            scores = (documents @ query.transpose(1, 2))[..., 0] / TEMPERATURE
            goal = torch.zeros(len(some), dtype=torch.long, device=device)
            loss = nn.functional.cross_entropy(scores, goal, reduction="sum") / len(examples)
            loss.backward()
            total += float(loss.detach())
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return {"loss": total}

    def shrink() -> int:
        optimizer.zero_grad(set_to_none=True)
        micro[0] = max(micro[0] // 2, 1)
        return micro[0]

    cost = cost_of(model)
    end = time.monotonic() + 60 * asked.minutes
    found = measured(
        step,
        shrink,
        lambda number: tokenized(model, batches.batch(number)),
        lambda work: cost.flops(work, forward_passes=1, folded=True),  # the least that this work takes
        asked,
        device,
        end,
    )
    return told(found | {"budget": micro[0]}, peak)


def in_groups(examples: list[Example], size: int) -> Iterator[list[Example]]:
    """Some at a time, in order."""
    for start in range(0, len(examples), size):
        yield examples[start : start + size]
