"""How the page is served: to this machine alone, under its own name, with nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, MutableMapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import gradio as gr

from locinv_pl.errors import InputError

LARGEST = 64 * 10**6  # bytes of an upload; an inversion has more than a photograph
LOOPBACK = ("127.0.0.1", "localhost", "::1")
POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; font-src 'self' data:; style-src 'self' 'unsafe-inline'; "
    "script-src 'self' 'unsafe-inline' 'unsafe-eval'; object-src 'none'; base-uri 'self'; form-action 'self'"
)
HEADERS = {"content-security-policy": POLICY, "x-content-type-options": "nosniff", "referrer-policy": "no-referrer"}
FONTS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif"]
Scope = MutableMapping[str, Any]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Guard:
    """Refuses what another site asks for, and what comes under another name than the page's own (DNS rebinding).

    Args:
        app: the ASGI application behind it.
        hosts: the names that a request's Host may have, without the port; any for None.
    """

    def __init__(self, app: Any, hosts: Collection[str] | None):
        self.app, self.hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Any, send: Send) -> None:
        """Pass a request on, or answer 403."""
        if scope["type"] == "websocket":  # the page has none
            await send({"type": "websocket.close"})
            return
        if scope["type"] == "http" and not self.allows(dict(scope["headers"])):
            await send({"type": "http.response.start", "status": 403, "headers": []})
            await send({"type": "http.response.body", "body": b"403: not from here"})
            return

        async def with_headers(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start" and self.hosts is not None:
                own = [(key.encode(), value.encode()) for key, value in HEADERS.items()]
                message = {**message, "headers": [*message.get("headers", []), *own]}
            await send(message)

        await self.app(scope, receive, with_headers)

    def allows(self, headers: dict[bytes, bytes]) -> bool:
        """Whether a request may come in.

        Args:
            headers: its own, by their names in small letters.
        """
        host, origin = headers.get(b"host", b"").decode("latin-1"), headers.get(b"origin")
        name = urlsplit(f"//{host}").hostname
        is_own = origin is None or urlsplit(origin.decode("latin-1")).netloc == host
        return is_own and (self.hosts is None or name in self.hosts)


class Blocks(gr.Blocks):
    """Gradio's, which starts safely: on this machine, without a public link, an API's description or telemetry."""

    def launch(self, *, is_public: bool = False, **options: Any) -> Any:  # type: ignore[override]
        """Start the server.

        Args:
            is_public: whether others may come in without a password and under other names, as on a Space or behind a
                proxy, whose host decides who comes.
            options: Gradio's; ``server_name``, ``server_port``, ``auth``, ``inbrowser``, ``share``, …

        Raises:
            InputError: others than this machine could come in, and no ``auth`` says who.
        """
        host, share = options.pop("server_name", None) or LOOPBACK[0], bool(options.pop("share", False))
        is_own = host in LOOPBACK and not share
        if not (is_own or is_public or options.get("auth")):
            raise InputError(
                f"app: {'share=true' if share else f'host={host}'} lets others in; say who by auth=NAME:PASSWORD"
            )
        guard = (Guard, (), {"hosts": LOOPBACK if is_own and not is_public else None})
        settings: dict[str, Any] = {
            "theme": gr.themes.Default(
                primary_hue="teal", neutral_hue="slate", font=FONTS, font_mono=["ui-monospace", "Menlo", "monospace"]
            ),
            "css": (Path(__file__).parent / "page.css").read_text(),
            "footer_links": [],
            "max_file_size": LARGEST,
            "ssr_mode": False,
            "show_error": False,
            "enable_monitoring": False,
            "quiet": True,
            "app_kwargs": {"openapi_url": None, "middleware": [guard]},
        }
        return super().launch(server_name=host, share=share, **{**settings, **options})
