"""The nodes of ComfyUI, against a stub of its contract: what nodes declare, and how a workflow is executed."""

from __future__ import annotations

import importlib.util
import inspect
import json
import sys
from dataclasses import fields, replace
from graphlib import TopologicalSorter
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from conftest import make_image
from foundation_models import settings
from PIL import Image
from refusals import refused
from safetensors.torch import save_file
from torch import Tensor

from locinv_pl import EditSettings, edit, find_priors, load_backbone
from locinv_pl.assets import EXAMPLE
from locinv_pl.grounding import FoundationModels

FOLDER = Path(__file__).parents[2] / "integrations" / "comfyui"
TYPES = {"IMAGE", "MASK", "STRING", "INT", "FLOAT", "BOOLEAN"}
KINDS: dict[str, Any] = {"STRING": str, "INT": int, "FLOAT": (int, float)}


def load_nodes() -> ModuleType:
    """The folder as ComfyUI loads a custom node: a package by its path, under any name."""
    where = FOLDER / "__init__.py"
    spec = importlib.util.spec_from_file_location(
        "custom_nodes_locinv", where, submodule_search_locations=[str(FOLDER)]
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


NODES = load_nodes()


def pixels(name: str) -> Tensor:
    return torch.from_numpy(np.asarray(Image.open(EXAMPLE / name).convert("RGB")).astype(np.float32) / 255)[None]


class Own:
    """A node of ComfyUI itself, as the stub has it."""

    FUNCTION = "go"
    kept: dict[str, list[Tensor]] = {}


class LoadImage(Own):
    RETURN_TYPES = ("IMAGE", "MASK")
    INPUT_TYPES = classmethod(lambda cls: {"required": {"image": ("STRING",)}})

    def go(self, image: str) -> tuple[Tensor, ...]:
        return pixels(image), torch.zeros(1, 64, 64)


class LoadImageMask(Own):
    RETURN_TYPES = ("MASK",)
    INPUT_TYPES = classmethod(lambda cls: {"required": {"image": ("STRING",), "channel": (["alpha", "red"],)}})

    def go(self, image: str, channel: str) -> tuple[Tensor, ...]:
        return (pixels(image)[..., 0],)


class SaveImage(Own):
    RETURN_TYPES = ()
    INPUT_TYPES = classmethod(
        lambda cls: {"required": {"images": ("IMAGE",)}, "optional": {"filename_prefix": ("STRING",)}}
    )

    def go(self, images: Tensor, filename_prefix: str = "preview") -> tuple[()]:
        self.kept[filename_prefix] = list(images)
        return ()


OWN = {"LoadImage": LoadImage, "LoadImageMask": LoadImageMask, "SaveImage": SaveImage, "PreviewImage": SaveImage}


def execute(workflow: dict[str, Any]) -> dict[str, tuple[Any, ...]]:
    """Run a workflow in API format, nodes after those that they take from; links and values must fit."""
    nodes = {**NODES.NODE_CLASS_MAPPINGS, **OWN}
    links = {id: [v[0] for v in node["inputs"].values() if isinstance(v, list)] for id, node in workflow.items()}
    made: dict[str, tuple[Any, ...]] = {}
    for id in TopologicalSorter(links).static_order():
        kind = nodes[workflow[id]["class_type"]]
        declared = kind.INPUT_TYPES()
        wanted = {**declared["required"], **declared.get("optional", {})}
        given = workflow[id]["inputs"]
        assert declared["required"].keys() <= given.keys() <= wanted.keys(), id
        values = {}
        for name, value in given.items():
            type_, options = wanted[name][0], (wanted[name][1:] or ({},))[0]
            if isinstance(value, list):
                source, slot = value
                assert nodes[workflow[source]["class_type"]].RETURN_TYPES[slot] == type_, (id, name)
                value = made[source][slot]
            elif isinstance(type_, list):
                assert value in type_, (id, name)
            else:
                assert isinstance(value, KINDS[type_]), (id, name)
                assert options.get("min", value) <= value <= options.get("max", value), (id, name)
            values[name] = value
        with torch.inference_mode():  # as ComfyUI does
            made[id] = getattr(kind(), kind.FUNCTION)(**values)
        assert len(made[id]) == len(kind.RETURN_TYPES)
        for type_, value in zip(kind.RETURN_TYPES, made[id], strict=True):
            if type_ in ("IMAGE", "MASK"):
                assert value.ndim == (4 if type_ == "IMAGE" else 3) and value.dtype == torch.float32
                assert value.min() >= 0 and value.max() <= 1 and (type_ == "MASK" or value.shape[-1] == 3)
    return made


@pytest.mark.parametrize("name", NODES.NODE_CLASS_MAPPINGS)
def test_every_node_keeps_the_contract(name):
    kind = NODES.NODE_CLASS_MAPPINGS[name]
    declared = kind.INPUT_TYPES()
    assert declared.keys() <= {"required", "optional"} and NODES.NODE_DISPLAY_NAME_MAPPINGS[name]
    assert isinstance(kind.CATEGORY, str) and callable(getattr(kind, kind.FUNCTION))
    assert isinstance(kind.RETURN_TYPES, tuple) and len(kind.RETURN_TYPES) == len(kind.RETURN_NAMES)
    inputs = {**declared["required"], **declared.get("optional", {})}
    taken = inspect.signature(kind.run).parameters
    by_name = {key for key, each in taken.items() if each.kind is not each.VAR_KEYWORD} - {"self"}
    assert by_name <= inputs.keys()
    assert by_name == inputs.keys() or any(each.kind is each.VAR_KEYWORD for each in taken.values())
    for type_, *options in inputs.values():
        assert isinstance(type_, list) or type_ in TYPES or type_.startswith("LOCINV_")
        if isinstance(type_, list):
            assert type_ and (not options or options[0].get("default", type_[0]) in type_)
    assert all(type_ in TYPES or type_.startswith("LOCINV_") for type_ in kind.RETURN_TYPES)


def test_the_workflow_runs(monkeypatch):
    moved: list[int] = []

    class ProgressBar:
        def __init__(self, total: int) -> None:
            moved.append(-total)

        def update(self, steps: int) -> None:
            moved.append(steps)

    for name, of in (("utils", {"ProgressBar": ProgressBar}), ("model_management", {})):
        stub = ModuleType(f"comfy.{name}")
        vars(stub).update(of, throw_exception_if_processing_interrupted=lambda: None)
        monkeypatch.setitem(sys.modules, f"comfy.{name}", stub)
    monkeypatch.setitem(sys.modules, "comfy", ModuleType("comfy"))
    workflow = json.loads((FOLDER / "workflow_api.json").read_text())
    workflow["6"]["inputs"]["steps"] = 2
    workflow["2"]["inputs"]["device"] = "cpu"
    made = execute(workflow)
    assert moved == [-4, 1, 1, 1, 1, -2, 1, 1]
    inversion = made["6"][0]
    assert inversion.nouns == ("bird", "cat") and inversion.num_steps == 2
    values = workflow["7"]["inputs"]
    prompts = values["prompts"].splitlines()
    images, back, masks = made["7"]
    how = EditSettings(**{f.name: values[f.name] for f in fields(EditSettings) if f.name in values})
    assert torch.equal(images, edit(load_backbone("embedded"), inversion, prompts, how).movedim(1, -1))
    assert len(Own.kept["locinv"]) == 2 and back.shape == (1, 128, 128, 3) and masks.shape == (2, 128, 128)
    assert len(Own.kept["preview"]) == 2  # a map for each noun


def test_priors_by_sam_are_those_of_the_package(foundation_folder, tmp_path):
    models = replace(settings(foundation_folder, tmp_path), text_threshold=FoundationModels().text_threshold)
    image = make_image(48)[None].movedim(1, -1)
    words: dict[str, Any] = {"detector": models.detector, "segmenter": models.segmenter, "cache": models.cache}
    node = NODES.NODE_CLASS_MAPPINGS["LocInvPriorsBySam"]()
    with torch.inference_mode():
        priors, masks = node.execute(
            image=image, nouns="cat, dog", box_threshold=models.box_threshold, device="cpu", priors={"sky": 1}, **words
        )
    found = find_priors(image[0].movedim(-1, 0), ["cat", "dog"], models)
    assert list(priors) == ["sky", "cat", "dog"]
    assert torch.equal(masks, torch.stack([found["cat"], found["dog"]]).float())


def test_a_model_is_loaded_with_options(tiny_folder, tmp_path):
    node = NODES.NODE_CLASS_MAPPINGS["LocInvLoad"]()
    assert node.INPUT_TYPES()["optional"]["lora"] == ("STRING", {"default": ""})
    lora, layer = str(tmp_path / "a.safetensors"), "unet.up_blocks.0.attentions.0.transformer_blocks.0.attn2.to_v"
    save_file({f"{layer}.lora_A.weight": torch.ones(1, 32), f"{layer}.lora_B.weight": torch.ones(32, 1)}, lora)
    (model,) = node.execute(name=str(tiny_folder), dtype="float32", device="cpu", lora=lora, layout="")
    assert model.origin == {"lora": lora}


def test_a_batch_is_refused(tiny):
    node = NODES.NODE_CLASS_MAPPINGS["LocInvPriorFromMask"]()
    refused(lambda: node.execute(noun="cat", mask=torch.ones(2, 8, 8)), "mask: has 2 images; give one")
    node = NODES.NODE_CLASS_MAPPINGS["LocInvEdit"]()
    refused(lambda: node.execute(model=tiny, inversion=None, prompts=" \n"), "prompts: is empty")
