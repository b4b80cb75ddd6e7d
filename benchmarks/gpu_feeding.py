"""Pictures a second through ResNet-101 with style where one process decodes, and where several share the GPU, as embedding's
tasks do: benchmarks/results/gpu_feeding.json.

    python benchmarks/gpu_feeding.py [--device cuda] [--sizes 224 512] [--processes 1 2 4 8] [--batch 64] [--seconds 4]

Needs torch, transformers and Pillow alone. bfloat16, channels last, not compiled; the cores are shared out among the processes
as threads that decode JPEGs a batch ahead. Bare: one process, pictures lying on the device. All processes of a case work at
the same time: they wait for each other before and are counted for the same seconds.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shlex
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from clock import WARM_UP
from device_arguments import device_parser, parsed
from gpu_encoders import ROOT, Encoder, decoded, in_memory
from speed_page import write_speed_page
from torch import Tensor

from umair.evidence import provenance

RESULTS = ROOT / "benchmarks/results/gpu_feeding.json"
PATIENCE = 120  # seconds until all processes of a case must be ready: one that died lets no other wait for ever


def main() -> None:
    given = _arguments()
    result: dict[str, Any] = {
        **provenance(shlex.join(["python", "benchmarks/gpu_feeding.py", *sys.argv[1:]])),
        "device": torch.cuda.get_device_name() if given.device.startswith("cuda") else "CPU", "torch": torch.__version__,
        "batch": given.batch, "cases": []}
    given.out.parent.mkdir(exist_ok=True)
    for size in given.sizes:
        bare = _together(1, size, given, decoding=False)
        for processes in (0, *given.processes):  # 0: bare
            found = _together(processes, size, given, decoding=True) if processes else bare
            line = {"size": size, "processes": processes or 1, "decoding": processes > 0,
                    "threads": _threads(processes) if processes else 0,
                    "pictures_per_second": round(found, 1), "over_bare": round(found / bare, 3)}
            print(json.dumps(line), file=sys.stderr, flush=True)
            result["cases"].append(line)
            given.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if given.out == RESULTS:
        write_speed_page()
    print(json.dumps({"result": str(given.out), "device": result["device"], "over_bare": {
        size: max(line["over_bare"] for line in result["cases"] if line["size"] == size and line["decoding"])
        for size in given.sizes}}))


def _threads(processes: int) -> int:
    return max(1, (os.cpu_count() or 1) // processes)


def _together(processes: int, size: int, given: argparse.Namespace, *, decoding: bool) -> float:
    """Pictures a second of all processes together."""
    context = multiprocessing.get_context("spawn")
    ready, counts = context.Barrier(processes, timeout=PATIENCE), context.Queue()
    workers = [context.Process(target=_work, args=(ready, counts, size, given.batch, given.seconds, given.device,
                                                   _threads(processes) if decoding else 0), daemon=True) for _ in range(processes)]
    for worker in workers:
        worker.start()
    rates = [counts.get(timeout=2 * PATIENCE) for _ in workers]
    for worker in workers:
        worker.join()
    return float(sum(rates))


def _work(ready: Any, counts: Any, size: int, batch: int, seconds: float, device_name: str, threads: int) -> None:
    """Puts this process' pictures a second; `threads` decode, or none where the pictures lie on the device."""
    torch.manual_seed(0)
    device = torch.device(device_name)
    if device.type == "cuda":
        torch.set_num_threads(max(1, threads))  # what else the process does on the CPU keeps to its own cores too
    encoder = Encoder(style=True).eval().to(device).to(memory_format=torch.channels_last)
    with ThreadPoolExecutor(threads or 1) as pool, torch.inference_mode(), torch.autocast(device.type, torch.bfloat16):
        batches: Iterator[Tensor] = (decoded(size, batch, pool, ahead=True) if threads
                                     else in_memory(size, batch, device, channels_last=True))

        def step() -> None:
            encoder(next(batches).to(device, non_blocking=True))
            if device.type == "cuda":
                torch.cuda.synchronize()  # as a worker does that takes the vectors

        for _ in range(WARM_UP):
            step()
        ready.wait()
        started, done = time.perf_counter(), 0
        while time.perf_counter() - started < seconds:
            step()
            done += batch
        counts.put(done / (time.perf_counter() - started))


def _arguments() -> argparse.Namespace:
    parser = device_parser(__doc__, RESULTS, 4.0)
    parser.add_argument("--sizes", type=int, nargs="+", default=[224, 512])
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--batch", type=int, default=64)
    return parsed(parser, RESULTS)


if __name__ == "__main__":
    main()
