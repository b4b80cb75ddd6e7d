"""Pictures a second through ResNet-101 with semantic and style vectors: benchmarks/results/gpu_encoders.json.

    python benchmarks/gpu_encoders.py [--device cuda] [--sizes 224 512] [--batch 256] [--seconds 3]

Needs torch, transformers and Pillow alone, so that it runs on any GPU machine from a checkout; umair's own part, the style
vector, is imported from there. Each case is compared with the bare forward pass of the same size within this run.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shlex
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from clock import rate
from device_arguments import device_parser, parsed
from PIL import Image
from torch import Tensor, nn
from transformers import ResNetConfig, ResNetModel

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
from speed_page import write_speed_page  # noqa: E402

from umair.evidence import provenance  # noqa: E402  the checkout's, which need not be installed
from umair.model.painting_style import style_vector  # noqa: E402

RESULTS = ROOT / "benchmarks/results/gpu_encoders.json"
RESNET_101 = {"depths": [3, 4, 23, 3], "hidden_sizes": [256, 512, 1024, 2048], "embedding_size": 64, "layer_type": "bottleneck"}
STYLE_BLOCKS = 3


@dataclass(frozen=True)
class Case:
    """One way to run the encoder. `style`: Gram matrices of the first three blocks, pooled, beside the semantic vector."""

    precision: str = "bfloat16"
    channels_last: bool = True
    compiled: bool = False
    style: bool = True
    decoding: bool = False  # from JPEG in threads
    ahead: bool = True  # the next batch is decoded while the encoder works on this one


BARE = Case(style=False)
CASES = (BARE, Case(), Case(precision="float32"), Case(precision="float32", channels_last=False), Case(channels_last=False),
         Case(compiled=True, style=False), Case(compiled=True), Case(decoding=True), Case(decoding=True, ahead=False), Case(compiled=True, decoding=True))


class Encoder(nn.Module):
    """pixels_BCHW uint8 -> semantic_B2048 and, with style, style_B256 (UMAIR-FPS, equations 3 and 4)."""

    def __init__(self, *, style: bool) -> None:
        super().__init__()
        self.network, self.style = ResNetModel(ResNetConfig(**RESNET_101)), style

    def forward(self, pixels_BCHW: Tensor) -> tuple[Tensor, ...]:
        maps_BCHW = self.network.embedder(pixels_BCHW.float() / 255)
        shallow = []
        for number, stage in enumerate(self.network.encoder.stages):
            for block in stage.layers:
                maps_BCHW = block(maps_BCHW)
                if self.style and number == 0 and len(shallow) < STYLE_BLOCKS:
                    shallow.append(maps_BCHW)
        semantic_BS = maps_BCHW.float().mean((2, 3))
        return (semantic_BS, style_vector(shallow)) if self.style else (semantic_BS,)


def main() -> None:
    given = _arguments()
    torch.manual_seed(0)
    device = torch.device(given.device)
    result: dict[str, Any] = {
        **provenance(shlex.join(["python", "benchmarks/gpu_encoders.py", *sys.argv[1:]])),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "CPU",
        "torch": torch.__version__, "batch": given.batch, "cases": []}
    given.out.parent.mkdir(exist_ok=True)
    for size in given.sizes:
        rates: dict[Case, float] = {}
        for case in (case for case in CASES if not (given.eager and case.compiled)):
            rates[case] = _rate(case, size, given.batch, given.seconds, device)
            line = {"size": size, **asdict(case), "pictures_per_second": round(rates[case], 1),
                    "over_bare": round(rates[case] / rates[BARE], 3)}
            print(json.dumps(line), file=sys.stderr, flush=True)
            result["cases"].append(line)
            given.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if given.out == RESULTS:
        write_speed_page()
    print(json.dumps({"result": str(given.out), "device": result["device"], "fastest": {
        size: max(line["pictures_per_second"] for line in result["cases"] if line["size"] == size) for size in given.sizes}}))


def _rate(case: Case, size: int, batch: int, seconds: float, device: torch.device) -> float:
    """Pictures a second; loading is not timed either."""
    encoder = Encoder(style=case.style).eval().to(device)
    if case.channels_last:
        encoder = encoder.to(memory_format=torch.channels_last)
    run = torch.compile(encoder) if case.compiled else encoder
    with ThreadPoolExecutor(os.cpu_count()) as threads, torch.inference_mode(), \
            torch.autocast(device.type, torch.bfloat16, enabled=case.precision == "bfloat16"):
        batches = decoded(size, batch, threads, ahead=case.ahead) if case.decoding else in_memory(size, batch, device, case.channels_last)

        def step() -> None:
            run(next(batches).to(device, non_blocking=True))

        return rate(step, batch, seconds, device)


def in_memory(size: int, batch: int, device: torch.device, channels_last: bool) -> Iterator[Tensor]:
    pixels_BCHW = torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8, device=device)
    if channels_last:
        pixels_BCHW = pixels_BCHW.contiguous(memory_format=torch.channels_last)
    while True:
        yield pixels_BCHW


def decoded(size: int, batch: int, threads: ThreadPoolExecutor, *, ahead: bool) -> Iterator[Tensor]:
    """Batches of JPEGs a quarter larger than `size`, decoded and resized; `ahead`: while the encoder works on the batch before."""
    stream = io.BytesIO()
    noise = torch.randint(0, 256, (40, 40, 3), dtype=torch.uint8).numpy()
    Image.fromarray(noise).resize((size * 5 // 4,) * 2, Image.Resampling.BICUBIC).save(stream, "JPEG", quality=90)
    file = stream.getvalue()

    def decode(_: int) -> Tensor:
        image = Image.open(io.BytesIO(file)).convert("RGB").resize((size, size), Image.Resampling.BILINEAR)
        return torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(size, size, 3)

    coming = threads.map(decode, range(batch))
    while True:
        ready = list(coming)
        if ahead:
            coming = threads.map(decode, range(batch))
        yield torch.stack(ready).permute(0, 3, 1, 2)
        if not ahead:
            coming = threads.map(decode, range(batch))


def _arguments() -> argparse.Namespace:
    parser = device_parser(__doc__, RESULTS, 3.0)
    parser.add_argument("--sizes", type=int, nargs="+", default=[224, 512])
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--eager", action="store_true", help="without the compiled cases, which take minutes on a CPU")
    return parsed(parser, RESULTS)


if __name__ == "__main__":
    main()
