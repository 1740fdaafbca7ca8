"""fsspec's HTTP, for servers that answer HEAD with a length of 0. fsspec loads it for ``http://`` and ``https://``."""

from __future__ import annotations

from typing import Any

from fsspec.implementations.http import HTTPFileSystem, _file_info


class SizedHTTPFileSystem(HTTPFileSystem):
    """Asks by GET, without reading on, where HEAD says that there are no bytes."""

    async def _info(self, url: str, **kwargs: Any) -> dict[str, Any]:
        info = await super()._info(url, **kwargs)
        if info["size"] != 0:
            return info
        session = await self.set_session()
        try:
            found = await _file_info(self.encode_url(url), session, "get", **self.kwargs, **kwargs)
        except Exception as err:
            raise FileNotFoundError(url) from err  # as fsspec has it; what was the matter is the cause
        return {**info, "size": None, **found}
