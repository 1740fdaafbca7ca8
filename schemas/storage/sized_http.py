"""fsspec's HTTP filesystem (``http://``, ``https://``) for servers that answer HEAD with a length of 0."""

from __future__ import annotations

from typing import Any

from fsspec.implementations.http import HTTPFileSystem, _file_info


class SizedHTTPFileSystem(HTTPFileSystem):
    """Gets the size from the headers of a GET if HEAD reports 0 bytes."""

    async def _info(self, url: str, **kwargs: Any) -> dict[str, Any]:
        info: dict[str, Any] = await super()._info(url, **kwargs)
        if info["size"] != 0:
            return info
        session = await self.set_session()
        try:
            found = await _file_info(self.encode_url(url), session, "get", **self.kwargs, **kwargs)
        except Exception as err:
            raise FileNotFoundError(url) from err  # as fsspec does; the cause has the details
        return {**info, "size": None, **found}
