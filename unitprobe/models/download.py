"""Published weights: fail soon, and in one line, where they cannot be had."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from unitprobe.errors import (
    DownloadError,
    ModelError,
)
from unitprobe.models.network import one_line

_TIMEOUT = 5.0


@contextmanager
def building(name: str, download: bool) -> Iterator[None]:
    """Turn what the libraries raise into one line."""
    try:
        yield
    except Exception as error:
        if not download:
            raise ModelError(f"network {name!r} cannot be built: {one_line(error)}") from error
        raise DownloadError(
            f"the pretrained weights of {name!r} cannot be had: {one_line(error)}; give "
            f"weights=FILE (--weights FILE), or pretrained=False (--no-pretrained) for random "
            f"weights, or fill the cache by loading it once where the internet is in reach"
        ) from error


def reach_hub(config: Any) -> None:
    """Fail at once where timm would try a hub out of reach for most of a minute."""
    if not config.hf_hub_id:
        if config.url:
            reach_url(config.url)
        return
    from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache

    repo, _, revision = config.hf_hub_id.partition("@")
    at = {"revision": revision or None}
    names = [config.hf_hub_filename or "model.safetensors", "pytorch_model.bin"]
    if any(isinstance(try_to_load_from_cache(repo, name, **at), str) for name in names):
        return
    try:
        get_hf_file_metadata(hf_hub_url(repo, names[0], **at), timeout=_TIMEOUT)
    except Exception as error:
        # An answer, even that the file is not there, is for timm to judge.
        if getattr(error, "response", None) is None:
            raise


def reach_url(url: str) -> None:
    """Fail soon where torch.hub, which has no timeout, would wait."""
    if (Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]).exists():
        return
    try:
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=_TIMEOUT).close()
    except urllib.error.HTTPError:
        return
