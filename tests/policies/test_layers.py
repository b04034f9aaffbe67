from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from ncogym.errors import ArgumentError
from ncogym.policies.layers import TransformerLayer, attention, make_norm

SHAPE = (3, 5, 8)


def moved(norm: nn.Module) -> nn.Module:
    """Give a normalisation a scale and a shift other than 1 and 0."""
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(0.5, 2, 8))
        if getattr(norm, "bias", None) is not None:
            norm.bias.copy_(torch.linspace(-1, 1, 8))
    return norm


@pytest.mark.parametrize(("kind", "axes"), [("instance", (1,)), ("batch", (0, 1)), ("layer", (2,))])
def test_norms_take_their_statistics_over_their_axes(rng, kind, axes):
    """Instance norm averages over nodes, batch norm over batch and nodes, layer norm over channels."""
    x = torch.randn(SHAPE, generator=rng) * 3 + 1
    mean = x.mean(axes, keepdim=True)
    spread = (x - mean).square().mean(axes, keepdim=True)
    expected = (x - mean) / torch.sqrt(spread + 1e-5) * torch.linspace(0.5, 2, 8) + torch.linspace(-1, 1, 8)
    torch.testing.assert_close(moved(make_norm(kind, 8))(x), expected, rtol=1e-4, atol=1e-5)


def test_rms_norm_divides_by_the_root_mean_square(rng):
    """RMS norm only rescales each node's vector, and then each channel."""
    x = torch.randn(SHAPE, generator=rng)
    expected = x / x.square().mean(-1, keepdim=True).sqrt() * torch.linspace(0.5, 2, 8)
    torch.testing.assert_close(moved(make_norm("rms", 8))(x), expected)


def test_no_norm_changes_nothing(rng):
    """Norm "none" is the identity."""
    x = torch.randn(SHAPE, generator=rng)
    assert torch.equal(make_norm("none", 8)(x), x)


def test_batch_norm_uses_running_statistics_in_evaluation(rng):
    """In evaluation mode a row's output no longer depends on its batch, and in training it does."""
    norm, x = make_norm("batch", 8), torch.randn(SHAPE, generator=rng) * 3 + 1
    assert not torch.allclose(norm(x)[:1], norm(x[:1]))
    norm.eval()
    torch.testing.assert_close(norm(x)[:1], norm(x[:1]))


@pytest.mark.parametrize("kind", ["instance", "rms", "none"])
def test_norms_keep_half_precision(rng, kind):
    """A norm with float32 weights returns bfloat16 for bfloat16, and nearly the same numbers."""
    x, norm = torch.randn(SHAPE, generator=rng), make_norm(kind, 8)
    assert norm(x.bfloat16()).dtype == torch.bfloat16
    torch.testing.assert_close(norm(x.bfloat16()).float(), norm(x), rtol=0.02, atol=0.02)


def test_an_unknown_norm_is_refused():
    """A norm that does not exist is refused with its name and those that do."""
    with pytest.raises(ArgumentError, match=r"norm: 'group' is not allowed; it must be one of instance, batch, layer"):
        make_norm("group", 8)


@torch.no_grad()
def plain_attention(q, k, v, mask):
    """Attention from its definition, query by query."""
    out = torch.zeros(*q.shape[:-1], v.shape[-1])
    for b in range(q.shape[0]):
        for h in range(q.shape[1]):
            for i in range(q.shape[2]):
                seen = [j for j in range(k.shape[2]) if mask is None or mask[b, 0, i, j]]
                weights = [math.exp(float(q[b, h, i] @ k[b, h, j]) / math.sqrt(q.shape[-1])) for j in seen]
                out[b, h, i] = sum(w * v[b, h, j] for w, j in zip(weights, seen, strict=True)) / sum(weights)
    return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("masked", [False, True])
def test_attention_is_its_definition(rng, dtype, masked):
    """Every path of `attention` is the softmax of scaled products over the keys that the mask leaves."""
    q, k, v = (torch.randn(2, 2, length, 4, generator=rng) for length in (3, 5, 5))
    mask = torch.rand(2, 1, 3, 5, generator=rng) < 0.6 if masked else None
    if mask is not None:
        mask[..., 0] = True
    found = attention(q.to(dtype), k.to(dtype), v.to(dtype), mask)
    assert found.dtype == dtype
    tolerance = 1e-5 if dtype == torch.float32 else 0.05
    torch.testing.assert_close(found.float(), plain_attention(q, k, v, mask), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("pre_norm", [False, True])
def test_a_transformer_layer_is_its_formula(rng, pre_norm):
    """The layer is attention and feed-forward, each with a residual, normalised after or before as asked."""
    layer = TransformerLayer(8, 2, 16, "layer", pre_norm)
    x = torch.randn(SHAPE, generator=rng)

    def attend(h):
        q, k, v = (h @ part.T for part in layer.project.weight.split(8))
        heads = [plain_attention(*(t[:, None, :, cut] for t in (q, k, v)), None) for cut in (slice(0, 4), slice(4, 8))]
        return torch.cat(heads, dim=-1)[:, 0] @ layer.combine.weight.T + layer.combine.bias

    def feed(h):
        inner = (h @ layer.expand.weight.T + layer.expand.bias).clamp_min(0)
        return inner @ layer.contract.weight.T + layer.contract.bias

    first, second = layer.norms
    if pre_norm:
        middle = x + attend(first(x))
        expected = middle + feed(second(middle))
    else:
        middle = first(x + attend(x))
        expected = second(middle + feed(middle))
    torch.testing.assert_close(layer(x).detach(), expected.detach(), rtol=1e-4, atol=1e-5)
