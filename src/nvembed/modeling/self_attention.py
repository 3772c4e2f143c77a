"""Self-attention pooling, the fourth that the NV-Embed paper compares (arXiv 2405.17428).

What is known: one more trained self-attention layer behind the language model, averaged, scores 71.61 on the 56 tasks
of MTEB, beside 72.31 for the latent block, 71.71 for the mean and 71.63 for the last token. Its sizes and code were not
published.

What is chosen here, to make the comparison a fair one: the latent block's own shape with the text's tokens in place of
the latents, `h + W_out·MHA(LN(h))`, then `h + FF(LN(h))` with a GEGLU, then the mean over the pooled tokens. Heads have
the usual width, `dim / heads`; projections have no bias, as in the latent block. Every token of a text attends to every
other one of it, the instruction's tokens included and whichever way the backbone looks, and to nothing else. Places are
in the states already, so the layer adds none.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from nvembed.modeling.latent import FeedForward, PreNorm


class TokenAttention(nn.Module):
    """Multi-head attention among the tokens of each text; texts lie one behind the other."""

    def __init__(self, dim: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_qkv = nn.Linear(dim, 3 * heads * head_dim, bias=False)
        self.to_out = nn.Linear(heads * head_dim, dim, bias=False)

    def forward(self, rows: Tensor, attended: Tensor) -> Tensor:
        """(tokens, dim) → (tokens, dim); `attended` (texts, longest) says where the tokens lie, text by text.

        Only queries, keys and values are padded, to the longest text.
        """
        found = self.to_qkv(rows).unflatten(-1, (3, self.heads, -1))
        grid = found.new_zeros(*attended.shape, *found.shape[1:])
        grid[attended] = found
        query, key, value = grid.permute(2, 0, 3, 1, 4)
        # a row without tokens would be divided by zero: it sees its zeros, and none of it is read
        seen = attended | ~attended.any(1, keepdim=True)
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=seen[:, None, None, :])
        return self.to_out(mixed.transpose(1, 2)[attended].flatten(1))


class SelfAttention(nn.Module):
    """The layer: self-attention within each text, then a feed-forward layer, each with a residual.

    Args:
        dim: width of the token states.
        num_heads, head_dim: heads of the attention (`head_dim` None: `dim / num_heads`).
        ff_mult: inner width of the feed-forward layer over `dim`.
        identity: start as the identity map: both output projections are zero.
    """

    def __init__(
        self, dim: int, *, num_heads: int = 8, head_dim: int | None = None, ff_mult: int = 4, identity: bool = False
    ) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.attend = TokenAttention(dim, num_heads, head_dim or dim // num_heads)
        self.feed = PreNorm(dim, FeedForward(dim, ff_mult))
        if identity:
            inner: nn.Sequential = self.feed.fn.net  # type: ignore[assignment]
            for parameter in (*self.attend.to_out.parameters(), *inner[2].parameters()):
                nn.init.zeros_(parameter)

    def forward(self, states: Tensor, attention_mask: Tensor) -> Tensor:
        """(texts, tokens, dim), padded; `attention_mask` (texts, tokens) → the same shape, zeros at the padding."""
        attended = attention_mask.to(states.device).bool()
        rows = self._through(states[attended], attended)
        return torch.zeros_like(states, dtype=rows.dtype).masked_scatter(attended.unsqueeze(-1), rows)

    def forward_packed(self, states: Tensor, lengths: Tensor) -> Tensor:
        """(tokens, dim) of texts one behind the other, without padding; `lengths` (texts,) → (tokens, dim)."""
        lengths = lengths.to(states.device)
        places = torch.arange(int(lengths.max()) if len(lengths) else 0, device=states.device)
        return self._through(states, places < lengths.unsqueeze(1))

    def _through(self, rows: Tensor, attended: Tensor) -> Tensor:
        rows = rows + self.attend(self.norm(rows), attended)
        return rows + self.feed(rows)
