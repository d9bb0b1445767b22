"""PNG files with a palette of 256 colours: a third of the size, and for pictures of a page no visible loss."""

from __future__ import annotations

import base64
import struct
import zlib

import numpy as np
from numpy.typing import NDArray
from playwright.async_api import Browser

COLORS = 256
DECODE = """async (given) => {
  const picture = await createImageBitmap(await (await fetch(`data:image/png;base64,${given}`)).blob());
  const canvas = new OffscreenCanvas(picture.width, picture.height);
  const context = canvas.getContext("2d");
  context.drawImage(picture, 0, 0);
  const bytes = context.getImageData(0, 0, picture.width, picture.height).data;
  let text = "";
  for (let i = 0; i < bytes.length; i += 32768) text += String.fromCharCode(...bytes.subarray(i, i + 32768));
  return [picture.width, picture.height, btoa(text)];
}"""


async def reduced(chromium: Browser, png: bytes) -> bytes:
    """The same picture with a palette; the browser decodes it."""
    page = await chromium.new_page()
    width, height, text = await page.evaluate(DECODE, base64.b64encode(png).decode())
    await page.close()
    pixels = np.frombuffer(base64.b64decode(text), np.uint8).reshape(height * width, 4)[:, :3]
    palette, indices = _quantized(pixels)
    rows = np.zeros((height, width + 1), np.uint8)
    rows[:, 1:] = indices.reshape(height, width)
    header = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    packed = zlib.compress(rows.tobytes(), 9)
    chunks = (
        (b"IHDR", header),
        (b"PLTE", palette.tobytes()),
        (b"IDAT", packed),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, body) for kind, body in chunks)


def _quantized(pixels: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A palette (n, 3) of the most frequent colours, and the nearest of them for each pixel."""
    colors, inverse, counts = np.unique(pixels, axis=0, return_inverse=True, return_counts=True)
    coarse = (colors >> 4).astype(np.int32) @ np.array([256, 16, 1])
    chosen: list[int] = []
    seen: dict[int, int] = {}
    for i in np.argsort(-counts, kind="stable").tolist():  # at most three of colours that are almost the same
        if seen.setdefault(int(coarse[i]), 0) < 3:
            seen[int(coarse[i])] += 1
            chosen.append(i)
        if len(chosen) == COLORS:
            break
    palette = colors[chosen]
    nearest = np.empty(len(colors), np.uint8)
    for start in range(0, len(colors), 1_000):
        part = colors[start : start + 1_000].astype(np.int32)[:, None] - palette.astype(np.int32)
        nearest[start : start + 1_000] = (part**2).sum(axis=2).argmin(axis=1)
    return palette, nearest[inverse.reshape(-1)]


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
