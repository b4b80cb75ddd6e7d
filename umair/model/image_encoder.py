"""The image encoder of UMAIR-FPS: one residual network with two outputs, content (semantic) and painting style.

B pictures, S width of the last stage (semantic), Y width of the first stage (style), C channels, H x W positions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from umair.config import Section, fingerprint
from umair.errors import ConfigError, StorageError
from umair.model.feature_maps import BackboneMaps, FeatureMaps, ResidualMaps, load_whole, resnet_config
from umair.model.painting_style import StyleForm, StylePool
from umair.model.texture import TEXTURE_WIDTH, texture

PREPROCESSING = "rgb-bilinear-1"  # part of the fingerprint; raise the number when our code would make other pixels or
#                                    vectors of the same file and weights: a test holds vectors against it
WEIGHTS_FILE, CONFIG_FILE = "weights.safetensors", "config.json"
STYLE_MATRICES = "style.turn_"  # weights that are drawn and not learnt, each form of the style vector its own
OF_THE_CHECKPOINT = ("transformers_version", "architectures", "dtype", "torch_dtype", "_name_or_path")  # not of its network


class ImageEncoderConfig(Section):
    """A residual network; the defaults are the paper's ResNet-101, conf/authors.yaml has the authors' six stages."""

    picture_size: int = Field(512, ge=16)  # pixels, width and height of the input
    block: Literal["bottleneck", "basic"] = "bottleneck"  # of convolutions: three, as in ResNet-50 and above, or two
    stem_width: int = Field(64, gt=0)  # channels after the 7x7/2 convolution and the 3x3/2 pooling
    widths: tuple[int, ...] = (256, 512, 1024, 2048)  # channels of each stage; the last is the semantic width
    depths: tuple[int, ...] = (3, 4, 23, 3)  # blocks of each stage
    backbone: dict[str, Any] | None = None  # instead: a transformers backbone, by model_type and what its config takes
    semantic_stage: int = Field(0, ge=0)  # whose map's mean is the semantic vector, from 1; 0: the last
    semantic_block: int = Field(0, ge=0)  # of that stage, from 1; 0: the last
    before_relu: bool = False  # take the maps before the block's ReLU, as the authors' code does
    style: StyleForm = "gram_max"  # how the maps become a vector; the paper's is gram_max
    style_blocks: int = Field(3, gt=0)  # first blocks of stage 1 whose maps make the style vector; a backbone's: all
    style_stages: int = Field(1, gt=0)  # stages whose last block joins them, from the first on
    style_width: int | None = Field(None, gt=0)  # None: the channels of stage 1, as in the paper
    style_log: bool = False  # sign * log(1 + |style|), which tames its long tail; the paper has none
    style_texture: bool = False  # fine texture, straight from the pixels, beside them; the paper has none
    pixel_mean: tuple[float, float, float] = (0.0, 0.0, 0.0)  # subtracted from [0, 1] RGB; the authors subtract nothing
    pixel_std: tuple[float, float, float] = (1.0, 1.0, 1.0)  # divided by; ImageNet weights want 0.229, 0.224, 0.225
    weights: str | None = None  # start from a .safetensors file, a Hugging Face folder or a hub name; None: random

    @model_validator(mode="after")
    def _stages_agree(self) -> ImageEncoderConfig:
        if not self.widths or len(self.widths) != len(self.depths):
            raise ValueError(f"widths name {len(self.widths)} stages and depths {len(self.depths)}: need the same")
        if min(self.widths + self.depths) < 1:
            raise ValueError("widths and depths must be at least 1")
        if self.backbone is not None:
            if self.before_relu or self.semantic_block:
                raise ValueError("before_relu and semantic_block are of the residual network; a backbone gives whole "
                                 "stages: leave them out")
            return self
        if self.style_blocks > self.depths[0]:
            raise ValueError(f"style_blocks {self.style_blocks} is more than the {self.depths[0]} blocks of stage 1")
        if max(self.semantic_stage, self.style_stages) > len(self.depths):
            raise ValueError(f"stage {max(self.semantic_stage, self.style_stages)} of {len(self.depths)}")
        if self.semantic_block > self.depths[self.semantic_stage - 1]:
            raise ValueError(f"block {self.semantic_block} of a stage of {self.depths[self.semantic_stage - 1]}")
        return self


class ImageVectors(NamedTuple):
    """What the encoder says of a batch of pictures, float32."""

    semantic_BS: Tensor
    style_BY: Tensor


class ImageEncoder(nn.Module):
    """Pictures to semantic and style vectors (UMAIR-FPS, eq. 3 and 4).

    semantic is the mean over positions of a deep map, style the pooled Gram matrices of shallow ones
    (`umair.model.painting_style`). Departure from the paper by default: none. The authors' code has another network of six
    stages, whose semantic vector comes from the middle of stage 4 and whose maps are taken before the ReLU.
    """

    def __init__(self, config: ImageEncoderConfig, maps: ResidualMaps | BackboneMaps | None = None) -> None:
        super().__init__()
        self.config = config
        self.maps = maps or (BackboneMaps(config) if config.backbone is not None else ResidualMaps(config))
        self.style = StylePool(config.style, self.maps.style_channels, config.style_width, log=config.style_log)
        self.semantic_width = self.maps.semantic_width
        self.style_width = self.style.width + config.style_texture * TEXTURE_WIDTH
        self.deep_width = self.maps.last_width  # of `deep`
        self.picture_size = config.picture_size
        self.pixel_mean: Tensor  # [3, 1, 1]
        self.pixel_std: Tensor  # [3, 1, 1]
        self.register_buffer("pixel_mean", torch.tensor(config.pixel_mean)[:, None, None], persistent=False)
        self.register_buffer("pixel_std", torch.tensor(config.pixel_std)[:, None, None], persistent=False)

    def forward(self, pixels_BCHW: Tensor) -> ImageVectors:
        """Both vectors of float32 RGB pictures in [0, 1], [B, 3, picture_size, picture_size]."""
        maps = self._run(pixels_BCHW, to_last=False)
        return ImageVectors(_mean(maps.semantic), self._style(pixels_BCHW, maps))

    def deep(self, pixels_BCHW: Tensor) -> Tensor:
        """The mean of the deepest map, [B, deep_width], by which the pretext trains every layer.

        It is the semantic vector, unless that is taken from an earlier block (authors' code).
        """
        return _mean(self._run(pixels_BCHW, to_last=True).last)

    def deep_and_style(self, pixels_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """`deep` and the style vector from one pass."""
        maps = self._run(pixels_BCHW, to_last=True)
        return _mean(maps.last), self._style(pixels_BCHW, maps)

    def _style(self, pixels_BCHW: Tensor, maps: FeatureMaps) -> Tensor:
        style_BY = self.style.joined(maps.style)
        return torch.cat([style_BY, texture(pixels_BCHW)], 1) if self.config.style_texture else style_BY

    def _run(self, pixels_BCHW: Tensor, *, to_last: bool) -> FeatureMaps:
        maps: FeatureMaps = self.maps(self.scaled(pixels_BCHW), self.style.pooled, to_last=to_last)
        return maps

    def scaled(self, pixels_BCHW: Tensor) -> Tensor:
        """Pixels less the configuration's mean, over its deviation."""
        return (pixels_BCHW - self.pixel_mean) / self.pixel_std


def _mean(maps_BCHW: Tensor) -> Tensor:
    return maps_BCHW.float().mean(dim=(2, 3))


def to_pixels(pictures_BHWC: NDArray[np.uint8], device: torch.device | str = "cpu") -> Tensor:
    """uint8 pictures [B, H, W, 3] as the encoder wants them: float32 [B, 3, H, W] in [0, 1], on `device`.

    One byte a number goes there and is made four there. In memory the channels stay last: convolutions on a CPU are about
    1.5 times as fast that way.
    """
    return torch.from_numpy(pictures_BHWC).to(device).permute(0, 3, 1, 2).float() / 255.0


def build_image_encoder(config: ImageEncoderConfig) -> ImageEncoder:
    """A new encoder, with the weights that `config.weights` names or random ones.

    Raises ConfigError: weights that are not there, or of another shape than the configuration.
    """
    try:
        if config.weights is None:
            return ImageEncoder(config)
        if not config.weights.endswith(".safetensors"):
            return _pretrained(config)
        encoder = ImageEncoder(config)
        take_weights(encoder, load_file(config.weights))
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        if config.weights is None:
            raise ConfigError("image_encoder", f"a network that cannot be built ({_short(error)})",
                              "sizes that belong together", "correct backbone, style or stages") from error
        raise ConfigError("image_encoder.weights", f"'{config.weights}', which cannot be used ({_short(error)})",
                          "a weights.safetensors that umair saved, a Hugging Face folder or a hub name, with these widths "
                          "and depths", "correct the name, or the widths, depths and block beside it; of a Hugging Face "
                          "checkpoint name the folder, not its file") from error
    return encoder


def take_weights(encoder: ImageEncoder, state: Mapping[str, Tensor]) -> None:
    """Gives `encoder` the weights of another's state_dict. Where that one makes its style vector in another form, the
    encoder keeps its own matrices for it. Raises RuntimeError for another network."""
    own = {name: value for name, value in encoder.state_dict().items() if name.startswith(STYLE_MATRICES)}
    theirs = {name: value for name, value in state.items() if name.startswith(STYLE_MATRICES)}
    same = {name: value.shape for name, value in own.items()} == {name: value.shape for name, value in theirs.items()}
    learnt = {name: value for name, value in state.items() if not name.startswith(STYLE_MATRICES)}
    encoder.load_state_dict({**learnt, **(theirs if same else own)})


def save_image_encoder(encoder: ImageEncoder, folder: Path) -> dict[str, Any]:
    """Writes weights.safetensors and config.json into an existing folder; returns what facts.json must hold.

    Facts: `fingerprint` (stands for weights, network and preprocessing), `semantic_width`, `style_width`.
    """
    config = _without_weights(encoder)
    save_file({name: value.contiguous() for name, value in encoder.state_dict().items()}, folder / WEIGHTS_FILE)
    (folder / CONFIG_FILE).write_text(config.model_dump_json(indent=1), encoding="utf-8")
    weights = hashlib.sha256((folder / WEIGHTS_FILE).read_bytes()).hexdigest()
    return {"fingerprint": fingerprint([weights, config.model_dump(mode="json"), PREPROCESSING]),
            "semantic_width": encoder.semantic_width, "style_width": encoder.style_width}


def load_image_encoder(folder: Path | str) -> ImageEncoder:
    """The encoder that `save_image_encoder` wrote, in eval mode, on the CPU. Raises StorageError for a damaged folder."""
    folder = Path(folder)
    try:
        config = ImageEncoderConfig.model_validate_json((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        encoder = ImageEncoder(config)
        take_weights(encoder, load_file(folder / WEIGHTS_FILE))  # those of before had no style matrices beside them
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:  # pydantic's errors are ValueErrors
        raise StorageError(str(folder), f"no whole image encoder ({_short(error)})",
                           f"{CONFIG_FILE} and {WEIGHTS_FILE}", "run jobs/pretrain_image_encoder.py again") from error
    return encoder.eval()


def _without_weights(encoder: ImageEncoder) -> ImageEncoderConfig:
    """The configuration of an encoder whose weights lie beside it: a backbone's shape, which may have come from the
    checkpoint that it started from, is written out."""
    changes: dict[str, Any] = {"weights": None}
    if encoder.config.backbone is not None and encoder.config.weights is not None:
        shape = encoder.maps.network.config
        said = {name: value for name, value in shape.to_diff_dict().items() if name not in OF_THE_CHECKPOINT}
        changes["backbone"] = {**said, "model_type": shape.model_type}
    return encoder.config.model_copy(update=changes)


def _pretrained(config: ImageEncoderConfig) -> ImageEncoder:
    from transformers import ResNetModel

    if config.backbone is not None:
        return ImageEncoder(config, BackboneMaps(config, pretrained=True))
    maps = ResidualMaps(config)
    maps.network = load_whole(ResNetModel, config.weights, resnet_config(config))
    return ImageEncoder(config, maps)


def _short(error: Exception) -> str:
    """The first two lines: torch names in the second what does not fit."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2])[:400] or type(error).__name__
