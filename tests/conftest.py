"""A tiny random model of Stable Diffusion's layout, and an image with two objects on it.

Large libraries are imported where they are used: the process that hands the tests out to others needs none.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TRITON_INTERPRET", "1")  # its kernels on any machine; 0 runs them on a GPU

import copy
import gc
import io
import pickle
import shutil
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from PIL import Image

if TYPE_CHECKING:
    import torch
    from transformers import CLIPTokenizer

    from locinv_pl.networks.backbone import Backbone
    from locinv_pl.types import EditSample

# Words of the vocabulary are one token; any other word splits into letters.
WORDS = ["a", "cat", "dog", "red", "and", "on", "grass"]
LENGTH = 20


@pytest.fixture(scope="session", autouse=True)
def old_garbage() -> Iterator[None]:
    """Searches for garbage leave alone what the libraries have made: each would take a second."""
    from locinv_pl.networks.memory import freeze_gc

    gc.collect()
    with freeze_gc():
        yield


@pytest.fixture(scope="session", autouse=True)
def disk_without_wait() -> Iterator[None]:
    """No power is cut in a test: files needn't wait for the disk, which takes ten milliseconds for each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda number: None)
        yield


@pytest.fixture(scope="module", autouse=True)
def coarse_figures() -> Iterator[None]:
    """A sheet of a run is drawn in a tenth of a second in place of half a one: coarse, and its parts not aligned.

    Tests of what a sheet shows take them as they are: a fixture of this name in their file stands in for this one.
    """
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    save = Figure.savefig

    def savefig(figure: Figure, *args: Any, **options: Any) -> None:
        figure.set_layout_engine("none")
        save(figure, *args, **options | {"dpi": 20})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", savefig)
        patch.setattr(Axes, "_update_title_position", lambda axes, renderer: None)
        yield


class Packer(pickle.Pickler):
    """Pickles a network without its tensors, which it keeps in a list."""

    def __init__(self, network: torch.nn.Module) -> None:
        self.file, self.tensors = io.BytesIO(), []
        super().__init__(self.file, protocol=5)
        self.dump(network)

    def persistent_id(self, value: Any) -> int | None:
        """The number of a tensor."""
        import torch

        if not isinstance(value, torch.Tensor):
            return None
        self.tensors.append(value)
        return len(self.tensors) - 1


class Unpacker(pickle.Unpickler):
    """Makes a copy of a packed network, in half the time of copy.deepcopy."""

    def __init__(self, packer: Packer) -> None:
        super().__init__(io.BytesIO(packer.file.getvalue()))
        self.tensors, self.memo_of_tensors = packer.tensors, {}

    def persistent_load(self, number: int) -> torch.Tensor:
        """A copy of a tensor, the same one wherever it stands."""
        return copy.deepcopy(self.tensors[number], self.memo_of_tensors)


@pytest.fixture(scope="session", autouse=True)
def loaded_once() -> Iterator[None]:
    """A network is loaded from the same files once; a copy takes an eighth of the time."""
    from diffusers import AutoencoderKL, UNet2DConditionModel, UNet2DModel
    from transformers import CLIPModel, CLIPTextModel

    known: dict[Any, Packer] = {}

    def keeping(kind: Any) -> Any:
        load = kind.from_pretrained

        def from_pretrained(where: Any, **options: Any) -> Any:
            folder = Path(where) / options.get("subfolder", "")
            if not folder.is_dir():
                return load(where, **options)
            files = [(path, path.stat().st_mtime_ns, path.stat().st_size) for path in sorted(folder.iterdir())]
            key = (kind, *files, *sorted((name, str(value)) for name, value in options.items()))
            if key not in known:
                known[key] = Packer(load(where, **options))
            return Unpacker(known[key]).load()

        return from_pretrained

    with pytest.MonkeyPatch.context() as patch:
        for kind in (AutoencoderKL, UNet2DConditionModel, UNet2DModel, CLIPModel, CLIPTextModel):
            patch.setattr(kind, "from_pretrained", keeping(kind))
        yield


@pytest.fixture(scope="session", autouse=True)
def parsers_built_once() -> Iterator[None]:
    """The parser of a subcommand is built once, which takes most of a command's time; each command parses anew."""
    from lightning.pytorch.cli import LightningCLI

    build, names = LightningCLI.setup_parser, ("parser", "_subcommand_parsers", "_subcommand_method_arguments")
    known: dict[Any, dict[str, Any]] = {}

    def setup_parser(cli: LightningCLI, *how: Any) -> None:
        key = (type(cli), *cli.subcommands(), repr(how))
        if key not in known:
            build(cli, *how)
            known[key] = {name: vars(cli)[name] for name in names}
        vars(cli).update(known[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LightningCLI, "setup_parser", setup_parser)
        yield


def make_tokenizer(length: int = LENGTH) -> CLIPTokenizer:
    """CLIP's byte-pair tokenizer with few merges."""
    from transformers import CLIPTokenizer

    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)] + [".", ",", "!", "-"]
    pieces = letters + [letter + "</w>" for letter in letters]
    merges: list[tuple[str, str]] = []
    for word in WORDS:
        parts = [*word[:-1], word[-1] + "</w>"]
        while len(parts) > 1:
            pair = (parts[0], parts[1])
            parts[:2] = ["".join(pair)]
            if pair not in merges:
                merges.append(pair)
                pieces.append(parts[0])
    vocab = {piece: n for n, piece in enumerate(dict.fromkeys(pieces))}
    vocab |= {"<|startoftext|>": len(vocab), "<|endoftext|>": len(vocab) + 1}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=length)


def write_tiny_model(
    folder: Path, prediction_type: str = "epsilon", seed: int = 0, levels: int = 2, length: int = LENGTH
) -> Path:
    """Write a random model in diffusers' layout: 32x32 images, 16x16 latents, maps at 8x8, of 3 levels at 4x4, too."""
    import torch
    from diffusers import UNet2DConditionModel
    from tiny_pipelines import clip, ddim, vae

    torch.manual_seed(seed)
    make_tokenizer(length).save_pretrained(folder / "tokenizer")
    vae(4).save_pretrained(folder / "vae")
    clip(32, 2, length=length).save_pretrained(folder / "text_encoder")
    unet = UNet2DConditionModel(
        sample_size=16,
        block_out_channels=[16, 32, 32][:levels],
        layers_per_block=1,
        down_block_types=["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"][:levels],
        up_block_types=["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"][-levels:],
        cross_attention_dim=32,
        attention_head_dim=2,
        norm_num_groups=4,
    )
    for name, weight in unet.named_parameters():
        if "attn2.to_q" in name or "attn2.to_k" in name:
            weight.data *= 2  # random attention is almost even; make it tell tokens apart
    unet.save_pretrained(folder / "unet")
    ddim(prediction_type=prediction_type).save_pretrained(folder / "scheduler")
    return folder


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model's folder; copy it before changing it."""
    return write_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def deep_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one with three levels, for what depends on how levels are stacked."""
    return write_tiny_model(tmp_path_factory.mktemp("deep"), levels=3)


@pytest.fixture
def own_folder(tiny_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model's folder, to damage."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "model"))


@pytest.fixture(scope="session")
def tiny(tiny_folder: Path) -> Backbone:
    """The tiny model."""
    from locinv_pl.networks.loading import load_backbone

    return load_backbone(str(tiny_folder))


@pytest.fixture(scope="session")
def folder_of(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of an architecture's tiny model, by its name in tiny_pipelines, or "sd"; copy before changing it."""
    from tiny_pipelines import WRITERS

    @cache
    def folder(name: str) -> Path:
        return tiny_folder if name == "sd" else WRITERS[name](tmp_path_factory.mktemp(name))

    return folder


@pytest.fixture(scope="session")
def embedded() -> Backbone:
    """The model inside the package."""
    from locinv_pl.networks.loading import load_backbone

    return load_backbone("embedded")


@pytest.fixture(scope="session")
def foundation_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny foundation models: detector, segmenter (SAM), sam2, sam3, captioner; copy them before changing them."""
    from foundation_models import write_models

    return write_models(tmp_path_factory.mktemp("foundation"), make_tokenizer())


def make_image(size: int = 32, seed: int = 0) -> torch.Tensor:
    """A smooth image (3, size, size) in [0, 1]."""
    import torch

    noise = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(noise, (size, size), mode="bicubic")[0].clamp(0, 1)


def write_images(folder: Path, count: int) -> None:
    """A folder for ``data=folder``: images p0, p1, … of "a red cat and a dog", each with two edits."""
    folder.mkdir()
    rows = []
    for n in range(count):
        pixels = (make_image(seed=n).movedim(0, -1) * 255).round().byte().numpy()
        Image.fromarray(pixels).save(folder / f"p{n}.png")
        edits = ["a red dog and a dog", {"prompt": "a blue cat and a dog", "kind": "attribute"}]
        priors = {"cat": [2, 4, 14, 10], "dog": [20, 18, 10, 12]}
        rows.append({"image": f"p{n}.png", "prompt": "a red cat and a dog", "priors": priors, "edits": edits})
    (folder / "samples.yaml").write_text(yaml.safe_dump(rows))


@pytest.fixture
def sample() -> EditSample:
    """ "a red cat and a dog": the cat in the upper left quarter, the dog in the lower right."""
    return make_two_objects("two", seed=0)


def make_two_objects(id: str, seed: int) -> EditSample:
    """A sample with a cat in the upper left quarter and a dog in the lower right one."""
    import torch

    from locinv_pl.api import make_sample

    cat, dog = torch.zeros(32, 32), torch.zeros(32, 32)
    cat[4:14, 2:16], dog[18:30, 20:30] = 1, 1
    return make_sample(
        make_image(seed=seed), "a red cat and a dog", {"cat": cat, "dog": dog}, adjectives=[("red", "cat")], id=id
    )


def ids_of(backbone: Any, prompt: str) -> torch.Tensor:
    """A prompt's token ids, (1, L)."""
    from locinv_pl.words.tokens import tokenize

    return tokenize(backbone.tokenizer, prompt).ids[None]
