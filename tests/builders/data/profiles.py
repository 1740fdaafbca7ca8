"""ICC colour profiles of RGB spaces, and the sRGB values of their colours by formula."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np

D65, D50 = np.array([0.95046, 1, 1.08906]), np.array([0.9642, 1, 0.8249])
BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
WORD = b"mluc\0\0\0\0" + struct.pack(">II2s2sII", 1, 12, b"en", b"US", 2, 28) + "x".encode("utf-16-be")


@dataclass(frozen=True)
class Space:
    """``primaries``: x, y of red, green and blue. ``gamma``: None for the curve of sRGB. The white is D65."""

    primaries: tuple[tuple[float, float], ...]
    gamma: float | None = None

    @property
    def matrix(self) -> np.ndarray:
        """Linear RGB to XYZ of D50, the white of profiles: ``[3, 3]``."""
        primaries = np.array([[x / y, 1, (1 - x - y) / y] for x, y in self.primaries]).T
        adapt = np.linalg.inv(BRADFORD) @ np.diag(BRADFORD @ D50 / (BRADFORD @ D65)) @ BRADFORD
        return adapt @ (primaries * np.linalg.solve(primaries, D65))

    def linear(self, values: np.ndarray) -> np.ndarray:
        """Values of 0 to 1 as light."""
        if self.gamma is not None:
            return values**self.gamma
        return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)

    def in_srgb(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 ``[..., 3]`` of this space in sRGB (IEC 61966-2-1), unrounded; what sRGB lacks is clipped."""
        light = self.linear(pixels / 255) @ (np.linalg.inv(SRGB.matrix) @ self.matrix).T
        light = light.clip(0, 1)
        return 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)

    def profile(self) -> bytes:
        """An ICC profile of this space, version 4."""
        curve = _curve(self.gamma)
        columns = {
            name + b"XYZ": _xyz(column)
            for name, column in zip((b"r", b"g", b"b"), self.matrix.T, strict=True)
        }
        curves = {name + b"TRC": curve for name in (b"r", b"g", b"b")}
        tags = {b"desc": WORD, b"cprt": WORD, b"wtpt": _xyz(D50), **columns, **curves}
        start, table, body = 132 + 12 * len(tags), b"", b""
        for name, value in tags.items():
            table += name + struct.pack(">II", start + len(body), len(value))
            body += value + b"\0" * (-len(value) % 4)
        size = start + len(body)
        header = struct.pack(">I4xI4s4s4s", size, 0x04300000, b"mntr", b"RGB ", b"XYZ ") + bytes(12) + b"acsp"
        header = header.ljust(68, b"\0") + _fixed(D50)
        return header.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


def _fixed(values: np.ndarray | tuple[float, ...]) -> bytes:
    return b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def _xyz(values: np.ndarray) -> bytes:
    return b"XYZ \0\0\0\0" + _fixed(values)


def _curve(gamma: float | None) -> bytes:
    if gamma is None:
        numbers = _fixed((2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045))
        return b"para\0\0\0\0" + struct.pack(">HH", 3, 0) + numbers
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256))


SRGB = Space(((0.64, 0.33), (0.30, 0.60), (0.15, 0.06)))
DISPLAY_P3 = Space(((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)))
ADOBE_RGB = Space(((0.64, 0.33), (0.21, 0.71), (0.15, 0.06)), 563 / 256)
