"""What the embedded teacher's training asks of a middle block, and that nothing of it is left in what is shipped."""

import copy

import numpy as np
import pytest
import torch
from diffusers import WanTransformer3DModel

from pdmd.sprites import truth, world
from pdmd.sprites.pretrain import TRANSFORMER_CONFIG


@pytest.fixture(scope="module")
def scenes():
    return [world.sample_scene(np.random.default_rng([1, i])) for i in range(8)]


@pytest.fixture
def transformer():
    torch.manual_seed(0)
    return WanTransformer3DModel(**TRANSFORMER_CONFIG | {"num_layers": 4, "num_attention_heads": 2})


def known(scenes):
    cells = torch.from_numpy(np.stack([truth.covered(scene) for scene in scenes]))
    return truth.Truth(truth.labels([scene.factors for scene in scenes]), cells)


def test_labels_name_the_factors_and_pass_over_what_a_clip_has_not(scenes):
    for scene, row in zip(scenes, truth.labels([scene.factors for scene in scenes]), strict=True):
        for (name, values), label in zip(world.FACTORS.items(), row.tolist(), strict=True):
            assert label == (truth.UNKNOWN if scene.factors[name] is None else values.index(scene.factors[name]))
    image = truth.labels([{name: scene.factors[name] for name in world.IMAGE_FACTORS} for scene in scenes])
    assert (image[:, [list(world.FACTORS).index(name) for name in ("motion", "speed")]] == truth.UNKNOWN).all()


def test_covered_cells_hold_the_area_of_the_objects(scenes):
    for scene in scenes:
        cells = truth.covered(scene)
        assert cells.shape == (1 + (world.FRAMES - 1) // truth.STRIDE, 8, 8)
        objects = 1 + world.FACTORS["count"].index(scene.factors["count"])
        np.testing.assert_allclose(cells.sum((1, 2)) * truth.CELL**2, objects * np.pi * scene.radius**2, rtol=0.03)


def test_the_loss_is_small_where_the_tokens_tell_and_that_of_a_guess_where_they_do_not(scenes, transformer):
    asked = known(scenes)
    heads = truth.Heads(transformer)
    tokens = torch.randn(len(scenes), 48, 64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    optimizer = torch.optim.Adam([tokens, *heads.parameters()], lr=0.05)
    first = None
    for _ in range(150):
        heads.tokens = tokens
        loss = heads.loss(asked)
        first = first or loss.item()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert first > 0.9
    assert loss.item() < 0.1


def test_a_cell_is_asked_of_the_token_that_holds_it(transformer):
    heads = truth.Heads(transformer)
    cells = torch.zeros(1, 1, 8, 8)
    cells[0, 0, 5, 2] = 1  # row 5, column 2: token (2, 1) of 4 x 4, its lower left cell
    with torch.no_grad():
        for head in (*heads.factors, heads.cells):
            head.weight.zero_()
            head.bias.zero_()
        heads.cells.bias.fill_(-20.0)
        heads.cells.weight[2, 0] = 30.0
    heads.norm = torch.nn.Identity()
    losses = []
    for token in range(16):
        heads.tokens = torch.zeros(1, 16, 64)
        heads.tokens[0, token, 0] = 1.0
        losses.append(heads.loss(truth.Truth(torch.full((1, 7), truth.UNKNOWN), cells)).item())
    assert int(np.argmin(losses)) == 2 * 4 + 1
    assert min(losses) < 1e-3


def test_gradient_reaches_the_blocks_up_to_the_one_that_is_read(scenes, transformer):
    before = copy.deepcopy(transformer)
    heads = truth.Heads(transformer)
    x, t, cond = torch.randn(8, 12, 3, 8, 8), torch.full((8,), 500.0), torch.randn(8, 16, 64)
    v = transformer(x, t, cond, return_dict=False)[0]
    assert torch.equal(v, before(x, t, cond, return_dict=False)[0])  # taking changes nothing
    heads.loss(known(scenes)).backward()
    reached = [any(p.grad is not None for p in block.parameters()) for block in transformer.blocks]
    assert reached == [k <= truth.BLOCK for k in range(len(reached))]
    assert transformer.proj_out.weight.grad is None
    assert not any(block._forward_hooks for block in before.blocks)
    assert {name for name, _ in transformer.named_parameters()} == {name for name, _ in before.named_parameters()}
