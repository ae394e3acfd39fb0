"""Published weights: fail early, and in one line, if they cannot be downloaded."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from unitprobe.errors import DownloadError, ModelError
from unitprobe.models.network import one_line

_TIMEOUT = 5.0


@contextmanager
def building(name: str, download: bool) -> Iterator[None]:
    """Turn the errors of the libraries into one line."""
    try:
        yield
    except Exception as error:
        if not download:
            raise ModelError(f"network {name!r} cannot be built: {one_line(error)}") from error
        raise DownloadError(
            f"the pretrained weights of {name!r} cannot be downloaded: {one_line(error)}; give "
            f"weights=FILE (--weights FILE), or pretrained=False (--no-pretrained) for random "
            f"weights, or fill the cache by loading it once with access to the internet"
        ) from error


def reach_hub(config: Any) -> None:
    """Raise the error at once if the hub cannot be reached; timm would retry for a minute."""
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
        # timm handles an answer of the hub, also that the file does not exist.
        if getattr(error, "response", None) is None:
            raise


def reach_url(url: str) -> None:
    """Raise the error early if the URL cannot be reached; torch.hub has no timeout."""
    if (Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]).exists():
        return
    try:
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=_TIMEOUT).close()
    except urllib.error.HTTPError:
        return
