"""RAFT: weight formats, padding, equality with torchvision's own forward. DIS: the truth on renders."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.models.optical_flow import raft_large

from pdmd.benchmark import calibrate_dis
from pdmd.benchmark.features import flow
from pdmd.benchmark.features import raft as raft_module
from pdmd.benchmark.features.dis import Dis
from pdmd.benchmark.features.raft import Raft, from_raft_names, padding


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    """A randomly initialised RAFT-large: the weights say nothing, the arithmetic is the real one."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = raft_large(weights=None)
        for module in net.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
    return net.state_dict()


@pytest.fixture(scope="module")
def weights(state, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("raft") / "raft.pth"
    torch.save(state, path)
    return path


def raft_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The inverse of from_raft_names, written from the module names of princeton-vl/RAFT, core/*.py."""
    gru = {f"recurrent_block.convgru{i}.conv{g}": f"gru.conv{g}{i}" for i in (1, 2) for g in "zrq"}
    update = gru | {
        "motion_encoder.convcorr1.0": "encoder.convc1",
        "motion_encoder.convcorr2.0": "encoder.convc2",
        "motion_encoder.convflow1.0": "encoder.convf1",
        "motion_encoder.convflow2.0": "encoder.convf2",
        "motion_encoder.conv.0": "encoder.conv",
        "flow_head.conv1": "flow_head.conv1",
        "flow_head.conv2": "flow_head.conv2",
    }
    whole = {f"update_block.{a}": f"update_block.{b}" for a, b in update.items()}
    whole |= {"mask_predictor.convrelu.0": "update_block.mask.0", "mask_predictor.conv": "update_block.mask.2"}
    for ours, theirs in (("feature_encoder", "fnet"), ("context_encoder", "cnet")):
        whole |= {f"{ours}.convnormrelu.0": f"{theirs}.conv1", f"{ours}.convnormrelu.1": f"{theirs}.norm1"}
        whole[f"{ours}.conv"] = f"{theirs}.conv2"
        for block in (f"layer{i}.{j}" for i in (1, 2, 3) for j in (0, 1)):
            for k in (1, 2):
                whole[f"{ours}.{block}.convnormrelu{k}.0"] = f"{theirs}.{block}.conv{k}"
                whole[f"{ours}.{block}.convnormrelu{k}.1"] = f"{theirs}.{block}.norm{k}"
            whole |= {f"{ours}.{block}.downsample.{k}": f"{theirs}.{block}.downsample.{k}" for k in (0, 1)}
    renamed = {}
    for name, tensor in state.items():
        module, leaf = name.rsplit(".", 1)
        renamed[f"module.{whole[module]}.{leaf}"] = tensor
        if "downsample.1" in whole[module]:  # RAFT registers the shortcut's norm twice
            renamed[f"module.{whole[module].replace('downsample.1', 'norm3')}.{leaf}"] = tensor
    return renamed


def test_raft_names_there_and_back_are_bit_equal(state) -> None:
    back = from_raft_names(raft_names(state))
    assert set(back) == set(state)
    assert all(torch.equal(back[name], state[name]) for name in state)


def test_both_weight_formats_give_the_same_network(state, weights, tmp_path, parity) -> None:
    old = {k: v for k, v in raft_names(state).items() if not k.endswith("num_batches_tracked")}
    torch.save(old, tmp_path / "raft-things.pth")
    a, b = Raft(weights).net.state_dict(), Raft(tmp_path / "raft-things.pth").net.state_dict()
    names = [name for name in state if not name.endswith("num_batches_tracked")]
    assert all(torch.equal(a[name], b[name]) for name in names)
    flat = [torch.cat([net[name].flatten() for name in names]) for net in (a, b)]
    parity("RAFT's weights: VBench's file, torchvision's", *flat, 0)


def test_raft_equals_torchvisions_own_forward(state, weights, parity) -> None:
    video = np.random.default_rng(0).integers(0, 256, (3, 132, 130, 3), dtype=np.uint8)
    pairs = list(Raft(weights, iterations=2).pairs(video))
    left, right, top, bottom = padding(132, 130)
    assert (left, right, top, bottom) == (3, 3, 2, 2)
    x = torch.from_numpy(np.pad(video, ((0, 0), (top, bottom), (left, right), (0, 0)), mode="edge"))
    x = x.permute(0, 3, 1, 2) / 127.5 - 1
    net = raft_large(weights=None)
    net.load_state_dict(state)
    with torch.no_grad():
        expected = net.eval()(x[:-1], x[1:], num_flow_updates=2)[-1].permute(0, 2, 3, 1).numpy()
    scale = abs(expected).max()
    assert scale > 0
    padded = [pair.padded for pair in pairs]
    parity("RAFT's flow, of its largest value: torchvision's own forward", padded, expected, 1e-5, scale)
    for pair in pairs:
        np.testing.assert_array_equal(pair.flow, pair.padded[2:134, 3:133])


def test_raft_on_small_frames_is_raft_on_upscaled_ones(weights) -> None:
    video = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    raft = Raft(weights, iterations=1)
    small = next(iter(raft.pairs(video)))
    large = next(iter(raft.pairs(np.stack([flow.upscale(frame, 2) for frame in video]))))
    np.testing.assert_array_equal(small.flow * 2, large.flow)
    assert "upscaled x2" in raft.label(64, 64)
    assert "upscaled" not in raft.label(128, 256)
    assert not raft.comparable()
    assert "C_T_V1" not in raft.label(64, 64)


def test_pairs_of_both_strides_share_their_frames(weights, monkeypatch) -> None:
    video = np.random.default_rng(0).integers(0, 256, (7, 128, 128, 3), dtype=np.uint8)
    raft = Raft(weights, iterations=1)
    separate = {1: list(raft.pairs(video)), 3: list(raft.pairs(video[::3]))}
    passes: dict[str, list[int]] = {"feature_encoder": [], "context_encoder": [], "mask_predictor": []}
    for name, sizes in passes.items():
        getattr(raft.net, name).register_forward_hook(lambda *call, sizes=sizes: sizes.append(len(call[2])))
    together = list(raft.pairs(video, 3))
    assert passes == {"feature_encoder": [7], "context_encoder": [6], "mask_predictor": [8]}
    assert [pair.stride for pair in together] == [1, 1, 3, 1, 1, 1, 3, 1]
    for sizes in passes.values():
        sizes.clear()
    monkeypatch.setattr(raft_module, "BATCH_BYTES", 1)  # a pair at a time
    singly, held = [], []
    for pair in (pairs := raft.pairs(video, 3)):
        singly.append(pair)
        held.append(len(pairs.gi_frame.f_locals["features"]))
    assert [sum(sizes) for sizes in passes.values()] == [7, 6, 8]
    assert max(held) == 3  # the last frame, the last kept one and the new one, however long the video
    for which in together, singly:
        for stride, expected in separate.items():
            found = [pair for pair in which if pair.stride == stride]
            for a, b in zip(found, expected, strict=True):
                np.testing.assert_allclose(a.padded, b.padded, atol=1e-5 * abs(b.padded).max())


def test_pair_indices_are_each_frame_and_the_next_and_the_kept_ones() -> None:
    assert flow.pair_indices(1, 4) == []
    assert flow.pair_indices(3) == [(0, 1), (1, 2)]
    assert flow.pair_indices(4, 2) == [(0, 1), (0, 2), (1, 2), (2, 3)]
    assert flow.pair_indices(3, 4) == [(0, 1), (1, 2)]
    assert [p for p in flow.pair_indices(10, 4) if p[1] - p[0] == 4] == [(0, 4), (4, 8)]


@pytest.mark.parametrize(
    ("size", "factor"), [((64, 64), 2), ((127, 500), 2), ((128, 128), 1), ((40, 60), 4), ((720, 480), 1)]
)
def test_upscale_factor(size: tuple[int, int], factor: int) -> None:
    assert flow.upscale_factor(*size) == factor


def test_bad_weights_are_one_clear_line(state, weights, refused) -> None:
    says = partial(refused, Raft)
    assert "no file" in says("absent.pth", None)
    assert "does not hold RAFT-large" in says("short.pth", weights.read_bytes()[:100_000])
    assert "does not hold RAFT-large" in says("object.pth", {"a": Path("x")})  # more than tensors: not unpickled
    assert "it has no" in says("lacking.pth", {k: v for k, v in state.items() if "mask" not in k})
    assert "has shape" in says("shape.pth", state | {"mask_predictor.conv.bias": torch.zeros(3)})
    assert "unknown tensor" in says("more.pth", state | {"head.weight": torch.zeros(3)})
    assert "damaged" in says("raft_large_C_T_V1-22a6c225.pth", state)


@pytest.mark.parametrize("kind", ["slowly", "quickly"])
def test_dis_is_within_15_percent_of_the_truth(kind: str) -> None:
    readings = calibrate_dis.read_all(clips=24, seed=5000, kinds=(kind,))
    for which in ("rendered", "coded"):
        assert abs(calibrate_dis.ratio(readings, which) - 1) < calibrate_dis.TOLERANCE, which
    assert sum(r.dynamic[0] == r.dynamic[2] for r in readings) >= 20


def test_dis_alone_would_fail_that(monkeypatch) -> None:
    from pdmd.benchmark.features import dis

    monkeypatch.setattr(dis, "supported", lambda there, back, luma0, luma1: there)
    readings = calibrate_dis.read_all(clips=6, seed=5000, kinds=("quickly",))
    assert calibrate_dis.ratio(readings, "rendered") > 1 + calibrate_dis.TOLERANCE


def test_dis_of_a_still_clip_is_zero_and_of_a_pan_is_the_pan() -> None:
    rng = np.random.default_rng(0)
    image = flow.upscale(rng.integers(0, 256, (20, 20, 3), dtype=np.uint8), 8)
    still = next(iter(Dis().pairs(np.stack([image, image]))))
    assert not still.flow.any()
    pan = next(iter(Dis().pairs(np.stack([image[:128, 3:131], image[:128, :128]]))))  # content moves 3 to the right
    np.testing.assert_allclose(pan.flow.mean((0, 1)), (3, 0), atol=0.1)
