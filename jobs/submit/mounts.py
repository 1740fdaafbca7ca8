"""Volumes: a claim's path on workers, and the path of the same files on the launcher."""

from __future__ import annotations

from dataclasses import dataclass

from captionbeam.schemas.errors import RequestError


@dataclass(frozen=True)
class Mount:
    """A volume claim, mounted at ``path`` in each worker; its files are below ``here`` on the launcher."""

    claim: str
    path: str
    here: str

    def on_workers(self, place: str) -> str | None:
        """Returns the launcher's ``place`` as workers name it, or None if it is not on this volume.

        >>> Mount("photos", "/data", "/mnt/nfs").on_workers("/mnt/nfs/features")
        '/data/features'
        """
        if place != self.here and not place.startswith(f"{self.here.rstrip('/')}/"):
            return None
        return self.path.rstrip("/") + place[len(self.here.rstrip("/")) :]


def parse_mount(text: str) -> Mount:
    """Parses ``CLAIM:PATH[:HERE]``. Raises RequestError."""
    claim, *paths = text.split(":")
    if not claim or len(paths) not in (1, 2) or not all(path.startswith("/") for path in paths):
        raise RequestError(
            f"--volume is {text!r}; expected CLAIM:PATH or CLAIM:PATH:HERE, the paths absolute"
        )
    return Mount(claim, paths[0], paths[-1])
