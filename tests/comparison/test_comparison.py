"""``locinv compare``: its words, and its numbers against ones worked out here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from locinv_pl.comparison.runs import Comparison, Variant
from locinv_pl.comparison.statistics import compare
from locinv_pl.comparison.tables import to_markdown
from locinv_pl.configs import CONFIGS
from locinv_pl.editing.settings import EditSettings
from locinv_pl.errors import InputError
from locinv_pl.method.policies import load_method

EXPERIMENTS = sorted(path.stem for path in (CONFIGS / "experiment").glob("*.yaml"))


@pytest.mark.parametrize(
    ("text", "variant", "label", "words"),
    [
        ("nti", Variant("nti"), "nti", ["method=nti"]),
        ("locinv:box", Variant("locinv", "box"), "locinv:box", ["method=locinv", "prior=box"]),
        ("nti+p2p", Variant("nti", None, "p2p"), "nti+p2p", ["method=nti", "edit=p2p"]),
        (
            "locinv:box+exact",
            Variant("locinv", "box", "exact"),
            "locinv:box+exact",
            ["method=locinv", "prior=box", "edit=exact"],
        ),
    ],
)
def test_variants(text: str, variant: Variant, label: str, words: list[str]) -> None:
    assert Variant.parse(text) == variant and variant.label == label and variant.words == words


def test_variants_that_differ_by_their_edits_share_inversions() -> None:
    assert Variant.parse("nti+p2p").inversion == Variant.parse("nti").inversion != Variant.parse("nti:box").inversion
    varied = Variant("nti", vary=("method.null_text.lr", 0.5))
    assert varied.label == "nti null_text.lr=0.5" and varied.words == ["method=nti", "method.null_text.lr=0.5"]


def test_words_are_its_own_or_the_runs() -> None:
    found = Comparison.parse(
        ["data=scenes", "methods=nti,locinv:box", "--data.seed=3", "output=here", "edits=false", "resamples=50"]
    )
    assert found.words == ("data=scenes", "data.seed=3")
    assert found == Comparison(["nti", "locinv:box"], found.words, Path("here"), edits=False, resamples=50)


def test_values_vary_one_after_the_other() -> None:
    words = ["methods=nti,dpl", "vary={method.null_text.lr: [0.1, 0.2], model.num_steps: [3]}"]
    varied = [(variant.name, variant.vary) for variant in Comparison.parse(words).variants]
    values = [("method.null_text.lr", 0.1), ("method.null_text.lr", 0.2), ("model.num_steps", 3)]
    assert varied == [(name, value) for name in ("nti", "dpl") for value in values]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiments(name: str) -> None:
    comparison = Comparison.parse([f"experiment={name}", "data=scenes"])
    assert comparison.words[-1] == "data=scenes"
    for variant in comparison.variants:
        method = {} if variant.is_editor else load_method(variant.name).to_dict()
        value: Any = {"method": method, "edit": EditSettings().to_dict()}
        if variant.vary is not None:
            for key in variant.vary[0].split("."):
                value = value[key]
            assert type(value) is type(variant.vary[1])


def test_words_override_an_experiment() -> None:
    assert Comparison.parse(["experiment=table1_box", "methods=nti"]).methods == ["nti"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "compare: no methods; name some"),
        (["methods=foo"], "methods=foo: no method or editor 'foo'; use some of ddim, direct"),
        (
            ["methods=nti+foo"],
            r"methods=nti\+foo: no edit 'foo'; use one of candidates, exact, locatedit, mas",
        ),
        (["nti"], "nti: not understood; write key=value"),
        (["experiment=foo"], "experiment=foo: no such file; use one of ablation_ovl"),
        (["methods=nti", "edits=maybe"], "edits=maybe: give true or false"),
        (["methods=nti", "resamples=0"], "resamples=0: give a whole number"),
        (["methods=nti", "generate=-1"], "generate=-1: give a whole number, 0 or more"),
        (["methods=nti", "vary=[1]"], "vary=.*: give lists by key"),
    ],
)
def test_refused_words(words: list[str], says: str) -> None:
    with pytest.raises(InputError, match=says):
        _ = Comparison.parse(words).variants


# -- the numbers ----------------------------------------------------------------------------------


def made_up(label: str, seed: int, images: int = 12) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    inversions, tests = [], []
    for n in range(images):
        nouns = 1 + n % 3
        iou, psnr = rng.random(nouns), 20 + 10 * rng.random()
        curve = rng.random((nouns, 4))
        score = {"iou": iou.tolist(), "iou_curve": curve.tolist(), "psnr": psnr, "ssim": rng.random(), "seconds": 1.0}
        inversions.append({"id": f"{n:02d}", **score})
        edits = []
        for kind in ("word_swap", "attribute")[: 1 + n % 2]:
            measured = {"background_psnr": 20 + rng.random(), "success": None if n == 0 else float(rng.random() > 0.5)}
            edits.append({"kind": kind, "prompt": "x", "structure_distance": rng.random(), **measured})
        tests.append({"id": f"{n:02d}", "reconstruction": {"psnr": psnr, "lpips": psnr / 100}, "edits": edits})
    rest = {"name": label, "prior": "segment", "edit": None, "vary": None}
    return {"label": label, **rest, "inversions": inversions, "tests": tests}


def test_means_are_over_nouns_images_and_edits() -> None:
    run = made_up("locinv", 0)
    (row,) = compare([run])["rows"]
    nouns = [value for score in run["inversions"] for value in score["iou"]]
    edits = [edit for test in run["tests"] for edit in test["edits"]]
    assert row["attention_iou"] == pytest.approx(sum(nouns) / len(nouns))
    assert row["psnr"] == pytest.approx(sum(score["psnr"] for score in run["inversions"]) / 12)
    assert row["background_psnr"] == pytest.approx(sum(edit["background_psnr"] for edit in edits) / len(edits))
    assert row["lpips"] == pytest.approx(row["psnr"] / 100)
    judged = [edit["success"] for edit in edits if edit["success"] is not None]
    assert row["success"] == pytest.approx(sum(judged) / len(judged)) and len(judged) == len(edits) - 1
    assert (row["num_images"], row["num_edits"]) == (12, 18) and row["background_lpips"] is None
    curve = np.mean([curve for score in run["inversions"] for curve in score["iou_curve"]], axis=0)
    assert row["iou_curve"] == pytest.approx(curve.tolist(), abs=1e-4)
    swaps = [edit["structure_distance"] for edit in edits if edit["kind"] == "word_swap"]
    assert row["kinds"]["word_swap"]["structure_distance"] == pytest.approx(sum(swaps) / 12)
    attributes = row["kinds"]["attribute"]
    assert attributes["num_edits"] == 6
    low, high = attributes["background_psnr_ci95"]
    assert low < attributes["background_psnr"] < high
    means, kinds = to_markdown({"rows": [row], "reference": None}).split("\n\n")
    cells = [cell.strip() for cell in kinds.splitlines()[2].split("|")]
    assert cells[1:4] == ["attribute", "locinv", "6"]
    assert cells[4] == f"{attributes['background_psnr']:.2f} ± {(high - low) / 2:.2f}"


def test_intervals_are_the_bootstrap_s_over_images() -> None:
    run = made_up("locinv", 1, images=30)
    (row,) = compare([run], resamples=4000)["rows"]
    rng = np.random.default_rng(7)
    means = []
    for _ in range(4000):
        drawn = [run["inversions"][n]["iou"] for n in rng.integers(0, 30, 30)]
        means.append(np.mean([value for values in drawn for value in values]))
    assert row["attention_iou_ci95"] == pytest.approx(np.quantile(means, [0.025, 0.975]).tolist(), abs=0.01)


def test_differences_are_those_of_the_same_images() -> None:
    nti, locinv = made_up("nti", 2), made_up("locinv", 3)
    locinv["inversions"] = locinv["inversions"][::-1][:10]  # another order, two images fewer
    content = compare([locinv, nti])
    row = content["rows"][0]
    theirs = {score["id"]: score["psnr"] for score in nti["inversions"]}
    gains = [score["psnr"] - theirs[score["id"]] for score in locinv["inversions"]]
    paired = row["paired"]["psnr"]
    assert paired["difference"] == pytest.approx(sum(gains) / 10) and paired["num_images"] == 10
    assert (paired["better"], paired["worse"]) == (sum(g > 0 for g in gains), sum(g < 0 for g in gains))
    less = row["paired"]["structure_distance"]  # less is better
    of = [{t["id"]: sum(e["structure_distance"] for e in t["edits"]) for t in run["tests"]} for run in (locinv, nti)]
    assert less["better"] == sum(of[0][id] < of[1][id] for id in of[0])
    assert content["rows"][1]["paired"] == {} and content["reference"] == "nti"
    assert compare([locinv])["rows"][0]["paired"] == {} and compare([locinv])["reference"] is None


def test_one_image_has_no_interval() -> None:
    content = compare([made_up("locinv", 0, images=1)])
    assert content["rows"][0]["psnr_ci95"] is None and "locinv" in to_markdown(content)
