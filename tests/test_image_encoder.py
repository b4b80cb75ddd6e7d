"""The dual-output encoder: sizes, equivalence with the library's own forward pass, folders and weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from transformers import ConvNextConfig, ConvNextForImageClassification, ResNetModel, SwinConfig, SwinModel

from umair.config import load_config
from umair.errors import ConfigError, StorageError
from umair.job import Config
from umair.model.image_encoder import (
    ImageEncoder,
    ImageEncoderConfig,
    build_image_encoder,
    load_image_encoder,
    save_image_encoder,
    to_pixels,
)
from umair.model.painting_style import StylePool, style_vector
from umair.model.texture import TEXTURE_WIDTH, texture
from umair.storage import read_facts, write_folder

torch.set_num_threads(1)
ROOT = Path(__file__).parent.parent
TINY = ImageEncoderConfig(picture_size=32, block="basic", stem_width=4, widths=(8, 12), depths=(3, 1), style_blocks=2)


def tiny(seed: int = 0, **changes: object) -> ImageEncoder:
    torch.manual_seed(seed)
    return build_image_encoder(TINY.model_copy(update=changes)).eval()


def pixels(count: int = 3, size: int = 32) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(5))


def test_the_defaults_are_resnet_101() -> None:
    with torch.device("meta"):
        encoder = ImageEncoder(ImageEncoderConfig())
    assert sum(weight.numel() for weight in encoder.parameters()) == 42_500_160
    assert (encoder.semantic_width, encoder.style_width, encoder.picture_size) == (2048, 256, 512)


def test_semantic_is_the_librarys_pooled_output_and_style_comes_from_the_first_blocks() -> None:
    encoder, pixels_BCHW, seen = tiny(), pixels(), []
    for block in encoder.maps.network.encoder.stages[0].layers:
        block.activation.register_forward_hook(lambda module, given, output: seen.append(output))
    with torch.inference_mode():
        pooled = encoder.maps.network(pixels_BCHW).pooler_output.flatten(1)
        expected = style_vector(seen[:2])
        vectors = encoder(pixels_BCHW)
    torch.testing.assert_close(vectors.semantic_BS, pooled)
    torch.testing.assert_close(vectors.style_BY, expected)
    assert (vectors.semantic_BS.shape, vectors.style_BY.shape) == ((3, 12), (3, 8))
    assert vectors.semantic_BS.dtype == vectors.style_BY.dtype == torch.float32
    for others in (seen[:1], seen[1:2], seen):  # each of the two blocks matters, and the third is left out
        assert not torch.allclose(expected, style_vector(others))


def test_style_blocks_choose_the_layers() -> None:
    one, two = tiny(style_blocks=1), tiny(style_blocks=2)
    with torch.inference_mode():
        more, less = two(pixels()).style_BY, one(pixels()).style_BY
    assert (more >= less).all()  # a maximum over more layers
    assert (more > less).any()


def test_semantic_alone_is_the_same_vector() -> None:
    encoder = tiny()
    with torch.inference_mode():
        torch.testing.assert_close(encoder.deep(pixels()), encoder(pixels()).semantic_BS)


def test_style_log_is_log_of_one_plus_style() -> None:
    with torch.inference_mode():
        torch.testing.assert_close(tiny(style_log=True)(pixels()).style_BY, tiny()(pixels()).style_BY.log1p())


def test_fine_texture_stands_beside_the_pooled_maps_and_is_of_the_pixels_themselves() -> None:
    plain, fine = (tiny(style_texture=on, pixel_mean=(0.5, 0.5, 0.5)) for on in (False, True))
    assert fine.style_width == plain.style_width + TEXTURE_WIDTH
    with torch.inference_mode():
        expected_BY = torch.cat([plain(pixels()).style_BY, texture(pixels())], 1)
        torch.testing.assert_close(fine(pixels()).style_BY, expected_BY, rtol=0, atol=0)
        torch.testing.assert_close(fine.deep_and_style(pixels())[1], expected_BY, rtol=0, atol=0)
        torch.testing.assert_close(fine(pixels()).semantic_BS, plain(pixels()).semantic_BS, rtol=0, atol=0)
        with torch.autocast("cpu", torch.bfloat16):  # as embed_images.precision has it
            rounded_BY = fine(pixels()).style_BY
    torch.testing.assert_close(rounded_BY[:, -TEXTURE_WIDTH:], texture(pixels()), rtol=0, atol=0)
    assert not torch.equal(rounded_BY[:, :-TEXTURE_WIDTH], expected_BY[:, :-TEXTURE_WIDTH])


def test_pixel_mean_and_std_standardise_the_input() -> None:
    shifted = tiny(pixel_mean=(0.5, 0.5, 0.5), pixel_std=(0.25, 0.25, 0.25))
    with torch.inference_mode():
        torch.testing.assert_close(shifted(pixels()).semantic_BS, tiny().deep((pixels() - 0.5) / 0.25))


def test_a_picture_does_not_depend_on_its_batch_in_eval_mode() -> None:
    encoder = tiny()
    with torch.inference_mode():
        torch.testing.assert_close(encoder(pixels(4)[2:3]).style_BY, encoder(pixels(4)).style_BY[2:3])


def test_to_pixels_scales_and_reorders() -> None:
    picture = np.zeros((1, 2, 2, 3), dtype=np.uint8)
    picture[0, 0, 1] = (255, 51, 0)
    pixels_BCHW = to_pixels(picture)
    assert pixels_BCHW.shape == (1, 3, 2, 2)
    torch.testing.assert_close(pixels_BCHW[0, :, 0, 1], torch.tensor([1.0, 0.2, 0.0]))


# ---------------------------------------------------------------- folders
def test_a_saved_encoder_comes_back_and_says_who_it_is(tmp_path: Path) -> None:
    encoder = tiny()
    facts = write_folder(tmp_path / "encoder", lambda folder: save_image_encoder(encoder, folder))
    loaded = load_image_encoder(tmp_path / "encoder")
    assert not loaded.training
    with torch.inference_mode():
        for before, after in zip(encoder(pixels()), loaded(pixels()), strict=True):
            torch.testing.assert_close(before, after, rtol=0, atol=0)
    assert facts == read_facts(tmp_path / "encoder")
    assert facts.keys() == {"fingerprint", "semantic_width", "style_width"}


def test_the_fingerprint_stands_for_weights_and_configuration_alone(tmp_path: Path) -> None:
    def fingerprint(encoder: ImageEncoder) -> str:
        return str(save_image_encoder(encoder, tmp_path)["fingerprint"])

    assert fingerprint(tiny()) == fingerprint(tiny())
    assert fingerprint(tiny(seed=1)) != fingerprint(tiny())
    assert fingerprint(tiny(style_log=True)) != fingerprint(tiny())
    assert fingerprint(tiny(style_texture=True)) != fingerprint(tiny())
    original = fingerprint(tiny())
    weights = str(tmp_path / "weights.safetensors")
    again = build_image_encoder(TINY.model_copy(update={"weights": weights}))  # where they came from does not matter
    assert fingerprint(again) == original


def test_a_damaged_folder_is_a_clear_error(tmp_path: Path) -> None:
    save_image_encoder(tiny(), tmp_path)
    whole = (tmp_path / "weights.safetensors").read_bytes()
    (tmp_path / "weights.safetensors").write_bytes(whole[:-50])
    with pytest.raises(StorageError, match=r"no whole image encoder .* run jobs/pretrain_image_encoder.py again"):
        load_image_encoder(tmp_path)
    (tmp_path / "weights.safetensors").write_bytes(whole)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "widths": [8, 16]}))
    with pytest.raises(StorageError, match="no whole image encoder"):
        load_image_encoder(tmp_path)
    with pytest.raises(StorageError, match="no whole image encoder"):
        load_image_encoder(tmp_path / "nowhere")


# ---------------------------------------------------------------- weights and configuration
def test_weights_from_a_hugging_face_folder(tmp_path: Path) -> None:
    torch.manual_seed(9)
    ResNetModel(tiny().maps.network.config).save_pretrained(tmp_path)
    encoder = tiny(weights=str(tmp_path))
    reference = ResNetModel.from_pretrained(tmp_path).eval()
    with torch.inference_mode():
        torch.testing.assert_close(encoder.deep(pixels()), reference(pixels()).pooler_output.flatten(1))


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    ResNetModel(tiny().maps.network.config).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"image_encoder.weights: found .*cannot be used"):
        tiny(weights=str(tmp_path), widths=(8, 16))
    with pytest.raises(ConfigError, match="weights are missing"):
        tiny(weights=str(tmp_path), depths=(4, 1))


@pytest.mark.parametrize("weights", ["nowhere.safetensors", "no/such/folder/anywhere"])
def test_weights_that_are_not_there_are_a_clear_error(weights: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ConfigError, match=f"'{weights}', which cannot be used"):
        tiny(weights=weights)


@pytest.mark.parametrize(("changes", "message"), [
    ({"depths": (3,)}, "need the same"), ({"style_blocks": 4}, "more than the 3 blocks of stage 1"),
    ({"widths": (8, 0, 4, 2)}, "at least 1"), ({"picture_size": 8}, "greater than or equal to 16")])
def test_a_network_that_cannot_be_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ImageEncoderConfig(**changes)


# ---------------------------------------------------------------- other networks and forms of style
AUTHORS = {"widths": (256, 512, 1024, 1024, 2048, 4096), "depths": (3, 8, 20, 20, 3, 3), "semantic_stage": 4, "semantic_block": 13,
           "before_relu": True}


def test_the_authors_network_has_their_sizes() -> None:
    config = load_config(ROOT / "conf/authors.yaml", [], Config).image_encoder
    assert config == ImageEncoderConfig(**AUTHORS)
    with torch.device("meta"):
        encoder = ImageEncoder(config)
        maps = encoder.maps(torch.rand(1, 3, 512, 512), to_last=True)
    assert (encoder.semantic_width, encoder.style_width, encoder.deep_width) == (1024, 256, 4096)
    assert [tuple(each.shape[1:]) for each in maps.style] == [(256, 128, 128)] * 3  # at 512 pixels
    assert (tuple(maps.semantic.shape[1:]), tuple(maps.last.shape[1:])) == ((1024, 16, 16), (4096, 4, 4))


def test_semantic_block_and_before_relu_by_the_blocks_own_outputs() -> None:
    config = {"widths": (8, 12, 16), "depths": (2, 3, 1), "semantic_stage": 2, "semantic_block": 2, "before_relu": True}
    encoder, sums = tiny(**config), []
    for stage in encoder.maps.network.encoder.stages:
        for block in stage.layers:
            block.activation.register_forward_hook(lambda module, given, output: sums.append(given[0].clone()))
    with torch.inference_mode():
        vectors = encoder(pixels())
        assert len(sums) == 4  # it stops there; the pretext alone runs to the end
        torch.testing.assert_close(vectors.semantic_BS, sums[3].mean((2, 3)))
        torch.testing.assert_close(vectors.style_BY, style_vector(sums[:2]))
        assert (vectors.semantic_BS < 0).any()  # no ReLU
        assert encoder.deep(pixels()).shape == (3, 16)
        assert (encoder.deep(pixels()) >= 0).all()


@pytest.mark.parametrize(("backbone", "widths"), [
    ({"model_type": "convnext", "hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "num_stages": 4}, (32, 8)),
    ({"model_type": "swin", "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "image_size": 32, "patch_size": 2,
      "window_size": 4}, (16, 8)),
    ({"model_type": "dinov2", "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 32,
      "patch_size": 8}, (16, 16))])
def test_any_backbone_with_feature_maps_serves(tmp_path: Path, backbone: dict, widths: tuple[int, int]) -> None:
    encoder = tiny(backbone=backbone)
    with torch.inference_mode():
        vectors, deep = encoder(pixels()), encoder.deep(pixels())
        maps = encoder.maps.network(pixels()).feature_maps
    assert (vectors.semantic_BS.shape[1], vectors.style_BY.shape[1]) == widths == (encoder.semantic_width, encoder.style_width)
    torch.testing.assert_close(vectors.semantic_BS, maps[-1].mean((2, 3)))
    torch.testing.assert_close(vectors.style_BY, style_vector([maps[0]]))
    torch.testing.assert_close(deep, vectors.semantic_BS)
    write_folder(tmp_path / "mine", lambda folder: save_image_encoder(encoder, folder))
    with torch.inference_mode():
        torch.testing.assert_close(load_image_encoder(tmp_path / "mine")(pixels()).style_BY, vectors.style_BY, rtol=0, atol=0)
    encoder.maps.network.save_pretrained(tmp_path / "theirs")  # as a Hugging Face folder
    again = tiny(seed=1, backbone={},
                 weights=str(tmp_path / "theirs"))
    write_folder(tmp_path / "again", lambda folder: save_image_encoder(again, folder))
    with torch.inference_mode():
        torch.testing.assert_close(again(pixels()).semantic_BS, vectors.semantic_BS)
        torch.testing.assert_close(load_image_encoder(tmp_path / "again")(pixels()).semantic_BS, vectors.semantic_BS)


@pytest.mark.parametrize(("kind", "shape"), [
    (ConvNextForImageClassification, ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2)),
    (SwinModel, SwinConfig(embed_dim=8, depths=[1, 1], num_heads=[1, 2], image_size=32, patch_size=2, window_size=4))])
def test_published_checkpoints_have_no_norms_over_their_maps_and_serve(tmp_path: Path, kind: type, shape: object) -> None:
    torch.manual_seed(0)
    published = kind(shape)
    published.save_pretrained(tmp_path / "theirs")
    encoder = tiny(backbone={}, weights=str(tmp_path / "theirs"))
    with torch.inference_mode():
        inner = getattr(published.eval(), "convnext", published)
        stages = inner(pixels(), output_hidden_states=True).hidden_states[1:]
        last_BCHW = stages[-1] if stages[-1].ndim == 4 else stages[-1].transpose(1, 2)[..., None]
        normal_BCHW = (last_BCHW - last_BCHW.mean(1, keepdim=True)) / (last_BCHW.var(1, keepdim=True, correction=0) + 1e-5).sqrt()
        torch.testing.assert_close(encoder(pixels()).semantic_BS, normal_BCHW.mean((2, 3)), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("changes", "message"), [
    ({"backbone": {"model_type": "bert"}}, "model type 'bert', which has no feature maps"),
    ({"backbone": {"hidden_sizes": [8]}}, "without model_type and without weights"),
    ({"backbone": {"model_type": "convnext", "hidden_sizes": [8], "depths": [1], "num_stages": 1}, "style_stages": 2},
     "stage 2 of a backbone with 1"),
    ({"style_stages": 2}, r"style gram_max over layers of \[8, 8, 12\] channels")])
def test_a_network_that_cannot_be_built_is_a_clear_error(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny(**changes)


@pytest.mark.parametrize("changes", [{"before_relu": True}, {"semantic_block": 1}])
def test_a_backbone_refuses_what_only_the_residual_network_knows(changes: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match="before_relu and semantic_block are of the residual network"):
        ImageEncoderConfig(backbone={"model_type": "convnext"}, **changes)


def test_the_same_weights_and_pixels_give_the_vectors_that_are_written_here() -> None:
    """Vectors of stored encoders must not change under them. If this fails for a good reason, raise PREPROCESSING in
    umair/model/image_encoder.py, which is part of every encoder's fingerprint, and write the new numbers down."""
    encoder = tiny()
    with torch.no_grad():
        for place, weight in enumerate(encoder.parameters()):
            weight.copy_(torch.linspace(-1, 1, weight.numel()).view_as(weight).mul(3 + place % 5).sin() * 0.3)
    square_HW = torch.arange(32.0)[:, None] * torch.arange(32.0) / 31 ** 2
    vectors = encoder(torch.stack([square_HW, square_HW.flip(0), 1 - square_HW])[None])
    semantic_S = [0.0, 0.0, 325.301, 580.0215, 395.9299, 58.4604, 59.4194, 397.8638, 581.2968, 325.3973, 0.0, 0.0]
    style_Y = [0.0, 126.1582, 499.3142, 153.9777, 181.0933, 528.5872, 120.3570, 0.0]
    torch.testing.assert_close(vectors.semantic_BS[0], torch.tensor(semantic_S), rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(vectors.style_BY[0], torch.tensor(style_Y), rtol=1e-4, atol=1e-3)
    maps_BCHW = torch.arange(24.0).view(1, 3, 2, 4).sin()
    assert_style("gram_sketch", maps_BCHW, [1.771184, 0.080052])
    assert_style("moments", maps_BCHW, [0.362323, -0.641392])


def assert_style(form: str, maps_BCHW: torch.Tensor, style_Y: list[float]) -> None:
    """The matrices that new encoders draw; a saved encoder has its own beside its weights."""
    torch.testing.assert_close(StylePool(form, [3], 2)([maps_BCHW])[0], torch.tensor(style_Y), rtol=1e-4, atol=1e-4)


def test_weights_serve_an_encoder_with_another_form_of_style(tmp_path: Path) -> None:
    sketched, plain = tiny(style="gram_sketch"), tiny(seed=1)
    with torch.no_grad():
        sketched.style.turn_0.mul_(2)  # as if another release of torch had drawn them
    write_folder(tmp_path / "sketched", lambda folder: save_image_encoder(sketched, folder))
    write_folder(tmp_path / "plain", lambda folder: save_image_encoder(plain, folder))
    with torch.inference_mode():
        for form, folder, vectors in (("gram_sketch", "sketched", sketched(pixels())), ("gram_max", "plain", plain(pixels()))):
            again = tiny(seed=2, style=form, weights=str(tmp_path / folder / "weights.safetensors"))
            torch.testing.assert_close(again(pixels()).style_BY, vectors.style_BY, rtol=0, atol=0)
        crossed = tiny(seed=2, style="gram_sketch", weights=str(tmp_path / "plain" / "weights.safetensors"))
        torch.testing.assert_close(crossed(pixels()).semantic_BS, plain(pixels()).semantic_BS, rtol=0, atol=0)
        torch.testing.assert_close(crossed.style.turn_0, tiny(style="gram_sketch").style.turn_0, rtol=0, atol=0)


def test_an_encoder_that_was_saved_without_its_matrices_is_the_same(tmp_path: Path) -> None:
    encoder = tiny(style="gram_sketch")
    write_folder(tmp_path / "old", lambda folder: save_image_encoder(encoder, folder))
    file = tmp_path / "old" / "weights.safetensors"
    save_file({name: value for name, value in load_file(file).items() if not name.startswith("style.turn_")}, file)
    with torch.inference_mode():
        torch.testing.assert_close(load_image_encoder(tmp_path / "old")(pixels()).style_BY, encoder(pixels()).style_BY, rtol=0, atol=0)


def test_a_fingerprint_stands_for_the_matrices_of_the_style_too(tmp_path: Path) -> None:
    first = tiny(style="gram_sketch")
    marks = [write_folder(tmp_path / "first", lambda folder: save_image_encoder(first, folder))["fingerprint"]]
    with torch.no_grad():
        first.style.turn_0[0, 0, 0] += 1
    marks.append(write_folder(tmp_path / "second", lambda folder: save_image_encoder(first, folder))["fingerprint"])
    assert marks[0] != marks[1]


@pytest.mark.parametrize("changes", [
    {"style": "gram_sketch"}, {"style": "gram_sketch", "style_stages": 2, "style_width": 11}, {"style": "moments"},
    {"style": "moments", "style_stages": 2, "style_log": True}])
def test_other_forms_of_style_have_the_width_that_is_asked_for_and_come_back(tmp_path: Path, changes: dict) -> None:
    encoder = tiny(**changes)
    write_folder(tmp_path / "encoder", lambda folder: save_image_encoder(encoder, folder))
    with torch.inference_mode():
        style_BY = encoder(pixels()).style_BY
        assert style_BY.shape == (3, changes.get("style_width", 8))
        torch.testing.assert_close(load_image_encoder(tmp_path / "encoder")(pixels()).style_BY, style_BY, rtol=0, atol=0)
