"""The command line: its grammar, its configs, its one-line errors, and runs of several processes."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import torch
import yaml
from conftest import make_image, write_images, write_tiny_model
from lightning.pytorch.callbacks import EarlyStopping
from PIL import Image
from processes import MARKS, Run, write_namesakes

from locinv_pl.cli import lightning_cli
from locinv_pl.cli.lightning_cli import LocInvCLI, translate
from locinv_pl.cli.main import main
from locinv_pl.configs import CONFIGS
from locinv_pl.errors import InputError
from locinv_pl.method.policies import LOSSES, Method, load_method
from locinv_pl.run import batch
from locinv_pl.types import Inversion

ROOT = Path(__file__).parents[2]
PRESETS = sorted(p.stem for p in (CONFIGS / "method").glob("*.yaml"))
T = 2


@pytest.fixture(scope="module")
def roomy_folder(tmp_path_factory) -> Path:
    """The tiny model with room for the captions of drawn scenes."""
    return write_tiny_model(tmp_path_factory.mktemp("roomy"), levels=3, length=77)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch) -> None:
    """Every run starts in an empty folder, as train.py."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train.py"])


def words(backbone: Path, *more: str, steps: int = T) -> list[str]:
    """A short run's words; its images are still to name."""
    return [
        f"backbone={backbone}",
        f"model.num_steps={steps}",
        "model.resolution=8",
        "data.size=32",
        "data.batch_size=1",
        "method.tokens.max_steps=1",
        "method.null_text.max_steps=1",
        "callbacks=plain",
        "trainer.accelerator=cpu",
        *([] if any("devices" in word for word in more) else ["trainer.devices=1"]),
        "output=run",
        *more,
    ]


def scenes(count: int) -> list[str]:
    return ["data=scenes", f"data.num_images={count}"]


@pytest.fixture
def refused(capsys) -> Callable[[list[str]], str]:
    """Runs a command that must end with one line, and returns the line."""

    def run(command: list[str]) -> str:
        with pytest.raises(SystemExit) as caught:
            main(command)
        message = caught.value.code
        assert isinstance(message, str)
        assert message.startswith("train.py: ")
        assert "\n" not in message
        assert capsys.readouterr().err == ""
        return message

    return run


@pytest.fixture
def built(monkeypatch) -> Callable[..., LocInvCLI]:
    """Builds everything that a command names, and runs nothing."""

    def build(*command: str) -> LocInvCLI:
        seen: list[LocInvCLI] = []
        monkeypatch.setattr(LocInvCLI, "_run_subcommand", lambda self, subcommand: seen.append(self))
        monkeypatch.setattr(sys, "argv", ["train.py"])
        main(list(command))
        return seen[0]

    return build


def write_coco(root: Path, count: int) -> Path:
    """A COCO-format folder of images with "a cat and a dog"."""
    (root / "images").mkdir(parents=True)
    (root / "annotations").mkdir()
    images, annotations, captions = [], [], []
    for n in range(count):
        pixels = (make_image(seed=n).movedim(0, -1) * 255).round().to(torch.uint8).numpy()
        Image.fromarray(pixels).save(root / f"images/p{n}.png")
        images.append({"id": n, "file_name": f"p{n}.png", "width": 32, "height": 32})
        for category, box in ((1, [2, 4, 14, 10]), (2, [20, 18, 10, 12])):
            row = {"id": len(annotations) + 1, "image_id": n, "category_id": category, "bbox": box, "iscrowd": 0}
            x, y, w, h = box
            annotations.append({**row, "area": w * h, "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]]})
        captions.append({"id": n, "image_id": n, "caption": "a cat and a dog"})
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    tables = {
        "instances": {"images": images, "categories": categories, "annotations": annotations},
        "captions": {"images": images, "annotations": captions},
    }
    for name, table in tables.items():
        (root / f"annotations/{name}.json").write_text(json.dumps(table))
    return root


def inversions(root: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted((root / "inversions").glob("*.safetensors"))}


def config(group: str, name: str) -> str:
    return str(CONFIGS / group / f"{name}.yaml")


class TestTranslate:
    """Words to LightningCLI's arguments."""

    @pytest.mark.parametrize(
        "given, expected",
        [
            ([], ["fit"]),
            (["fit"], ["fit"]),
            (["validate", "data.seed=1"], ["validate", "--data.seed=1"]),
            (["trainer.devices=2"], ["fit", "--trainer.devices=2"]),
            (["data=scenes"], ["fit", f"--data={config('data', 'scenes')}"]),
            (["method=nti"], ["fit", f"--model.method={config('method', 'nti')}"]),
            (["method.tokens.lr=1"], ["fit", "--model.method.tokens.lr=1"]),
            (["method={name: x}"], ["fit", "--model.method={name: x}"]),
            (["callbacks=plain"], ["fit", f"--trainer.callbacks={config('callbacks', 'plain')}"]),
            (["backbone=a/b"], ["fit", "--model.backbone=a/b"]),
            (["prior=box"], ["fit", "--data.prior=box"]),
            (["output=o"], ["fit", "--trainer.default_root_dir=o"]),
            (["data.root=a=b"], ["fit", "--data.root=a=b"]),
            (["data.root="], ["fit", "--data.root="]),
            (["--ckpt_path", "epoch=1-step=4.ckpt"], ["fit", "--ckpt_path", "epoch=1-step=4.ckpt"]),
            (["--print_config", "prior=box"], ["fit", "--print_config", "--data.prior=box"]),
            (["--print_config=skip_null"], ["fit", "--print_config=skip_null"]),
            (["--data.seed=1"], ["fit", "--data.seed=1"]),
            (["fit", "--help"], ["fit", "--help"]),
        ],
    )
    def test_cases(self, given, expected):
        assert translate(given) == expected
        assert translate(expected) == expected

    def test_config_files_then_groups_then_overrides(self):
        given = ["model.num_steps=5", "model=embedded", "prior=box", "data=scenes", "--config", "my.yaml"]
        assert translate(given) == [
            "fit",
            "--config",
            "my.yaml",
            f"--model={config('model', 'embedded')}",
            f"--data={config('data', 'scenes')}",
            "--model.num_steps=5",
            "--data.prior=box",
        ]
        assert translate(translate(given)) == translate(given)

    def test_a_group_takes_any_yaml_file(self):
        Path("mine.yaml").write_text("name: mine")
        assert translate(["method=mine.yaml"]) == ["fit", "--model.method=mine.yaml"]

    @pytest.mark.parametrize(
        "word, says",
        [
            ("data=nowhere", r"data=nowhere: no such config; use one of .*coco_edit, .*scenes.*, or a YAML file"),
            ("method=foo", "use one of .*ddim, .*locinv, "),
            ("scenes", "scenes: not understood; write key=value"),
            ("foresee", "foresee: not understood"),
        ],
    )
    def test_errors(self, word, says):
        with pytest.raises(InputError, match=says):
            translate([word])


class TestConfigs:
    """Every file under configs/ is one that works."""

    def test_default(self, built):
        cli = built("trainer.accelerator=cpu", "trainer.devices=1")
        assert cli.model.method == Method()
        assert (cli.model.num_steps, cli.model.resolution, cli.model.backbone_name) == (50, 16, "embedded")
        assert cli.datamodule.name == "scenes"
        assert type(cli.trainer.strategy).__name__ == "ImageParallelStrategy"
        assert cli.trainer.max_epochs == 1
        assert cli.trainer.default_root_dir.endswith("outputs/scenes-locinv-segment")

    @pytest.mark.parametrize("name", PRESETS)
    def test_methods(self, built, name):
        method = built(f"method={name}", "trainer=cpu").model.method
        assert method == load_method(name)
        assert method.name == name

    def test_our_defaults_are_the_preset(self):
        assert load_method("locinv") == Method()

    @pytest.mark.parametrize("data", ["folder", "pie_bench"])
    def test_all_images_are_taken_where_no_number_is_named(self, built, data):
        assert built(f"data={data}", "trainer.accelerator=cpu", "trainer.devices=1").datamodule.num_images is None

    @pytest.mark.parametrize("group", ["data", "model", "callbacks"])
    def test_groups(self, built, group):
        for path in sorted((CONFIGS / group).glob("*.yaml")):
            cli = built(f"{group}={path.stem}", "trainer.accelerator=cpu", "trainer.devices=1")
            content = yaml.safe_load(path.read_text())
            if group == "data":
                assert type(cli.datamodule).__name__ == content["class_path"].rsplit(".", 1)[-1]
                kept = {key: value for key, value in content["init_args"].items() if not isinstance(value, dict)}
                assert {key: vars(cli.datamodule)[key] for key in kept} == kept
            elif group == "model":
                model = cli.model
                own = model.method.to_dict()
                for key, value in content.pop("method", {}).items():
                    assert own[key] == (own[key] | value if isinstance(value, dict) else value)
                values = {
                    "backbone": model.backbone_name,
                    "dtype": model.dtype_name,
                    **vars(model),
                    **model.options.given,
                }
                assert {key: values[key] for key in content} == content
            elif group == "callbacks":
                kinds = {type(callback).__name__ for callback in cli.trainer.callbacks}
                assert kinds >= {entry["class_path"].rsplit(".", 1)[-1] for entry in content}

    @pytest.mark.parametrize("name", sorted(p.stem for p in (CONFIGS / "trainer").glob("*.yaml")))
    def test_trainers(self, built, refused, name):
        if "gpu" in name and not torch.cuda.is_available():
            assert "gpu" in refused([f"trainer={name}"])
            return
        content = yaml.safe_load(Path(config("trainer", name)).read_text())
        trainer = built(f"trainer={name}").trainer
        assert type(trainer.strategy).__name__ == "ImageParallelStrategy"
        assert trainer.precision == content.get("precision", "32-true")

    @pytest.mark.parametrize(
        "cores, threads, more, processes, is_told",
        [
            (8, None, ["data.num_images=9"], 3, True),  # in batches of 4
            (4, None, ["data.num_images=9"], 3, False),
            (2, None, ["data.num_images=9"], 2, False),
            (8, None, ["data.num_images=1"], 1, True),
            (8, None, ["data.num_images=1", "trainer.devices=2"], 2, False),
            (1, None, ["data.num_images=9"], 1, False),
            (8, "4", ["data.num_images=9"], 2, False),
            (8, None, ["data.num_images=9", "data.shard=1/2", "data.batch_size=1"], 5, False),
            (8, None, ["data=folder", "data.root=own", "data.batch_size=1"], 3, True),
            (8, None, ["data=folder", "data.root=missing"], 1, False),
            (8, None, ["trainer.strategy=auto"], 1, False),
        ],
    )
    def test_auto_is_a_process_a_core(self, built, monkeypatch, capsys, cores, threads, more, processes, is_told):
        monkeypatch.setattr(lightning_cli, "num_cores", lambda: cores)
        monkeypatch.delenv("OMP_NUM_THREADS")
        monkeypatch.setenv("OMP_NUM_THREADS", threads) if threads else None
        for mark in MARKS:
            monkeypatch.delenv(mark, raising=False)
        write_images(Path("own"), 3)
        assert built("trainer.accelerator=cpu", *more).trainer.num_devices == processes
        assert ("OMP_NUM_THREADS" in capsys.readouterr().err) == is_told
        if processes > 1 and "trainer.devices=2" not in more:
            assert sys.argv[-1] == f"--trainer.devices={processes}"  # which the processes that Lightning starts read
            monkeypatch.setenv("LOCAL_RANK", "0")
            assert built("trainer.accelerator=cpu", *more).trainer.num_devices == 1  # somebody else says how many

    def test_overrides_win_wherever_they_stand(self, built):
        cli = built(
            "method.guidance_scale=3",
            "data.seed=7",
            "trainer=cpu",
            "model.num_steps=5",
            "data=scenes",
            "method=nti",
            "model=embedded",
            "prior=box",
        )
        assert (cli.model.num_steps, cli.datamodule.seed, cli.datamodule.prior) == (5, 7, "box")
        assert (cli.model.method.name, cli.model.method.guidance_scale) == ("nti", 3)
        assert cli.trainer.default_root_dir.endswith("outputs/scenes-nti-box")

    def test_print_config(self, capsys):
        with pytest.raises(SystemExit) as caught:
            main(["method=nti", "model.num_steps=7", "--print_config"])
        assert caught.value.code == 0
        printed = yaml.safe_load(capsys.readouterr().out)["model"]
        assert (printed["method"]["name"], printed["num_steps"]) == ("nti", 7)

    def test_help_of_fit(self, capsys):
        with pytest.raises(SystemExit) as caught:
            main(["fit", "--help"])
        assert caught.value.code == 0
        assert "--model.num_steps" in capsys.readouterr().out

    def test_a_saved_config_makes_the_same_run(self, tiny_folder, built):
        write_coco(Path("coco"), 1)
        main(words(tiny_folder, "data=coco_edit", "data.root=coco", "method=nti", steps=1))
        cli = built("--config", "run/config.yaml")
        assert cli.model.method == Method.from_dict(json.loads(Path("run/settings.json").read_text())["method"])
        assert cli.trainer.default_root_dir == "run"
        assert cli.datamodule.root == "coco"


class TestRefusals:
    """Bad input: one line, another exit code than 0, no traceback."""

    @pytest.mark.parametrize(
        "word, says",
        [
            ("foo.bar=1", "foo.bar"),
            ("model.foo=1", "model.foo"),
            ("trainer.foo=1", "trainer.foo"),
            ("method.tokens.foo=1", "foo"),
            ("foo=scenes", "foo"),
            ("data=foo", "data=foo: no such config"),
            ("method=foo", "method=foo: no such config"),
            ("callbacks=foo", "callbacks=foo: no such config"),
            ("--config=foo.yaml", "foo.yaml"),
            ("model.num_steps=abc", "num_steps.*abc"),
            ("model.num_steps=0", "model.num_steps=0: must lie between"),
            ("model.num_steps=1001", "model.num_steps=1001: must lie between"),
            ("model.resolution=7", "model.resolution=7.*use one of 8, 4"),
            ("model.dtype=foo", "model.dtype=foo"),
            ("backbone=./nowhere", "backbone=./nowhere: no such folder"),
            ("prior=foo", "prior.*segment.*box.*foo"),
            ("data.batch_size=0", "train.py: data.batch_size=0: must be 1 or more$"),
            ("data.num_images=0", "num_images=0"),
            ("data.size=3", "size=3"),
            ("method.tokens.lr=-1", "lr=-1.0 must be more than 0"),
            ("method.tokens.lr=abc", "method.tokens.lr.*abc"),
            ("method.tokens.policy=abc", "method.tokens.policy.*abc"),
            ("method.tokens.max_steps=-1", "max_steps=-1 must be 0 or more"),
            ("trainer.precision=foo", "trainer.precision.*bf16-mixed"),
            ("trainer.devices=foo", "devices"),
            ("trainer.devices=0", "devices='0'"),
            ("trainer.accelerator=foo", "accelerator='foo'"),
            ("trainer.strategy=foo", "strategy='foo'"),
            ("trainer.limit_train_batches=0.5", "limit_train_batches"),
            ("seed_everything=abc", "seed_everything"),
            ("trainer.strategy=ddp", "DDPStrategy shares out the training of weights.*leave it out"),
            ("trainer.strategy=ddp_spawn", "DDPStrategy shares out the training of weights"),
            ("--ckpt_path=nothing.ckpt", "ckpt_path=nothing.ckpt: a run has no checkpoints"),
            (
                "--trainer.callbacks+={class_path: lightning.pytorch.callbacks.EarlyStopping, init_args: {monitor: x}}",
                "EarlyStopping: monitors 'x'",
            ),
            ("method.tokens.lr=1e38", r"lr=1e\+38 must be more than 0 and at most 1000"),
            ("method.null_text.lr=1e38", r"lr=1e\+38 must be more than 0 and at most 1000"),
            ("method.tokens.weight_decay=1e38", "weight_decay"),
            ("method.tokens.similarity.weight=1e38", "weight"),
            ("method.guidance_scale=1e38", "guidance_scale"),
        ],
    )
    def test_one_line(self, roomy_folder, refused, word, says):
        assert re.search(says, refused([*words(roomy_folder, *scenes(1)), word]))
        assert not Path("run/inversions").exists()

    @pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
    def test_no_gpu(self, roomy_folder, refused):
        assert "gpu" in refused([*words(roomy_folder, *scenes(1)), "trainer.accelerator=gpu"])

    def test_a_refused_value_leaves_the_folder_free_for_a_better_one(self, roomy_folder, refused):
        refused([*words(roomy_folder, *scenes(1)), "model.resolution=7"])
        main(words(roomy_folder, *scenes(1)))
        assert len(inversions(Path("run"))) == 1

    def test_missing_dataset(self, tiny_folder, refused):
        line = refused(words(tiny_folder, "data=coco_edit", "data.root=missing"))
        assert "missing: no such folder" in line

    @pytest.mark.parametrize("content", [b"", b"no image", "half"])
    def test_unreadable_image(self, tiny_folder, refused, content):
        coco = write_coco(Path("coco"), 3)
        whole = (coco / "images/p1.png").read_bytes()
        (coco / "images/p1.png").write_bytes(whole[: len(whole) // 2] if content == "half" else content)
        command = words(tiny_folder, "data=coco_edit", "data.root=coco")
        assert "coco/images/p1.png" in refused(command)
        kept = inversions(Path("run"))
        assert list(kept) == ["p0.safetensors"]
        (coco / "images/p1.png").write_bytes(whole)
        main(command)
        assert list(inversions(Path("run"))) == ["p0.safetensors", "p1.safetensors", "p2.safetensors"]
        assert inversions(Path("run"))["p0.safetensors"] == kept["p0.safetensors"]

    def test_prompt_beyond_the_limit(self, tiny_folder, refused):
        coco = write_coco(Path("coco"), 1)
        captions = coco / "annotations/captions.json"
        captions.write_text(captions.read_text().replace("a cat and a dog", "a cat and a dog" + " and a dog" * 9))
        line = refused(words(tiny_folder, "data=coco_edit", "data.root=coco"))
        assert "'p0'" in line and "the text encoder takes 20: shorten" in line

    @pytest.mark.parametrize("file", ["p0.safetensors", "p0.json"])
    def test_truncated_result(self, tiny_folder, refused, file, capsys):
        write_coco(Path("coco"), 2)
        command = words(tiny_folder, "data=coco_edit", "data.root=coco")
        main(command)
        before = inversions(Path("run"))
        path = Path("run/inversions") / file
        path.write_bytes(path.read_bytes()[:-20])
        if file.endswith(".safetensors"):
            assert f"{file}: truncated" in refused(["validate", *command])
        main(command)
        assert f"image 'p0' is inverted again, with its batch: {path}: truncated" in capsys.readouterr().err
        assert inversions(Path("run")) == before
        assert len(json.loads(Path("run/summary.json").read_text())["images"]) == 2

    def test_another_configuration_in_the_same_folder(self, tiny_folder, refused):
        write_coco(Path("coco"), 1)
        command = words(tiny_folder, "data=coco_edit", "data.root=coco")
        main(command)
        before = {p: p.read_bytes() for p in Path("run").rglob("*") if p.is_file()}
        line = refused([*command, "method.guidance_scale=3"])
        assert "method.guidance_scale=7.5" in line and "method.guidance_scale=3" in line
        assert {p: p.read_bytes() for p in Path("run").rglob("*") if p.is_file()} == before

    def test_a_bug_keeps_its_traceback(self, tiny_folder, monkeypatch):
        def broken(*_):
            raise ValueError("a bug of ours")

        write_coco(Path("coco"), 1)
        monkeypatch.setattr(batch, "invert_step", broken)
        with pytest.raises(ValueError, match="a bug of ours") as caught:
            main(words(tiny_folder, "data=coco_edit", "data.root=coco"))
        assert not isinstance(caught.value, InputError)


def test_fit_validate_and_table(tiny_folder, capsys):
    write_coco(Path("coco"), 2)
    command = words(tiny_folder, "data=coco_edit", "data.root=coco", "callbacks=full")
    main(command)
    main(["validate", *command])
    assert Path("run/contact_sheet.png").exists()
    assert capsys.readouterr().err == ""
    for name in ("summary", "validation"):
        assert json.loads(Path(f"run/{name}.json").read_text())["num_images"] == 2
    main(["table", "run", "run"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert len({len(line) for line in lines}) == 1
    assert lines[2].startswith("| locinv | segment | 2 ")


def test_table_of_nothing(refused):
    assert "nowhere/summary.json: no such file" in refused(["table", "nowhere"])


@pytest.mark.slow
class TestProcesses:
    """train.py in processes of its own."""

    @pytest.fixture
    def bare(self, tmp_path: Path) -> Path:
        """The Python of an environment that has this one's packages without its .pth files: no editable install."""
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
        (packages,) = (tmp_path / "bare").rglob("site-packages")
        (packages / "all.pth").write_text("\n".join(path for path in sys.path if path.endswith("-packages")))
        return tmp_path / "bare/bin/python"

    @pytest.fixture
    def start(self, bare: Path) -> Iterator[Callable[..., subprocess.Popen]]:
        """Starts a checkout's train.py where nothing is installed; what still runs at the test's end is killed."""
        started: list[subprocess.Popen] = []
        yield lambda *command: started.append(self.launch(bare, *command)) or started[-1]
        for process in started:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

    def launch(self, python: Path, *command: str) -> subprocess.Popen:
        # Lightning leaves its marks of a running launch in this process's environment, and conftest.py its
        # thread count; the program chooses its own.
        marks = {*MARKS, "OMP_NUM_THREADS"}
        environment = {k: v for k, v in os.environ.items() if k not in marks and not k.startswith("PYTHON")}
        return subprocess.Popen(
            [str(python), str(ROOT / "train.py"), *command],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def test_two_processes_of_a_bare_checkout_share_the_work_and_change_nothing(self, start, roomy_folder, tmp_path):
        write_namesakes(tmp_path)
        command = [*words(roomy_folder, *scenes(4), "trainer.devices=2"), "callbacks=full"]
        process = start(*command)
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        for noise in ("litlogger", "GPU available", "Seed set", "LeafSpec", "Total length", "Loading weights"):
            assert noise not in out + err
        assert out.count("Results: run") == 1
        assert json.loads(Path("run/summary.json").read_text())["num_images"] == 4
        workers = {
            folder.name: {path.name.split(".")[-2] for path in folder.iterdir()}
            for folder in Path("run/tensorboard").iterdir()
        }
        assert len(workers) == 4
        assert all(len(pids) == 1 for pids in workers.values())
        assert len(set.union(*workers.values())) == 2
        shared = inversions(Path("run"))
        shutil.move("run", "shared")
        main(words(roomy_folder, *scenes(4)))
        assert inversions(Path("run")) == shared

    def test_a_failure_of_one_process(self, tiny_folder):
        coco = write_coco(Path("coco"), 5)
        (coco / "images/p1.png").write_bytes(b"")
        run = Run(Path("log.txt"), words(tiny_folder, "data=coco_edit", "data.root=coco", "trainer.devices=2"))
        assert run.wait(120) not in (0, None)
        printed = run.communicate()[0]
        assert "coco/images/p1.png: the file is empty" in printed
        assert "Traceback" not in printed
        assert list(inversions(Path("run"))) == [f"p{n}.safetensors" for n in (0, 2, 3, 4)]


@pytest.mark.parametrize(
    "word", ["--config={}", "--config {}", "trainer.callbacks={}", "data={}", "edit={}", "--data {}"]
)
def test_a_file_that_is_no_configuration_is_named_and_not_quoted(refused, word):
    Path("secrets").write_text("root:x:0:0:root:/root:/bin/bash\nhidden:y:1:1\n")
    message = refused(word.format("secrets").split(" "))
    assert "secrets" in message and "root" not in message and "hidden" not in message


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda name: None])
def test_a_configuration_is_a_regular_file(refused, make):
    make("odd")
    assert "odd: holds no configuration" in refused(["--config=odd"])


def test_a_key_that_a_configuration_has_twice(refused):
    Path("twice.yaml").write_text("model:\n  num_steps: 3\n  num_steps: 4\n")
    assert "twice.yaml: line 2: key 'num_steps' stands there twice; mend it" in refused(["--config=twice.yaml"])


def test_a_valid_configuration_s_values_are_named(refused):
    Path("mine.yaml").write_text("model: {num_steps: many}")
    assert re.search("num_steps.*many", refused(["--config=mine.yaml"]))


def test_without_a_progress_bar_and_with_a_logger(tiny_folder, capsys):
    """The bar's callback is taken out; config.yaml lies in the run's folder, wherever the logger writes."""
    write_coco(Path("coco"), 1)
    logger = "{class_path: lightning.pytorch.loggers.CSVLogger, init_args: {save_dir: logs}}"
    more = ("trainer.enable_progress_bar=false", f"--trainer.logger={logger}")
    main(
        [w for w in words(tiny_folder, "data=coco_edit", "data.root=coco", steps=1) if w != "callbacks=plain"] + [*more]
    )
    assert "Inverting" not in capsys.readouterr().err
    assert yaml.safe_load(Path("run/config.yaml").read_text())["trainer"]["default_root_dir"] == "run"
    assert not list(Path("logs").rglob("config.yaml"))


@pytest.mark.parametrize("word", ["num_prompts=0", "num_scenes=0", "num_prompts=-1", "device=foo"])
def test_evaluating_nothing_is_refused(refused, word):
    assert word in refused(["evaluate-backbone", "embedded", word])


class TestLoggers:
    """Lightning's loggers and callbacks, as its own configurations name them."""

    def test_a_logger_gets_the_figures(self, tiny_folder):
        write_coco(Path("coco"), 3)
        logger = ["trainer.logger.class_path=lightning.pytorch.loggers.CSVLogger"]
        logger += ["trainer.logger.init_args.save_dir=logs", "trainer.logger.init_args.name=mine"]
        main(words(tiny_folder, "data=coco_edit", "data.root=coco", *logger))
        (path,) = Path("logs/mine").rglob("metrics.csv")
        with open(path, newline="") as file:
            rows = list(csv.DictReader(file))
        assert [int(row["step"]) for row in rows] == list(range(3 * T))
        losses = Inversion.load(Path("run/inversions/p0.safetensors")).losses[:, LOSSES.index("similarity")]
        assert [float(row["loss/similarity"]) for row in rows[:T]] == pytest.approx(losses.tolist(), rel=1e-6)

    @pytest.mark.parametrize("monitor", ["loss/similarity", "iou/mean", "threshold/overlap"])
    def test_a_callback_may_monitor_what_is_logged(self, built, monitor):
        callback = f"{{class_path: lightning.pytorch.callbacks.EarlyStopping, init_args: {{monitor: {monitor}}}}}"
        cli = built(f"--trainer.callbacks+={callback}", "trainer.accelerator=cpu", "trainer.devices=1")
        assert [c.monitor for c in cli.trainer.callbacks if isinstance(c, EarlyStopping)] == [monitor]


OTHER = """
from lightning.pytorch import LightningDataModule
from locinv_pl.datamodules.scenes import ScenesDataModule


class Foreign(LightningDataModule):
    def __init__(self, number: int = 1):
        super().__init__()
        self.number = number


class Own(ScenesDataModule):
    def __init__(self, num_images: int = 7, **kwargs):
        super().__init__(num_images=num_images, **kwargs)
"""


class TestLinks:
    """The data is given the model of the command line, and nothing has to name it."""

    def test_by_default_and_by_name(self, built):
        for command in ([], ["data=coco_edit"]):
            cli = built(*command, "trainer.accelerator=cpu", "trainer.devices=1")
            assert cli.datamodule.model is cli.model

    def test_data_of_ones_own(self, built, monkeypatch):
        Path("others.py").write_text(OTHER)
        monkeypatch.syspath_prepend(os.getcwd())
        plain = ["trainer.accelerator=cpu", "trainer.devices=1", "output=run"]
        Path("own.yaml").write_text("data:\n  class_path: others.Own\n  init_args: {num_images: 3}\n")
        cli = built("--config", "own.yaml", *plain)
        assert cli.datamodule.model is cli.model and cli.datamodule.num_images == 3
        Path("foreign.yaml").write_text("class_path: others.Foreign\ninit_args: {number: 2}\n")
        cli = built("data=foreign.yaml", *plain)
        assert cli.datamodule.number == 2 and not hasattr(cli.datamodule, "model")

    def test_the_saved_configuration_does_not_name_it(self, tiny_folder):
        write_coco(Path("coco"), 1)
        main(words(tiny_folder, "data=coco_edit", "data.root=coco", steps=1))
        assert "model" not in yaml.safe_load(Path("run/config.yaml").read_text())["data"]["init_args"]


class TestMoved:
    """Configurations from before datamodules and callbacks were parts of the package."""

    @pytest.mark.parametrize("word", ["--config=old.yaml", "data=old.yaml", "trainer.callbacks=old.yaml"])
    @pytest.mark.parametrize("path", ["datamodules.scenes.ScenesDataModule", "callbacks.progress.InversionProgress"])
    def test_the_new_path_is_named(self, refused, word, path):
        Path("old.yaml").write_text(f"trainer:\n  callbacks:\n  - class_path: {path}\n")
        assert f"old.yaml: class_path {path} lies in this package now; write locinv_pl.{path}" in refused([word])

    def test_a_run_s_configuration_is_taken_once_they_are_mended(self, tiny_folder, refused):
        write_coco(Path("coco"), 1)
        main(words(tiny_folder, "data=coco_edit", "data.root=coco"))
        before = inversions(Path("run"))
        new = Path("run/config.yaml").read_text()
        Path("old.yaml").write_text(new.replace("locinv_pl.datamodules.", "datamodules."))
        assert "write locinv_pl.datamodules.coco_edit.CocoEditDataModule" in refused(["--config", "old.yaml"])
        Path("old.yaml").write_text(new)
        main(["--config", "old.yaml"])
        assert inversions(Path("run")) == before

    def test_a_package_of_one_s_own_may_have_that_name(self, built, monkeypatch):
        Path("datamodules").mkdir()
        Path("datamodules/__init__.py").touch()
        Path("datamodules/mine.py").write_text(OTHER)
        monkeypatch.syspath_prepend(os.getcwd())
        for name in ("datamodules", "datamodules.mine"):
            monkeypatch.setitem(sys.modules, name, None)  # and as it was afterwards
            del sys.modules[name]
        Path("own.yaml").write_text("class_path: datamodules.mine.Foreign\ninit_args: {number: 2}\n")
        assert built("data=own.yaml", "trainer.accelerator=cpu", "trainer.devices=1", "output=x").datamodule.number == 2
