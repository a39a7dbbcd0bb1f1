"""Priors and captions from foundation models: tiny random ones, in the layouts that the real ones have."""

import json
import shutil
import socket
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
from foundation_models import QUERIES, into_hub_cache, make_photo, make_tokenizer, settings, use_hub_cache
from PIL import Image
from transformers import (
    BlipForConditionalGeneration,
    BlipProcessor,
    GroundingDinoForObjectDetection,
    GroundingDinoProcessor,
    SamModel,
    SamProcessor,
)

from locinv_pl.errors import InputError
from locinv_pl.grounding import segmentation
from locinv_pl.grounding.captions import Blip
from locinv_pl.grounding.detection import assign_boxes, phrase_tokens
from locinv_pl.grounding.models import DataModels, FoundationModels
from locinv_pl.grounding.nouns import Found, GroundedSam


@pytest.fixture
def models(foundation_folder: Path, tmp_path: Path) -> FoundationModels:
    return settings(foundation_folder, tmp_path / "cache")


@pytest.fixture
def own_models(foundation_folder: Path, tmp_path: Path) -> FoundationModels:
    """With copies of the models' folders, to damage."""
    return settings(Path(shutil.copytree(foundation_folder, tmp_path / "models")), tmp_path / "cache")


def cached(models: FoundationModels, kind: str = "masks") -> list[Path]:
    return sorted((Path(models.cache) / kind).glob("*"))


def assert_same(one: dict[str, Found], other: dict[str, Found]) -> None:
    assert one.keys() == other.keys()
    for noun, found in one.items():
        for name in ("mask", "boxes", "scores"):
            assert np.array_equal(getattr(found, name), getattr(other[noun], name)), (noun, name)


class TestSettings:
    """What can't be is one line that names the key."""

    @pytest.mark.parametrize("key", ["box_threshold", "text_threshold"])
    @pytest.mark.parametrize("value", [-0.1, 1.01, float("nan")])
    @pytest.mark.parametrize(("kind", "start"), [(FoundationModels, "models"), (DataModels, "data.models")])
    def test_thresholds(self, key, value, kind, start):
        with pytest.raises(InputError, match=f"^{start}.{key}={value}: must lie between 0 and 1"):
            kind(**{key: value})

    def test_the_data_s_key_stays(self):
        assert DataModels().without_detector().KEY == "data.models"

    def test_device(self):
        with pytest.raises(InputError, match="^models.device=gpu: no such device"):
            FoundationModels(device="gpu")

    def test_a_device_that_is_not_here(self, models):
        if torch.cuda.is_available():
            pytest.skip("it is here")
        with pytest.raises(InputError, match="^models.device=cuda: can't be used"):
            Blip(replace(models, device="cuda")).caption(make_photo())


class TestAssignment:
    """Which noun a box belongs to."""

    phrases = ("dog", "hot dog", "zebras")

    @pytest.fixture(scope="class")
    def offsets(self, tmp_path_factory) -> list[tuple[int, int]]:
        tokenizer = make_tokenizer(tmp_path_factory.mktemp("words"))
        return tokenizer("dog. hot dog. zebras.", return_offsets_mapping=True).offset_mapping

    def test_tokens_by_position(self, offsets):
        own = phrase_tokens(self.phrases, offsets)  # [CLS] dog . hot dog . zebra ##s . [SEP]
        assert [row.nonzero().flatten().tolist() for row in own] == [[1], [3, 4], [6, 7]]

    def test_a_box_goes_to_the_noun_of_its_best_token(self, offsets):
        own = phrase_tokens(self.phrases, offsets)
        logits = torch.full((5, len(offsets)), -6.0)
        logits[0, 1] = 2  # the dog
        logits[1, 1], logits[1, 4] = 1.5, 1.6  # the same word within another phrase
        logits[2, 7] = 3  # a piece of a word
        logits[3, 3], logits[3, 6], logits[3, 2] = 1, 0.9, 0.95  # two nouns and a full stop
        scores, owners = assign_boxes(logits, own, 0.3, 0.25)
        assert owners.tolist() == [0, 1, 2, 1, -1]
        assert torch.allclose(scores, torch.tensor([2, 1.6, 3, 1, -6]).sigmoid())

    def test_thresholds(self, offsets):
        own = phrase_tokens(self.phrases, offsets)
        logits = torch.full((3, len(offsets)), -6.0)
        logits[0, 1] = torch.tensor(0.28).logit()  # too low for a box
        logits[1, 2], logits[1, 1] = 1, torch.tensor(0.28).logit()  # a box for its full stop; the noun will do
        logits[2, 2], logits[2, 1] = 1, torch.tensor(0.2).logit()  # and here it won't
        assert assign_boxes(logits, own, 0.3, 0.25)[1].tolist() == [-1, 0, -1]
        assert assign_boxes(logits, own, 0.3, 0.1)[1].tolist() == [-1, 0, 0]
        assert assign_boxes(logits, own, 0.0, 0.0)[1].tolist() == [0, 0, 0]
        assert assign_boxes(logits, own, 1.0, 0.0)[1].tolist() == [-1, -1, -1]

    def test_a_noun_without_tokens_has_no_boxes(self):
        own = torch.tensor([[False, False], [False, True]])
        assert assign_boxes(torch.tensor([[9.0, -9.0]]), own, 0.0, 0.0)[1].tolist() == [1]
        assert assign_boxes(torch.tensor([[9.0, -9.0]]), own[:1], 0.0, 0.0)[1].tolist() == [-1]


class TestFinding:
    """Boxes and masks, by transformers' own way of reading the networks."""

    @torch.no_grad()
    def detections(self, models: FoundationModels, photo: Image.Image, text: str) -> tuple[torch.Tensor, torch.Tensor]:
        network = GroundingDinoForObjectDetection.from_pretrained(models.detector).eval()
        processor = GroundingDinoProcessor.from_pretrained(models.detector)
        inputs = processor(images=photo, text=text, return_tensors="pt")
        found = processor.post_process_grounded_object_detection(
            network(**inputs),
            threshold=models.box_threshold,
            text_threshold=models.text_threshold,
            target_sizes=[photo.size[::-1]],
        )[0]
        corners = found["boxes"].clamp(min=0).minimum(torch.tensor(photo.size * 2))
        order = found["scores"].argsort(descending=True, stable=True)
        return corners[order], found["scores"][order]

    @torch.no_grad()
    def segments(self, models: FoundationModels, photo: Image.Image, corners: torch.Tensor) -> torch.Tensor:
        network = SamModel.from_pretrained(models.segmenter).eval()
        processor = SamProcessor.from_pretrained(models.segmenter)
        inputs = processor(images=photo, input_boxes=[corners.tolist()], return_tensors="pt")
        out = network(**inputs)
        masks = processor.post_process_masks(out.pred_masks, inputs["original_sizes"], inputs["reshaped_input_sizes"])
        return torch.stack([m[best] for m, best in zip(masks[0], out.iou_scores[0].argmax(-1), strict=True)])

    @pytest.mark.parametrize("size", [(70, 40), (33, 90), (64, 64)])
    @pytest.mark.parametrize("noun", ["dog", "teddy bear"])
    def test_one_noun_agrees_with_transformers(self, models, size, noun):
        photo = make_photo(*size)
        found = GroundedSam(models).find(photo, [noun])[noun]
        corners, scores = self.detections(models, photo, f"{noun}.")
        masks = self.segments(models, photo, corners)
        seen = masks.any(-1).any(-1)
        assert seen.sum() > 1 and not masks.all()
        assert found.mask.shape == size[::-1] and found.mask.dtype == bool
        assert np.array_equal(found.mask, masks.any(0).numpy())
        assert (found.boxes.dtype, found.scores.dtype) == (np.float32, np.float32)
        assert np.allclose(found.scores, scores[seen])
        assert np.allclose(found.boxes[:, :2], corners[seen, :2], atol=1e-4)
        assert np.allclose(found.boxes[:, :2] + found.boxes[:, 2:], corners[seen, 2:], atol=1e-4)

    def test_thresholds_are_those_of_transformers(self, models):
        photo = make_photo()
        _, scores = self.detections(models, photo, "dog.")
        higher = replace(models, box_threshold=scores[[3, 4]].mean().item())
        corners, four = self.detections(higher, photo, "dog.")
        assert len(four) == 4
        found = GroundedSam(higher).find(photo, ["dog"])["dog"]
        assert set(found.scores) <= set(four.numpy())
        assert np.array_equal(found.mask, self.segments(models, photo, corners).any(0).numpy())

    def test_boxes_lie_inside_the_image(self, models):
        photo = make_photo(33, 90)
        for found in GroundedSam(models).find(photo, ["cat", "dog", "zebra"]).values():
            assert (found.boxes >= 0).all()
            assert (found.boxes[:, :2] + found.boxes[:, 2:] <= np.array(photo.size) + 1e-4).all()
            assert (np.diff(found.scores) <= 0).all()

    def test_every_box_has_one_noun(self, models, monkeypatch):
        monkeypatch.setattr(GroundedSam, "_segment", lambda self, image, boxes: torch.ones(len(boxes), 40, 70) > 0)
        found = GroundedSam(models).find(make_photo(), ["cat", "dog", "zebra", "teddy bear"])
        assert len(found) > 1
        assert sum(len(f.boxes) for f in found.values()) == QUERIES

    def test_nothing_passes_the_highest_threshold(self, own_models):
        (Path(own_models.segmenter) / "model.safetensors").unlink()  # it isn't asked; its configuration says what it is
        nowhere = own_models
        assert GroundedSam(replace(nowhere, box_threshold=1)).find(make_photo(), ["cat", "dog"]) == {}
        assert GroundedSam(replace(nowhere, text_threshold=1)).find(make_photo(), ["cat", "dog"]) == {}

    def test_the_union_of_what_is_seen(self, models, monkeypatch):
        masks = torch.zeros(4, 40, 70, dtype=torch.bool)
        masks[0, :9, :9] = masks[1, 20:30, 5:8] = masks[2, 1, 1] = True
        corners = torch.arange(16.0).reshape(4, 4)
        detected = corners, torch.tensor([0.9, 0.7, 0.6, 0.5]), torch.tensor([1, 1, 0, 2])
        monkeypatch.setattr(GroundedSam, "_detect", lambda *_: detected)
        monkeypatch.setattr(GroundedSam, "_segment", lambda *_: masks)
        found = GroundedSam(models).find(make_photo(), ["dog", "cat", "zebra"])
        assert list(found) == ["dog", "cat"]  # of the zebra SAM saw nothing
        assert np.array_equal(found["dog"].mask, (masks[0] | masks[1]).numpy())
        assert found["dog"].boxes.tolist() == [[0, 1, 2, 2], [4, 5, 2, 2]]
        assert found["cat"].mask.sum() == 1 and found["cat"].boxes.shape == (1, 4)

    def test_boxes_at_once_change_nothing(self, models, tmp_path, monkeypatch):
        together = GroundedSam(models).find(make_photo(), ["cat", "dog"])
        monkeypatch.setattr(segmentation, "AT_ONCE", 5)
        other = GroundedSam(replace(models, cache=str(tmp_path / "other")))
        assert_same(together, other.find(make_photo(), ["cat", "dog"]))

    def test_twice_the_same(self, models, tmp_path):
        other = GroundedSam(replace(models, cache=str(tmp_path / "other")))
        nouns = ["dog", "zebra"]
        assert_same(GroundedSam(models).find(make_photo(), nouns), other.find(make_photo(), nouns))

    def test_nouns_as_they_are_given(self, models):
        found = GroundedSam(models).find(make_photo(), ["Teddy  Bear", "teddy bear", "...", ""])
        assert list(found) == ["Teddy  Bear", "teddy bear"]
        assert np.array_equal(found["Teddy  Bear"].mask, found["teddy bear"].mask)

    def test_no_nouns_need_no_network(self, models):
        nowhere = GroundedSam(replace(models, detector="./nowhere"))
        assert nowhere.find(make_photo(), []) == nowhere.find(make_photo(), [" ", "?"]) == {}

    def test_too_many_nouns(self, models):
        with pytest.raises(InputError, match="40 nouns for one image: their text has 82 tokens.* reads 32; give few"):
            GroundedSam(models).find(make_photo(), [f"word{n}" for n in range(40)])


class TestCaptions:
    """BLIP."""

    def test_its_own_beam_search(self, models):
        photo = make_photo()
        network = BlipForConditionalGeneration.from_pretrained(models.captioner).eval()
        processor = BlipProcessor.from_pretrained(models.captioner)
        inputs = processor(images=photo, return_tensors="pt")
        tokens = network.generate(**inputs, num_beams=3, max_length=20, min_length=5, do_sample=False)
        caption = Blip(models).caption(photo)
        assert isinstance(caption, str) and caption
        assert caption == processor.tokenizer.decode(tokens[0], skip_special_tokens=True).strip()

    def test_it_is_of_the_image_and_kept(self, own_models):
        one, other = make_photo(), make_photo(90, 60, seed=4)
        first = Blip(own_models)
        captions = [first.caption(one), first.caption(other)]
        assert captions[0] != captions[1]
        shutil.rmtree(own_models.captioner)
        again = Blip(own_models)
        assert [again.caption(one.convert("RGBA")), again.caption(other)] == captions
        with pytest.raises(InputError):
            again.caption(make_photo(seed=5))

    def test_a_damaged_file(self, models):
        caption = Blip(models).caption(make_photo())
        (path,) = cached(models, "captions")
        path.write_text(json.dumps({**json.loads(path.read_text()), "answer": "a dog"}))
        assert Blip(models).caption(make_photo()) == caption


class TestCache:
    """What was found is found again without a network, and only that."""

    def test_a_second_call_loads_nothing(self, own_models):
        found = GroundedSam(own_models).find(make_photo(), ["cat", "dog"])
        shutil.rmtree(Path(own_models.detector).parent)
        again = GroundedSam(own_models)
        assert_same(found, again.find(make_photo(), ["cat", "dog"]))
        assert_same(found, again.find(make_photo().convert("RGBA"), ["cat", "dog"]))
        assert len(cached(own_models)) == 1
        with pytest.raises(InputError):
            again.find(make_photo(seed=1), ["cat", "dog"])

    def test_not_finding_is_kept_too(self, own_models):
        blind = replace(own_models, box_threshold=1.0)
        assert GroundedSam(blind).find(make_photo(), ["cat"]) == {}
        shutil.rmtree(blind.detector)
        assert GroundedSam(blind).find(make_photo(), ["cat"]) == {}

    def test_the_order_of_the_nouns_is_all_one(self, models):
        one = GroundedSam(models).find(make_photo(), ["zebra", "cat", "dog"])
        other = GroundedSam(models).find(make_photo(), ["dog", "zebra", "cat"])
        assert_same(one, {noun: other[noun] for noun in one})
        assert len(cached(models)) == 1
        assert [n for n in ("dog", "zebra", "cat") if n in other] == list(other)

    def test_anything_else_is_another_question(self, models, monkeypatch):
        asked = []
        monkeypatch.setattr(GroundedSam, "_locate", lambda *question: asked.append(question) or {})
        photo, pixel = make_photo(), make_photo()
        pixel.putpixel((3, 3), (0, 0, 0))
        questions = [
            (photo, ["cat", "dog"], models),
            (pixel, ["cat", "dog"], models),
            (photo, ["cat"], models),
            (photo, ["cat dog"], models),
            (photo, ["cat", "dog"], replace(models, box_threshold=0.1)),
            (photo, ["cat", "dog"], replace(models, text_threshold=0.1)),
            (photo, ["cat", "dog"], replace(models, detector="another")),
            (photo, ["cat", "dog"], replace(models, segmenter="another")),
        ]
        for n, (image, nouns, which) in enumerate(questions, start=1):
            for _ in range(2):
                GroundedSam(which).find(image, nouns)
            assert len(asked) == len(cached(models)) == n

    def test_the_same_bytes_in_another_shape_are_another_image(self, models, monkeypatch):
        monkeypatch.setattr(GroundedSam, "_locate", lambda *_: {})
        for size in ((20, 30), (30, 20)):
            GroundedSam(models).find(Image.new("RGB", size), ["cat"])
        assert len(cached(models)) == 2

    @pytest.mark.parametrize(
        "damage",
        [
            lambda text: text[: len(text) // 2],
            lambda text: "",
            lambda text: "[]",
            lambda text: '{"answer": {}}',
            lambda text: text.replace('"counts": "', '"counts": "1'),
            lambda text: text.replace('"dog"', '"dot"'),
        ],
    )
    def test_damaged_files_are_made_again(self, models, damage):
        finder = GroundedSam(models)
        found = finder.find(make_photo(), ["dog"])
        (path,) = cached(models)
        whole = path.read_text()
        assert damage(whole) != whole
        path.write_text(damage(whole))
        assert_same(found, finder.find(make_photo(), ["dog"]))
        assert path.read_text() == whole

    def test_not_even_text(self, models):
        found = GroundedSam(models).find(make_photo(), ["dog"])
        (path,) = cached(models)
        path.write_bytes(b"\xff\x00" * 30)
        assert_same(found, GroundedSam(models).find(make_photo(), ["dog"]))

    def test_a_folder_that_cannot_be_one(self, models, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(InputError, match="^models.cache=.*file: can't be written"):
            Blip(replace(models, cache=str(tmp_path / "file"))).caption(make_photo())


def ask(models: FoundationModels, part: str) -> None:
    if part == "captioner":
        Blip(models).caption(make_photo())
    else:
        GroundedSam(models).find(make_photo(), ["dog"])


class TestLoading:
    """Folders and hub names, good and bad; what can't be loaded is one line that names the model and the mend."""

    parts = ("detector", "segmenter", "captioner")

    def message(self, models: FoundationModels, part: str) -> str:
        with pytest.raises(InputError) as caught:
            ask(models, part)
        message = str(caught.value)
        assert message.startswith(f"models.{part}={getattr(models, part)}: ")
        assert "\n" not in message
        return message

    def test_frozen_and_in_float32(self, own_models):
        SamModel.from_pretrained(own_models.segmenter).half().save_pretrained(own_models.segmenter)
        finder, captioner = GroundedSam(own_models), Blip(own_models)
        for network, _ in (finder._detector, finder._segmenter, captioner._captioner):
            assert not network.training
            assert not any(p.requires_grad for p in network.parameters())
            assert {p.dtype for p in network.parameters()} == {torch.float32}

    def hub_layout(self, models: FoundationModels, part: str, to: Path) -> None:
        """The files as the hub's models have them, in the hub's cache under me/tiny."""
        snapshot = into_hub_cache(getattr(models, part), to)
        processor = json.loads((snapshot / "processor_config.json").read_text())
        (snapshot / "processor_config.json").unlink()
        (snapshot / "preprocessor_config.json").write_text(
            json.dumps({**processor["image_processor"], "processor_class": processor["processor_class"]})
        )
        if part != "segmenter":
            (snapshot / "tokenizer.json").unlink()
            shutil.copy(Path(models.detector).parent / "vocab.txt", snapshot)

    def test_hub_names_in_the_cache_need_no_network(self, models, tmp_path, monkeypatch):
        answers = GroundedSam(models).find(make_photo(), ["dog"]), Blip(models).caption(make_photo())
        monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("asked the network"))
        for part in self.parts:
            self.hub_layout(models, part, tmp_path / part)
        finder, captioner = (kind(replace(models, cache=str(tmp_path / "new"))) for kind in (GroundedSam, Blip))
        for part, its in (("detector", finder), ("segmenter", finder), ("captioner", captioner)):
            use_hub_cache(tmp_path / part, monkeypatch)
            its.models = replace(its.models, **{part: "me/tiny"})
            getattr(its, f"_{part}")
            if part == "segmenter":
                assert its._kind == "sam"
        assert_same(answers[0], finder.find(make_photo(), ["dog"]))
        assert answers[1] == captioner.caption(make_photo())

    @pytest.mark.parametrize("part", parts)
    def test_no_folder(self, models, tmp_path, part):
        for name in (str(tmp_path / "nowhere"), "./nowhere", "models/of/mine", str(tmp_path / "file")):
            (tmp_path / "file").write_text("")
            message = self.message(replace(models, **{part: name}), part)
            assert "no such folder; download the model and give its folder, or give a hub id" in message

    @pytest.mark.parametrize("part", parts)
    def test_an_unknown_hub_name_without_network(self, models, part, monkeypatch):
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        message = self.message(replace(models, **{part: "nobody/nothing"}), part)
        assert "hub can't be reached; download the model and give its folder" in message

    def test_an_unknown_hub_name(self, models, monkeypatch):
        def refuse(*_, **__):
            raise ValueError

        monkeypatch.setattr(huggingface_hub, "model_info", refuse)
        assert "the hub has no such model" in self.message(replace(models, captioner="nobody/nothing"), "captioner")

    @pytest.mark.parametrize("part", parts)
    @pytest.mark.parametrize("file", ["config.json", "model.safetensors", "processor_config.json"])
    def test_incomplete(self, own_models, part, file):
        (Path(getattr(own_models, part)) / file).unlink()
        assert "can't be loaded" in self.message(own_models, part)

    @pytest.mark.parametrize("keep", [0, 4, 9000])
    def test_truncated(self, own_models, keep):
        path = Path(own_models.segmenter) / "model.safetensors"
        path.write_bytes(path.read_bytes()[:keep])
        assert "download it again, whole" in self.message(own_models, "segmenter")

    def test_another_kind(self, models):
        swapped = replace(models, detector=models.captioner)
        assert "is a model of kind blip; give one of kind grounding-dino" in self.message(swapped, "detector")
        swapped = replace(models, segmenter=models.captioner)
        assert "is a model of kind blip; give one of kind sam, sam2 or sam3" in self.message(swapped, "segmenter")

    def test_lacking_weights(self, own_models):
        network = BlipForConditionalGeneration.from_pretrained(own_models.captioner)
        kept = {name: weight for name, weight in network.state_dict().items() if "text_decoder" not in name}
        network.save_pretrained(own_models.captioner, state_dict=kept)
        message = self.message(own_models, "captioner")
        assert "lacks the weights of a BlipForConditionalGeneration" in message

    @pytest.mark.parametrize("part", ["detector", "captioner"])
    def test_no_vocabulary(self, own_models, part):
        (Path(getattr(own_models, part)) / "tokenizer.json").unlink()
        assert "has no vocabulary" in self.message(own_models, part)
