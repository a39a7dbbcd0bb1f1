"""An edit as one HTML page that needs nothing else: to keep, or to send to someone."""

from __future__ import annotations

import json
from html import escape
from pathlib import Path

from PIL import Image

from locinv_pl.app.places import data_url
from locinv_pl.app.store import MadeEdit
from locinv_pl.app.views import diff
from locinv_pl.drawing import to_array

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 900px; margin: 2rem auto; padding: 0 1rem; }
:root { color-scheme: light dark; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(220px, 1fr)); gap: 12px; }
figure { margin: 0; } img { width: 100%; border-radius: 8px; } figcaption { font-size: .85rem; opacity: .75; }
mark { background: #c9f2d5; color: #10351d; } del { background: #fbdcd9; color: #6d1a13; }
pre { background: rgba(128, 128, 128, .14); padding: 10px; border-radius: 8px; overflow: auto; font-size: .82rem; }
"""


def report(made: MadeEdit, title: str, python: str) -> str:
    """The page's HTML.

    Args:
        made: the edit.
        title: of the page.
        python: what makes the image again.
    """
    about = made.about
    images = [("before", made.before), ("reconstruction", made.reconstruction)]
    images += list(zip(about["labels"], made.images, strict=True))
    tiles = "".join(
        f'<figure><img src="{data_url(Image.fromarray(to_array(image)))}" alt="{escape(name)}">'
        f"<figcaption>{escape(name)}</figcaption></figure>"
        for name, image in images
    )
    values = {"prompt": about["prompt"], "target": about["target"], "backbone": Path(about["backbone"]).name}
    values |= {"method": about["page"]["method"], "settings": about["settings"]}
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title><style>{STYLE}</style>'
        f"<h1>LocInv</h1>{diff(about['prompt'], about['target'])}<div class=tiles>{tiles}</div>"
        f"<h2>The same as Python</h2><pre>{escape(python)}</pre>"
        f"<h2>Settings</h2><pre>{escape(json.dumps(values, indent=1))}</pre></html>"
    )
