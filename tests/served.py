"""What the server of processes.py has made before it forks, since every process would make it again.

Lazy imports, a dictionary, and what the first parsing of a command looks up.
"""

from __future__ import annotations

from contextlib import redirect_stdout, suppress
from io import StringIO

import diffusers
import transformers

import locinv_pl.datamodules.coco_edit
import locinv_pl.datamodules.folder
import locinv_pl.datamodules.scenes  # noqa: F401
from locinv_pl.cli.main import main
from locinv_pl.words import load_words

LAZY = [diffusers.AutoencoderKL, diffusers.DDIMScheduler, diffusers.UNet2DConditionModel]
LAZY += [getattr(diffusers, kind.name) for kind in diffusers.schedulers.KarrasDiffusionSchedulers]  # know each other
LAZY += [transformers.CLIPTextModel, transformers.CLIPTokenizer, load_words().nouns("a cat and a dog")]

with redirect_stdout(StringIO()), suppress(SystemExit):
    main(["data=folder", "callbacks=plain", "trainer.accelerator=cpu", "trainer.devices=1", "--print_config"])
