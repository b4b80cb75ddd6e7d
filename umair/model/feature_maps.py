"""Feature maps of a picture: a residual network built from sizes, or any backbone that transformers offers.

B pictures, C channels, H x W positions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from umair.model.image_encoder import ImageEncoderConfig


MAP_NORMS = "hidden_states_norms."  # which a backbone lays over its maps: published classifiers have none, and fresh ones
#                                     bring each position's channels to mean 0 and deviation 1 until the pretext trains them
Keep = Callable[[int, Tensor], Tensor]  # number of a shallow map, the map -> what is kept of it


def whole(_: int, maps_BCHW: Tensor) -> Tensor:
    """Keeps a map as it is."""
    return maps_BCHW


class FeatureMaps(NamedTuple):
    """What one pass through a network leaves, each map [B, C, H, W]."""

    style: list[Tensor]  # what was kept of the shallow maps
    semantic: Tensor  # the map whose mean is the semantic vector
    last: Tensor  # the deepest map, on which the pretext predicts tags; `semantic` itself where that is the last


class ResidualMaps(nn.Module):
    """A residual network (transformers' ResNet) by its blocks; pixels_BCHW -> FeatureMaps.

    style: the first `style_blocks` blocks of stage 1, then the last block of each further one of `style_stages`. semantic:
    block `semantic_block` of stage `semantic_stage`. `before_relu` takes both before the block's ReLU (authors' code).
    """

    def __init__(self, config: ImageEncoderConfig) -> None:
        from transformers import ResNetModel  # seconds to import: only who encodes pays

        super().__init__()
        self.config = config
        self.network = ResNetModel(resnet_config(config))
        depths = config.depths
        self.semantic_at = config.semantic_stage or len(depths), config.semantic_block or depths[config.semantic_stage - 1]
        self.style_at = [(1, block + 1) for block in range(config.style_blocks)]
        self.style_at += [(stage, depths[stage - 1]) for stage in range(2, config.style_stages + 1)]
        self.style_channels = [config.widths[stage - 1] for stage, _ in self.style_at]
        self.semantic_width, self.last_width = config.widths[self.semantic_at[0] - 1], config.widths[-1]

    def forward(self, pixels_BCHW: Tensor, keep: Keep = whole, *, to_last: bool) -> FeatureMaps:
        """Stops after the last map that is asked for, unless `to_last`. Of a shallow map stays what `keep` makes of it."""
        style: list[Tensor] = []
        semantic_BCHW = maps_BCHW = self.network.embedder(pixels_BCHW)
        end = max(self.semantic_at, self.style_at[-1])
        for stage, layers in enumerate(self.network.encoder.stages, start=1):
            for block, layer in enumerate(layers.layers, start=1):
                if not to_last and (stage, block) > end:
                    return FeatureMaps(style, semantic_BCHW, maps_BCHW)
                sum_BCHW = layer.layer(maps_BCHW) + layer.shortcut(maps_BCHW)
                maps_BCHW = layer.activation(sum_BCHW)
                taken_BCHW = sum_BCHW if self.config.before_relu else maps_BCHW
                if (stage, block) in self.style_at:
                    style.append(keep(len(style), taken_BCHW))
                if (stage, block) == self.semantic_at:
                    semantic_BCHW = taken_BCHW
        return FeatureMaps(style, semantic_BCHW, maps_BCHW)


class BackboneMaps(nn.Module):
    """Any backbone of transformers with feature maps by stage (ConvNeXt, Swin, DINOv2 ...); pixels_BCHW -> FeatureMaps.

    style: the first `style_stages` stages; semantic: stage `semantic_stage`, counted from 1, by default the last.
    Raises ValueError: a model type without feature maps, a stage that it does not have.
    """

    def __init__(self, config: ImageEncoderConfig, *, pretrained: bool = False) -> None:
        from transformers import AutoBackbone

        super().__init__()
        shape = _backbone_shape(config)
        stages = len(shape.stage_names) - 1  # the first is the stem
        if max(config.semantic_stage, config.style_stages) > stages:
            raise ValueError(f"stage {max(config.semantic_stage, config.style_stages)} of a backbone with {stages}")
        shape.out_features = list(shape.stage_names)[1:]
        if pretrained:  # AutoBackbone.from_pretrained itself would ask the hub, for a folder too
            with torch.device("meta"):
                kind = type(AutoBackbone.from_config(shape))
            self.network = load_whole(kind, config.weights, shape, fresh=MAP_NORMS)
        else:
            self.network = AutoBackbone.from_config(shape)
        channels = list(self.network.channels)
        self.style_stages, self.semantic_stage = config.style_stages, (config.semantic_stage or stages) - 1
        self.style_channels = channels[:config.style_stages]
        self.semantic_width, self.last_width = channels[self.semantic_stage], channels[-1]

    def forward(self, pixels_BCHW: Tensor, keep: Keep = whole, *, to_last: bool) -> FeatureMaps:  # noqa: ARG002  it runs whole
        maps = list(self.network(pixels_BCHW).feature_maps)
        style = [keep(layer, maps_BCHW) for layer, maps_BCHW in enumerate(maps[:self.style_stages])]
        return FeatureMaps(style, maps[self.semantic_stage], maps[-1])


def load_whole(kind: Any, weights: str | None, shape: Any, fresh: str | None = None) -> Any:
    """A transformers model from a folder or the hub; weights whose names begin with `fresh` may be new. Raises ValueError
    where others are missing; transformers would leave them random and only warn."""
    network, loading = kind.from_pretrained(weights, config=shape, use_safetensors=True, output_loading_info=True)
    missing = sorted(name for name in loading["missing_keys"] if fresh is None or not name.startswith(fresh))
    if missing:
        raise ValueError(f"{len(missing)} weights are missing, first {missing[0]}")
    return network


def resnet_config(config: ImageEncoderConfig) -> Any:
    from transformers import ResNetConfig

    return ResNetConfig(layer_type=config.block, embedding_size=config.stem_width, hidden_sizes=list(config.widths),
                        depths=list(config.depths))


def _backbone_shape(config: ImageEncoderConfig) -> Any:
    from transformers import AutoConfig

    assert config.backbone is not None
    given = dict(config.backbone)
    kind = given.pop("model_type", None)
    if kind is None:
        if config.weights is None:
            raise ValueError("a backbone without model_type and without weights that say it")
        shape = AutoConfig.from_pretrained(config.weights, **given)
    else:
        shape = AutoConfig.for_model(kind, **given)
    if not hasattr(shape, "stage_names"):
        raise ValueError(f"model type {kind or shape.model_type!r}, which has no feature maps")
    return shape
