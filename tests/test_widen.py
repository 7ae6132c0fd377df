"""A wider transformer goes on from a narrower one."""

import pytest
import torch
from diffusers import WanTransformer3DModel

from pdmd.sprites.pretrain import TRANSFORMER_CONFIG
from pdmd.sprites.widen import widen

NARROW = TRANSFORMER_CONFIG | {"num_attention_heads": 2, "ffn_dim": 128, "num_layers": 2}


@pytest.fixture
def narrow():
    torch.manual_seed(0)
    return WanTransformer3DModel(**NARROW)


def outputs(net):
    generator = torch.Generator().manual_seed(1)
    x, cond = torch.randn(4, 12, 3, 8, 8, generator=generator), torch.randn(4, 16, 64, generator=generator)
    return net(x, torch.tensor([50.0, 300.0, 600.0, 950.0]), cond, return_dict=False)[0]


def test_a_wider_network_computes_nearly_what_the_narrow_one_does_and_all_of_it_learns(narrow):
    wide = widen(narrow, num_attention_heads=3, ffn_dim=200)
    with torch.no_grad():
        expected = outputs(narrow)
        torch.manual_seed(2)
        stranger = outputs(WanTransformer3DModel(**NARROW | {"num_attention_heads": 3, "ffn_dim": 200}))
    velocity = outputs(wide)
    off, other = ((v.detach() - expected).pow(2).mean() for v in (velocity, stranger))
    assert float(off) < 0.05 * float(other)
    velocity.pow(2).mean().backward()
    assert [name for name, p in wide.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_no_wider_is_the_same(narrow):
    same = widen(narrow, num_attention_heads=2, ffn_dim=128).state_dict()
    assert all(torch.equal(weight, same[name]) for name, weight in narrow.state_dict().items())


def test_narrower_is_refused(narrow):
    with pytest.raises(ValueError, match="would shrink"):
        widen(narrow, num_attention_heads=1, ffn_dim=128)
