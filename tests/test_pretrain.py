"""The embedded teacher's training, every stage at a few steps, and what it shares."""

import json

import numpy as np
import pytest
import torch
from diffusers import WanImageToVideoPipeline, WanPipeline
from safetensors.torch import load_file

from pdmd.sprites import autoencoder, diffusion, pretrain, pretrain_i2v, training, world


def test_orthogonalise_keeps_directions_and_levels_lengths():
    g = torch.randn(24, 40, generator=torch.Generator().manual_seed(0))
    u, _, vt = torch.linalg.svd(g, full_matrices=False)
    lengths = torch.diag(u.T @ training.orthogonalise(g) @ vt.T)
    assert float(lengths.min()) > 0.6
    assert float(lengths.max()) < 1.3
    turned = training.orthogonalise(g.T.contiguous())
    assert float((turned - training.orthogonalise(g).T).abs().max()) < 1e-5  # roundings, which differ by processor


def test_muon_steps_as_torch_does():
    ours = torch.nn.Parameter(torch.randn(40, 20, generator=torch.Generator().manual_seed(0)))
    theirs = torch.nn.Parameter(ours.detach().clone())
    pair = training.Muon([ours], 0.02), torch.optim.Muon([theirs], lr=0.02, weight_decay=0.0)
    for seed in range(3):
        for p, optimizer in zip((ours, theirs), pair, strict=True):
            p.grad = torch.randn(40, 20, generator=torch.Generator().manual_seed(seed))
            optimizer.step()
    assert float((ours - theirs).detach().abs().max()) < 2e-3  # torch iterates in bfloat16


def test_each_process_orthogonalises_a_share_and_all_have_all(monkeypatch):
    matrices = [torch.randn(6, 4, generator=torch.Generator().manual_seed(seed)) for seed in range(5)]
    alone = training.orthogonalise_together(matrices)
    shares: list[torch.Tensor] = []
    monkeypatch.setattr(training.parallel, "size", lambda: 2)
    monkeypatch.setattr(training.parallel, "mean", lambda flat: shares.append(flat) or flat)
    for rank in range(2):
        monkeypatch.setattr(training.parallel, "rank", lambda rank=rank: rank)
        training.orthogonalise_together(matrices)
    assert not (shares[0] * shares[1]).any()
    monkeypatch.setattr(training.parallel, "mean", lambda flat: sum(shares) / 2)
    for whole, expected in zip(training.orthogonalise_together(matrices), alone, strict=True):
        assert torch.equal(whole, expected)


def test_optimizers_move_the_kernels_themselves():
    conv = torch.nn.Conv3d(3, 8, 3)
    before = conv.weight.detach().clone()
    optimizers = training.Optimizers([conv.weight], [conv.bias])
    optimizers.step(conv(torch.ones(1, 3, 4, 4, 4)).pow(2).mean(), 1.0)
    assert not torch.equal(conv.weight, before)


def test_noise_levels_are_logit_normal_every_second_one_shifted_and_stratified():
    t = diffusion.stratified_t(4096, torch.Generator().manual_seed(0))
    logit = torch.logit(t)
    logit[::2] -= np.log(diffusion.SHIFT)  # a shift of time adds its logarithm
    assert abs(float(logit.mean())) < 0.01
    assert abs(float(logit.std()) - 1) < 0.01
    edges = torch.special.ndtr(logit) * 4096
    assert float((edges - torch.arange(4096) - 0.5).abs().max()) < 0.55


def test_learning_rate_rises_stays_and_falls_to_zero():
    rates = np.array([diffusion.learning_rate(step, pretrain.STEPS) for step in range(pretrain.STEPS + 1)])
    assert rates[0] < 0.01
    assert rates.max() == 1.0
    assert rates[-1] == 0.0
    assert (np.diff(rates[: diffusion.WARM_UP]) > 0).all()
    assert (np.diff(rates[-int(0.2 * pretrain.STEPS) :]) < 0).all()


def test_a_stage_goes_on_where_it_was(tmp_path):
    net = torch.nn.Linear(2, 2)
    training.save(tmp_path / "net.pt", 7, net=net)
    other = torch.nn.Linear(2, 2)
    assert training.resume(tmp_path / "net.pt", net=other) == 7
    assert torch.equal(net.weight, other.weight)
    assert training.resume(tmp_path / "none.pt", net=other) == 0


@pytest.fixture
def brief(monkeypatch):
    """Every stage at two steps, on few scenes."""
    for module, name, value in (
        (autoencoder, "VAE_STEPS", 2),
        (autoencoder, "VAE_SCHEDULE", ((0, 1, 32, 2), (1, 5, 64, 1))),
        (autoencoder, "POOL", 4),
        (autoencoder, "HELD_OUT", 2),
        (pretrain, "LATENTS", 8),
        (pretrain, "CHUNK", 4),
        (pretrain, "STEPS", 2),
        (pretrain, "IMAGES_FIRST", 1),
        (pretrain, "CLIP_BATCH", 2),
        (pretrain, "IMAGE_BATCH", 2),
        (pretrain, "PREVIEW_CLIPS", 2),
        (pretrain, "PREVIEW_STEPS", 2),
    ):
        assert hasattr(module, name)
        monkeypatch.setattr(module, name, value)


def test_every_stage_runs_and_the_result_is_a_stock_pipeline(brief, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["pretrain", "--work", str(tmp_path), "--device", "cpu"])
    pretrain.main()
    pipeline = WanPipeline.from_pretrained(tmp_path / "pipeline")
    for part, file in (
        ("transformer", "diffusion_pytorch_model"),
        ("vae", "diffusion_pytorch_model"),
        ("text_encoder", "model"),
    ):
        tensors = load_file(tmp_path / "pipeline" / part / f"{file}.safetensors")
        assert {p.dtype for p in tensors.values()} == {torch.float16}
    assert json.loads((tmp_path / "pipeline" / "pdmd.json").read_text())["frames"] == world.FRAMES
    assert "license: apache-2.0" in (tmp_path / "pipeline" / "README.md").read_text()
    assert len(pipeline.vae.config.latents_std) == 12
    assert min(pipeline.vae.config.latents_std) > 0
    for name in ("vae.jsonl", "transformer.jsonl", "curves.png", "transformer-00002.png"):
        assert (tmp_path / name).stat().st_size > 0
    written = (tmp_path / "transformer.pt").stat().st_mtime_ns
    pretrain.main()  # every stage is done: nothing is trained again
    assert (tmp_path / "transformer.pt").stat().st_mtime_ns == written


def test_an_earlier_pipeline_goes_on_with_its_own_autoencoder(brief, tmp_path, monkeypatch):
    first, second = tmp_path / "first", tmp_path / "second"
    monkeypatch.setattr("sys.argv", ["pretrain", "--work", str(first), "--device", "cpu"])
    pretrain.main()
    monkeypatch.setattr(pretrain, "STEPS", 0)
    monkeypatch.setattr(pretrain, "draw_curves", lambda *_: None)  # there is nothing to draw
    arguments = ["pretrain", "--work", str(second), "--device", "cpu", "--from", str(first / "pipeline")]
    monkeypatch.setattr("sys.argv", arguments)
    pretrain.main()
    assert not (second / "vae.pt").exists()
    for part in ("transformer", "vae"):  # no step was taken: the weights and the normalisation are the earlier ones
        name = f"{part}/diffusion_pytorch_model.safetensors"
        before, after = load_file(first / "pipeline" / name), load_file(second / "pipeline" / name)
        assert before.keys() == after.keys()
        assert all(torch.equal(before[key], after[key]) for key in before)
    configs = [json.loads((folder / "pipeline/vae/config.json").read_text()) for folder in (first, second)]
    assert configs[0]["latents_std"] == configs[1]["latents_std"]


def test_the_sister_starts_as_the_teacher_and_becomes_a_stock_pipeline(brief, tmp_path, monkeypatch):
    first, second = tmp_path / "first", tmp_path / "second"
    monkeypatch.setattr("sys.argv", ["pretrain", "--work", str(first), "--device", "cpu"])
    pretrain.main()
    teacher = WanPipeline.from_pretrained(first / "pipeline", torch_dtype=torch.float32)
    net = pretrain_i2v.sister(teacher.transformer, 16)
    x, t, cond = torch.randn(1, 28, 3, 8, 8), torch.tensor([500.0]), torch.randn(1, 16, 64)
    assert torch.equal(net(x, t, cond)[0], teacher.transformer(x[:, :12], t, cond)[0])
    monkeypatch.setattr(pretrain_i2v, "STEPS", 2)
    monkeypatch.setattr(pretrain_i2v, "PREVIEW_CLIPS", 2)
    arguments = ["pretrain_i2v", "--work", str(second), "--teacher", str(first / "pipeline"), "--device", "cpu"]
    monkeypatch.setattr("sys.argv", arguments)
    pretrain_i2v.main()
    pipeline = WanImageToVideoPipeline.from_pretrained(second / "pipeline")
    assert pipeline.transformer.config.in_channels == 28
    assert (second / "i2v-00002.png").stat().st_size > 0
