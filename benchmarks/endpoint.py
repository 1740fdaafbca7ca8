"""Requests/s of captioning by an endpoint beside a bare asyncio loop with the same pictures and concurrency.

    python benchmarks/endpoint.py

The endpoint is a scripted server with a fixed latency, in a process of its own. The sides run in turn, each in a
process of its own: ``job`` is ``process_shard`` with the real processor and a local store, from files to commits;
``httpx`` and ``aiohttp`` read the files, encode and send them as they are, and keep the texts in memory. Peak memory
of the job is measured with a quarter of the images, too.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[1]
PROMPT = "Describe the picture."
SIDES = ("job", "httpx", "aiohttp")
SHARD = 1024
SIZE = (640, 480)


def main() -> None:
    """Print one JSON object."""
    options = _parser().parse_args()
    if options.side:
        print(json.dumps(globals()[f"_{options.side}"](options)))
        return
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch, _served(options.latency) as url:
        folder = Path(scratch, "images")
        _draw(folder, options.images)
        runs: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
        for side in (*SIDES, *reversed(SIDES)):
            runs[side].append(_run(options, side, url, folder, options.images))
        quarter = _run(options, "job", url, folder, options.images // 4)
    seconds = {side: sum(run["seconds"] for run in runs[side]) for side in SIDES}
    figures = {
        "images": options.images,
        "concurrency": options.concurrency,
        "latency": options.latency,
        **{side: [round(options.images / run["seconds"], 1) for run in runs[side]] for side in SIDES},
        "ratio_to_httpx": round(seconds["httpx"] / seconds["job"], 3),
        "ratio_to_aiohttp": round(seconds["aiohttp"] / seconds["job"], 3),
        "peak_mb": [round(run["peak"] / 1e6) for run in (quarter, runs["job"][0])],
    }
    print(json.dumps(figures, indent=1))


def _run(options: argparse.Namespace, side: str, url: str, folder: Path, images: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=folder.parent) as store:
        command = [sys.executable, __file__, "--side", side, "--url", url, "--folder", str(folder)]
        command += ["--images", str(images), "--concurrency", str(options.concurrency), "--store", store]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout)


@contextmanager
def _served(latency: float) -> Iterator[str]:
    command = [sys.executable, "-m", "tests.builders.web.endpoint", "--latency", str(latency)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
        finally:
            process.kill()


def _draw(folder: Path, images: int) -> None:
    """JPEGs of about 35 kB, equal but for a comment, since pictures with the same bytes are asked about once."""
    folder.mkdir()
    coarse = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(coarse).resize(SIZE, Image.Resampling.BICUBIC).save(stream, "JPEG", quality=90)
    data = stream.getvalue()
    for number in range(images):
        comment = f"{number:08d}".encode()
        marker = b"\xff\xfe" + (2 + len(comment)).to_bytes(2, "big") + comment
        (folder / f"{number:06d}.jpg").write_bytes(data[:2] + marker + data[2:])


def _names(options: argparse.Namespace) -> list[str]:
    return [f"{number:06d}.jpg" for number in range(options.images)]


def _job(options: argparse.Namespace) -> dict[str, Any]:
    from captionbeam.capmodel.specs import EndpointSpec
    from captionbeam.pipelines.bulk.run import start_run
    from captionbeam.pipelines.endpoints.plan import Endpoint, EndpointPlan
    from captionbeam.pipelines.sources.images import fetch
    from captionbeam.pipelines.workers.engine import load_engine
    from captionbeam.pipelines.workers.shards import process_shard
    from captionbeam.schemas.machine import peak_rss
    from captionbeam.schemas.records import ImageRef

    spec = EndpointSpec(endpoint="scripted", prompts={"captions": {"text": PROMPT}})
    plan = EndpointPlan(spec, Endpoint(url=options.url, concurrency=options.concurrency))
    run = start_run(f"{options.store}/store", "captions", plan.spec, plan.fingerprint, plan.field)
    names = _names(options)
    refs = [ImageRef(name, f"{options.folder}/{name}", options.folder, "v") for name in names]
    engine = load_engine(plan.job(""), run=run)
    began = time.perf_counter()
    rows = 0
    for start in range(0, len(refs), SHARD):
        report, _ = process_shard(f"s{start}", refs[start : start + SHARD], engine, run, fetch)
        rows += report.rows
    seconds = time.perf_counter() - began
    assert rows == len(refs), f"{rows} rows of {len(refs)} images"
    return {"seconds": seconds, "peak": peak_rss()}


def _httpx(options: argparse.Namespace) -> dict[str, Any]:
    import httpx

    async def run() -> float:
        limits = httpx.Limits(
            max_connections=options.concurrency, max_keepalive_connections=options.concurrency
        )
        async with httpx.AsyncClient(limits=limits, timeout=60) as client:

            async def post(request: dict[str, Any]) -> Any:
                return (await client.post(f"{options.url}/chat/completions", json=request)).json()

            return await _loop(options, post)

    return {"seconds": asyncio.run(run())}


def _aiohttp(options: argparse.Namespace) -> dict[str, Any]:
    import aiohttp

    async def run() -> float:
        connector = aiohttp.TCPConnector(limit=options.concurrency)
        async with aiohttp.ClientSession(connector=connector) as session:

            async def post(request: dict[str, Any]) -> Any:
                async with session.post(f"{options.url}/chat/completions", json=request) as response:
                    return await response.json()

            return await _loop(options, post)

    return {"seconds": asyncio.run(run())}


async def _loop(options: argparse.Namespace, post: Callable[[dict[str, Any]], Awaitable[Any]]) -> float:
    turns = asyncio.Semaphore(options.concurrency)

    async def ask(name: str) -> str:
        async with turns:
            picture = base64.b64encode(Path(options.folder, name).read_bytes()).decode()
            image = {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{picture}"}}
            content = [{"type": "text", "text": PROMPT}, image]
            answer = await post({"model": "scripted", "messages": [{"role": "user", "content": content}]})
            return answer["choices"][0]["message"]["content"]

    began = time.perf_counter()
    texts = await asyncio.gather(*map(ask, _names(options)))
    seconds = time.perf_counter() - began
    assert len(texts) == options.images
    return seconds


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=1024, help="how many (default 1024)")
    parser.add_argument("--concurrency", type=int, default=32, help="requests in flight (default 32)")
    parser.add_argument("--latency", type=float, default=0.5, help="seconds of the server (default 0.5)")
    parser.add_argument("--scratch", default=tempfile.gettempdir(), help="folder for images and stores")
    for name in ("side", "url", "folder", "store"):
        parser.add_argument(f"--{name}", default="", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    main()
