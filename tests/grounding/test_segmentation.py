"""Masks from points, boxes and nouns by SAM, SAM 2 and SAM 3 of transformers' classes, tiny and random."""

from __future__ import annotations

import json
import shutil
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from foundation_models import QUERIES, SQUARE, into_hub_cache, make_photo, settings, use_hub_cache
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPTokenizer, Sam2Model, Sam3Config, Sam3Model, Sam3VideoConfig, SamModel, SamProcessor

from locinv_pl.errors import InputError
from locinv_pl.grounding import FoundationModels, PointSegmenter, caption, find_priors, nouns, segment_points
from locinv_pl.grounding.captions import Blip
from locinv_pl.grounding.nouns import GroundedSam
from locinv_pl.grounding.segmentation import EmbeddedImage
from locinv_pl.grounding.square import SquareProcessor

PHOTO = make_photo()
POINTS, LABELS = [[12.5, 20], [60, 31]], [1, 0]
BOXES = torch.tensor([[3, 4, 30, 28.5], [10.2, 5, 25, 33]])
KINDS = ("segmenter", "sam2")


@pytest.fixture
def models(foundation_folder: Path, tmp_path: Path) -> Any:
    """Settings by the segmenter's folder; every box and instance counts, if not said otherwise."""

    def of(segmenter: str = "segmenter", **changes: Any) -> FoundationModels:
        return settings(foundation_folder, tmp_path / "cache", segmenter=str(foundation_folder / segmenter), **changes)

    return of


@pytest.fixture(scope="module")
def embedded(foundation_folder: Path) -> dict[str, EmbeddedImage]:
    """The photo, seen by SAM and by SAM 2."""
    named = {kind: FoundationModels(segmenter=str(foundation_folder / kind)) for kind in KINDS}
    return {kind: PointSegmenter(chosen).at(PHOTO) for kind, chosen in named.items()}


def square(image: Image.Image, mean: float, std: float) -> torch.Tensor:
    pixels = np.asarray(image.resize((SQUARE, SQUARE), Image.Resampling.BILINEAR), dtype=np.float64) / 255
    return torch.from_numpy((pixels - mean) / std).movedim(-1, 0)[None].float()


@torch.no_grad()
def by_hand(folder: Path, kind: str, image: Image.Image, **prompts: torch.Tensor) -> torch.Tensor:
    """The best masks, by one forward pass of transformers' network on pixels and prompts."""
    size = image.size[::-1]
    if kind == "sam2":
        network = Sam2Model.from_pretrained(folder / kind).eval()
        scale = SQUARE / torch.tensor(image.size)
        pixels = square(image, 0.45, 0.225)
    else:
        network = SamModel.from_pretrained(folder / kind).eval()
        inputs = SamProcessor.from_pretrained(folder / kind)(images=image, return_tensors="pt")
        scale = inputs.reshaped_input_sizes[0].flip(0) / torch.tensor(image.size)
        pixels = inputs.pixel_values
    where = {k: v if k == "input_labels" else (v.view(-1, 2) * scale).view_as(v) for k, v in prompts.items()}
    out = network(pixel_values=pixels, **where)
    best = out.iou_scores[0].argmax(-1)
    coarse = torch.stack([m[n] for m, n in zip(out.pred_masks[0], best, strict=True)])[:, None]
    if kind == "sam2":
        return F.interpolate(coarse, size, mode="bilinear")[:, 0] > 0
    tools = SamProcessor.from_pretrained(folder / kind)
    return tools.post_process_masks([coarse], inputs.original_sizes, inputs.reshaped_input_sizes)[0][:, 0]


class TestPoints:
    """The prompts of SAM and SAM 2."""

    @pytest.mark.parametrize("kind", KINDS)
    def test_the_best_mask_of_one_forward_pass(self, embedded: Any, foundation_folder: Path, kind: str) -> None:
        mask = embedded[kind].mask(POINTS, LABELS)
        assert mask.shape == (40, 70) and mask.dtype == torch.bool and mask.any() and not mask.all()
        prompts = {"input_points": torch.tensor(POINTS)[None, None], "input_labels": torch.tensor(LABELS)[None, None]}
        assert torch.equal(mask, by_hand(foundation_folder, kind, PHOTO, **prompts)[0])

    @pytest.mark.parametrize("kind", KINDS)
    def test_boxes(self, embedded: Any, foundation_folder: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
        masks = embedded[kind].masks(BOXES)
        assert masks.shape == (2, 40, 70) and not torch.equal(masks[0], masks[1])
        assert torch.equal(masks, by_hand(foundation_folder, kind, PHOTO, input_boxes=BOXES[None]))
        monkeypatch.setattr("locinv_pl.grounding.segmentation.AT_ONCE", 1)
        assert torch.equal(masks, embedded[kind].masks(BOXES))

    @pytest.mark.parametrize("kind", KINDS)
    def test_the_best_is_that_of_the_highest_predicted_iou(self, embedded: Any, kind: str) -> None:
        image = embedded[kind]
        network, size = image._network, (1, 1, 3, 16, 16)

        class Decoded:
            iou_scores = torch.tensor([[[0.2, 0.9, 0.3]]])
            pred_masks = torch.full(size, -1.0)

        Decoded.pred_masks[0, 0, 1, :8] = Decoded.pred_masks[0, 0, 0, 8:] = 1
        try:
            image._network = lambda **_: Decoded
            image._network.device = "cpu"  # type: ignore[attr-defined]
            mask = image.mask([[1, 1]], [1])
        finally:
            image._network = network
        assert mask[0].all() and not mask[-1].any()

    @pytest.mark.parametrize("kind", KINDS)
    def test_a_second_click_costs_the_decoder_alone(self, models: Any, kind: str, monkeypatch: Any) -> None:
        image = PointSegmenter(models(kind)).at(PHOTO)
        monkeypatch.setattr(image._network.vision_encoder, "forward", lambda *_, **__: pytest.fail("encoded again"))
        first = image.mask([[10, 20]], [1])
        assert not torch.equal(first, image.mask([[10, 20], [60, 30]], [1, 0]))
        assert torch.equal(first, image.mask(np.array([[10, 20]]), torch.tensor([True])))
        assert torch.equal(first, image.mask([[10, 20]]))

    def test_whichever_way_the_image_comes(self, models: Any, tmp_path: Path) -> None:
        PHOTO.save(tmp_path / "photo.png")
        pixels = np.asarray(PHOTO)
        kinds = [PHOTO, tmp_path / "photo.png", pixels, torch.from_numpy(pixels / 255).movedim(-1, 0)]
        masks = [segment_points(image, [[10, 20]], models=models("sam2")) for image in kinds]
        assert all(torch.equal(mask, masks[0]) for mask in masks)
        assert torch.equal(masks[0], segment_points(PHOTO, [[10, 20]], [1], models("sam2")))

    @pytest.mark.parametrize(
        ("points", "labels", "message"),
        [
            ([[70.5, 3]], [1], r"points: \(70.5, 3\) lies outside the image of 70x40; move it inside"),
            ([[3, -1]], [1], r"points: \(3, -1\) lies outside"),
            ([[3, float("nan")]], [1], r"points: \(3, nan\) lies outside"),
            ([[3, 4], [5, 6]], [0, 0], "points: none is inside the object; give one with label 1"),
            ([[3, 4]], [1, 1], r"points: shape \(1, 2\) with labels \(2,\); give \(n, 2\) and \(n,\)"),
            ([3, 4], [1, 1], r"points: shape \(2,\)"),
            ([], [], r"points: shape \(0,\)"),
            ([[3, 4]], [2], r"points: labels \[2.0\]; give 1 for a point inside the object, 0 for outside"),
            (None, None, "points: are no numbers"),
            ([["a", "b"]], [1], r"points: are no numbers; give \[\[x, y\], ...\] in pixels"),
        ],
    )
    def test_what_cannot_be(self, embedded: Any, points: Any, labels: Any, message: str) -> None:
        with pytest.raises(InputError, match=message):
            embedded["segmenter"].mask(points, labels)

    def test_nothing_seen(self, embedded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(EmbeddedImage, "_decode", lambda *_, **__: torch.zeros(1, 40, 70, dtype=torch.bool))
        with pytest.raises(InputError, match="points: no object is seen there; move them, or give a box or a mask"):
            embedded["sam2"].mask(POINTS, LABELS)

    def test_no_segmenter_of_points(self, models: Any) -> None:
        with pytest.raises(InputError, match="^models.segmenter: names no model; give a folder or a hub id of kind"):
            PointSegmenter(FoundationModels(segmenter=""))
        with pytest.raises(InputError, match="sam3: SAM 3 takes nouns, no points; give SAM or SAM 2"):
            segment_points(PHOTO, POINTS, LABELS, models("sam3"))


class TestSquare:
    """How SAM 2 and SAM 3 see an image."""

    @pytest.mark.parametrize("size", [(70, 40), (33, 90), (200, 150)])
    def test_stretched_to_a_square(self, foundation_folder: Path, size: tuple[int, int]) -> None:
        photo = make_photo(*size)
        inputs = SquareProcessor.from_pretrained(str(foundation_folder / "sam2"), True)(photo)
        assert torch.allclose(inputs.pixel_values, square(photo, 0.45, 0.225), atol=1e-5)
        assert inputs.original_sizes.tolist() == [[size[1], size[0]]]

    @pytest.mark.parametrize(("kind", "file"), [("sam2", "preprocessor_config.json"), ("sam3", "tokenizer.json")])
    def test_incomplete(self, models: Any, foundation_folder: Path, tmp_path: Path, kind: str, file: str) -> None:
        own = Path(shutil.copytree(foundation_folder / kind, tmp_path / kind))
        (own / file).unlink()
        with pytest.raises(InputError, match=f"^models.segmenter=.*{kind}: (can't be loaded|has no vocabulary)"):
            find_priors(PHOTO, ["cat"], replace(models(kind), segmenter=str(own)))


class TestNouns:
    """Priors of nouns: SAM 2 in the detector's boxes, SAM 3 alone."""

    def test_sam2_takes_sams_place(self, models: Any, foundation_folder: Path) -> None:
        finder, sam = GroundedSam(models("sam2")), GroundedSam(models())
        boxes = finder._detect(PHOTO, ["cat", "dog"])[0]
        assert torch.equal(boxes, sam._detect(PHOTO, ["cat", "dog"])[0])
        masks = by_hand(foundation_folder, "sam2", PHOTO, input_boxes=boxes[None])
        assert torch.equal(finder._segment(PHOTO, boxes), masks)
        found = finder.find(PHOTO, ["cat", "dog"])
        assert np.array_equal(np.any([place.mask for place in found.values()], 0), masks.any(0).numpy())

    @torch.no_grad()
    def instances(self, folder: Path, noun: str, threshold: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Masks, boxes and scores by a forward pass of Sam3Model, as Sam3Processor reads them, the surest first."""
        network = Sam3Model.from_pretrained(folder / "sam3").eval()
        tokenizer = CLIPTokenizer.from_pretrained(folder / "sam3")
        text = tokenizer(noun, return_tensors="pt", padding="max_length", max_length=16)
        out = network(pixel_values=square(PHOTO, 0.5, 0.5), **text)
        scores = (out.pred_logits.sigmoid() * out.presence_logits.sigmoid())[0]
        order = scores.argsort(descending=True, stable=True)[: int((scores > threshold).sum())]
        masks = F.interpolate(out.pred_masks.sigmoid(), PHOTO.size[::-1], mode="bilinear")[0, order] > 0.5
        return masks, out.pred_boxes[0, order].clamp(0, 1) * torch.tensor([70, 40, 70, 40]), scores[order]

    @pytest.mark.parametrize("noun", ["cat", "a red dog"])
    def test_sam3_finds_all_instances(self, models: Any, foundation_folder: Path, noun: str) -> None:
        every = self.instances(foundation_folder, noun, 0)[2]
        assert len(every) == QUERIES
        threshold = every[[3, 4]].mean().item()
        masks, corners, scores = self.instances(foundation_folder, noun, threshold)
        assert len(masks) == 4
        found = GroundedSam(models("sam3", detector="", box_threshold=threshold)).find(PHOTO, [noun])[noun]
        assert found.mask.shape == (40, 70) and np.array_equal(found.mask, masks.any(0).numpy())
        assert np.allclose(found.scores, scores)
        assert np.allclose(found.boxes[:, :2], corners[:, :2], atol=1e-3)
        assert np.allclose(found.boxes[:, :2] + found.boxes[:, 2:], corners[:, 2:], atol=1e-3)

    def test_sam3_needs_no_detector(self, models: Any) -> None:
        alone = find_priors(PHOTO, ["dog", "cat"], models("sam3", detector=""))
        assert list(alone) == ["dog", "cat"] and not torch.equal(alone["dog"], alone["cat"])
        beside = find_priors(PHOTO, ["cat"], models("sam3", detector="./nowhere"))
        assert torch.equal(beside["cat"], alone["cat"])

    def test_sam_needs_a_detector(self, models: Any) -> None:
        message = (
            "segmenter=.*: is a model of kind sam2, which finds no nouns without a detector; give one of kind sam3"
        )
        with pytest.raises(InputError, match=message):
            find_priors(PHOTO, ["cat"], models("sam2", detector=""))

    def test_nothing_passes_the_highest_threshold(self, models: Any) -> None:
        assert GroundedSam(models("sam3", box_threshold=1)).find(PHOTO, ["cat"]) == {}

    def test_a_noun_that_is_too_long(self, models: Any) -> None:
        with pytest.raises(InputError, match="noun 'zzzz.*': has 22 tokens, SAM 3 reads 16; shorten it"):
            find_priors(PHOTO, ["z" * 20], models("sam3"))

    @pytest.mark.parametrize("kind", ["segmenter", "sam2", "sam3"])
    def test_the_cache_answers_bit_for_bit(
        self, models: Any, foundation_folder: Path, tmp_path: Path, kind: str
    ) -> None:
        own = Path(shutil.copytree(foundation_folder, tmp_path / "models"))
        chosen = settings(own, tmp_path / "own", segmenter=str(own / kind))
        computed = GroundedSam(chosen).find(PHOTO, ["cat", "dog"])
        shutil.rmtree(own)
        kept = GroundedSam(chosen).find(PHOTO, ["cat", "dog"])
        assert computed.keys() == kept.keys() and kept
        for noun, place in kept.items():
            for name in ("mask", "boxes", "scores"):
                one, other = getattr(place, name), getattr(computed[noun], name)
                assert one.dtype == other.dtype and one.tobytes() == other.tobytes()

    def test_priors_of_any_image_are_those_of_its_file(self, models: Any, tmp_path: Path) -> None:
        PHOTO.save(tmp_path / "photo.png")
        priors = find_priors(tmp_path / "photo.png", ["Cat", "dog"], models("sam3"))
        found = GroundedSam(models("sam3")).find(PHOTO, ["Cat", "dog"])
        assert len(list((tmp_path / "cache/masks").iterdir())) == 1
        assert list(priors) == ["Cat", "dog"]
        for noun, prior in priors.items():
            assert prior.dtype == torch.bool and np.array_equal(prior, found[noun].mask)
        again = find_priors(torch.from_numpy(np.asarray(PHOTO) / 255).movedim(-1, 0), ["dog", "Cat"], models("sam3"))
        assert torch.equal(again["Cat"], priors["Cat"])
        assert len(list((tmp_path / "cache/masks").iterdir())) == 1

    def test_a_noun_that_is_not_found(self, models: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        message = "noun 'ghost': not found on the image; give a box or a mask, or lower models.box_threshold"
        place = nouns.Found(np.ones((40, 70), dtype=bool), np.zeros((1, 4)), np.zeros(1))
        monkeypatch.setattr(GroundedSam, "find", lambda self, image, asked: {n: place for n in asked if n == "cat"})
        with pytest.raises(InputError, match=message):
            find_priors(PHOTO, ["cat", "ghost"], models())
        with pytest.raises(InputError, match="nouns 'ghost', 'elf': not found"):
            find_priors(PHOTO, ["ghost", "elf"], models())
        assert find_priors(PHOTO, [], models()) == {}

    def test_captions(self, models: Any) -> None:
        assert caption(np.asarray(PHOTO), models()) == Blip(models()).caption(PHOTO)


class TestHub:
    """The hub's folders of SAM 2 and SAM 3 hold video models, with the image models inside."""

    @pytest.mark.parametrize("kind", ["sam2", "sam3"])
    def test_names_in_the_cache_need_no_network(
        self, models: Any, foundation_folder: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        expected = find_priors(PHOTO, ["cat", "dog"], models(kind))
        monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("asked the network"))
        snapshot = into_hub_cache(foundation_folder / kind, tmp_path / "hub")
        values = json.loads((snapshot / "preprocessor_config.json").read_text())
        (snapshot / "preprocessor_config.json").unlink()
        (snapshot / "processor_config.json").write_text(json.dumps({"image_processor": values, "target_size": SQUARE}))
        use_hub_cache(tmp_path / "hub", monkeypatch)
        priors = find_priors(PHOTO, ["cat", "dog"], replace(models(), segmenter="me/tiny"))
        assert priors.keys() == expected.keys()
        assert all(torch.equal(priors[noun], expected[noun]) for noun in priors)

    def copied(self, foundation_folder: Path, tmp_path: Path, kind: str, config: dict[str, Any], prefix: str) -> Path:
        own = Path(shutil.copytree(foundation_folder / kind, tmp_path / f"{kind}_video"))
        (own / "config.json").write_text(json.dumps(config))
        weights = load_file(own / "model.safetensors")
        named = {f"{prefix}{name}": weight for name, weight in weights.items()}
        save_file(named, own / "model.safetensors", {"format": "pt"})
        return own

    def test_sam2(self, models: Any, foundation_folder: Path, tmp_path: Path) -> None:
        config = json.loads((foundation_folder / "sam2/config.json").read_text())
        own = self.copied(foundation_folder, tmp_path, "sam2", config | {"model_type": "sam2_video"}, "")
        mask = segment_points(PHOTO, POINTS, LABELS, replace(models(), segmenter=str(own)))
        assert torch.equal(mask, segment_points(PHOTO, POINTS, LABELS, models("sam2")))

    def test_sam3(self, models: Any, foundation_folder: Path, tmp_path: Path) -> None:
        inner = Sam3Config.from_pretrained(foundation_folder / "sam3").to_dict()
        config = Sam3VideoConfig(detector_config=inner).to_dict()
        own = self.copied(foundation_folder, tmp_path, "sam3", config, "detector_model.")
        priors = find_priors(PHOTO, ["cat"], replace(models(), segmenter=str(own)))
        assert torch.equal(priors["cat"], find_priors(PHOTO, ["cat"], models("sam3"))["cat"])
