"""What rotary positions take: against the rotary-embedding-torch package, and against the attention they are for.

The tensors are queries of 8 heads with 64 features, (1, 8, n, 64) in float32. Ours and the peer's calls alternate. The package
keeps its angles between calls; here nothing is kept. Both errors are against float64: the package rounds angles of thousands of
radians to float32. RoPE2D's peer is the package's axial form with the same frequencies.
"""


import torch
import torch.nn.functional as F
from common import report, side_by_side
from rotary_embedding_torch import RotaryEmbedding, apply_rotary_emb

from nvs_book.rotary import grid_positions, rope_1d, rope_2d, rope_frequencies
from nvs_book.viewers import best_time

HEADS, SIZE, LENGTHS, REPEATS = 8, 64, (256, 1024, 4096, 16384), 30


def compare(name: str, ours, peer, peer_name: str, x: torch.Tensor, exact: torch.Tensor) -> None:
    """Forward, then forward and backward, of two functions that must agree."""
    errors = {f"{who}_error": float((call(x) - exact).abs().max()) for who, call in (("our", ours), ("peer", peer))}
    ours_s, peer_s = side_by_side(lambda: ours(x), lambda: peer(x), repeats=REPEATS)
    report(name, ours_s, peer_name, peer_s, **errors)
    leaf, upstream = x.clone().requires_grad_(), torch.randn_like(x)
    both_ways = (lambda f=f: torch.autograd.grad(f(leaf), leaf, upstream) for f in (ours, peer))
    ours_s, peer_s = side_by_side(*both_ways, repeats=REPEATS)
    report(f"{name}, forward + backward", ours_s, peer_name, peer_s)


def lines() -> None:
    """rope_1d against `rotate_queries_or_keys`."""
    peer = RotaryEmbedding(SIZE, cache_max_seq_len=max(LENGTHS))
    for n in LENGTHS:
        x, p = torch.randn(1, HEADS, n, SIZE), torch.arange(n)
        calls = (lambda x, p=p: rope_1d(x, p)), peer.rotate_queries_or_keys
        compare(f"rotary: rope_1d, {n} tokens", *calls, "rotary-embedding-torch", x, rope_1d(x.double(), p))


def pictures() -> None:
    """rope_2d, both layouts, against the package's axial form."""
    side, name = 64, "rotary-embedding-torch, axial"
    x, p = torch.randn(1, HEADS, side**2, SIZE), grid_positions(side, side)
    peer = RotaryEmbedding(SIZE // 2, custom_freqs=rope_frequencies(SIZE // 2, base=100.0).float(), cache_if_possible=False)

    def theirs(x):
        return apply_rotary_emb(peer.get_axial_freqs(side, side).flatten(0, 1), x)

    exact = rope_2d(x.double(), p, layout="interleaved")
    compare(f"rotary: rope_2d interleaved, {side}x{side} patches", lambda x: rope_2d(x, p, layout="interleaved"), theirs,
            name, x, exact)
    order = torch.arange(SIZE).view(2, -1, 2).transpose(1, 2).flatten()  # the same turn, the features sorted into halves
    halves = x[..., order]
    assert torch.allclose(rope_2d(halves, p), exact[..., order].float(), atol=1e-5)
    ours_s, peer_s = side_by_side(lambda: rope_2d(halves, p), lambda: theirs(x), repeats=REPEATS)
    report(f"rotary: rope_2d, {side}x{side} patches", ours_s, name, peer_s)


def share_of_attention() -> None:
    """Turning queries and keys against the attention that follows; the bar is a tenth."""
    n = 4096
    q, k, v = torch.randn(3, 1, HEADS, n, SIZE).unbind(0)
    p = torch.arange(n)
    attention = best_time(lambda: F.scaled_dot_product_attention(q, k, v), repeats=3)
    for layout in ("interleaved", "half"):
        both = best_time(lambda w=layout: (rope_1d(q, p, layout=w), rope_1d(k, p, layout=w)), REPEATS)
        name = f"rotary: q and k turned, {layout}, {n} tokens"
        report(name, both, "attention without positions", attention, share=both / attention)


if __name__ == "__main__":
    lines()
    pictures()
    share_of_attention()
