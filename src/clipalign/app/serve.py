"""Serve the page on this machine: no telemetry, no public link, uploads in a folder that is deleted at the end."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event

from ..core.errors import UserError
from .examples import write_examples
from .inputs import MAX_BYTES
from .models import PageModel
from .session import Session


def serve(models: Sequence[PageModel], host: str, port: int) -> None:
    """Serve the page until it is interrupted.

    Args:
        models: models from left to right.
        host: address to listen on.
        port: port, see `free_port`.

    Raises:
        UserError: Gradio is not installed.
    """
    with TemporaryDirectory(prefix="clipalign-app-") as folder:
        os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": folder}
        page_module = import_page()
        page = page_module.make_page(Session(models), write_examples(Path(folder)))
        page.launch(
            server_name=host,
            server_port=port,
            share=False,
            inbrowser=False,
            quiet=True,
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
            footer_links=[],
            max_file_size=MAX_BYTES,
            theme=page_module.theme(),
            css=page_module.html.CSS,
            prevent_thread_lock=True,
        )
        shown = "127.0.0.1" if host == "0.0.0.0" else host
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl+C, so that uploads are deleted
        print(f"Open http://{shown}:{port} (Ctrl+C to stop)", flush=True)
        # Not `page.close`, which waits for the connections of open tabs; the server's threads end with the process.
        with suppress(KeyboardInterrupt):
            Event().wait()


def import_page():  # type: ignore[no-untyped-def]
    """Import `page`, which needs Gradio.

    Raises:
        UserError: Gradio is not installed.
    """
    try:
        from . import page
    except ModuleNotFoundError as error:
        if error.name != "gradio":
            raise
        raise UserError('clipalign app needs Gradio: pip install "clipalign[app]"') from None
    return page


def free_port(host: str, port: int) -> int:
    """Return `port`, or a free one for 0.

    Raises:
        UserError: the port is taken, or the address is not one of this machine.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            return int(probe.getsockname()[1])
    except OSError as error:
        raise UserError(
            f"--host {host} --port {port}: cannot listen there ({error.strerror or error}); choose another port, "
            "or 0 for any free one"
        ) from None
