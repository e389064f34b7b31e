"""Downloads: no delay without network, one line per failure, and no messages of open_clip."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlparse

import huggingface_hub.constants


def first_line(error: Exception) -> str:
    """Return the first line of a message, at most 200 characters."""
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress open_clip's messages to the root logger, which warn about weights that this module loads itself."""
    root = logging.getLogger()
    handler, disabled = logging.NullHandler(), root.manager.disable
    root.addHandler(handler)  # else `logging.warning` would install a handler permanently
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(disabled)
        root.removeHandler(handler)


@contextmanager
def offline_if_unreachable() -> Iterator[None]:
    """Use the hub's cache without a minute of retries if the hub cannot be reached."""
    host = urlparse(huggingface_hub.constants.ENDPOINT).hostname or "huggingface.co"
    proxied = any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"))
    offline = huggingface_hub.constants.HF_HUB_OFFLINE
    try:
        if not proxied and not offline:
            socket.getaddrinfo(host, 443)
    except OSError:
        huggingface_hub.constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        huggingface_hub.constants.HF_HUB_OFFLINE = offline
