"""Every command is listed and says what it takes; every word of a command line is read by one grammar."""

from __future__ import annotations

import inspect
import sys
from contextlib import suppress

import pytest

from locinv_pl.benchmark.bench import Benchmark
from locinv_pl.cli.main import main
from locinv_pl.cli.table import COMMANDS, SUBCOMMANDS, function_of
from locinv_pl.configs import CONFIGS
from locinv_pl.errors import InputError
from locinv_pl.io.arguments import KEYS, arguments, read_words

RUN = {"data", "model", "trainer"}
ALL = {name: function_of(name) for name in COMMANDS}


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What a command prints that ends well."""
    with suppress(SystemExit):
        main(list(words))
    assert not isinstance(sys.exc_info()[1], SystemExit)
    return capsys.readouterr().out


def first_line(name: str) -> str:
    """What a command's function says that it does."""
    return (inspect.getdoc(ALL[name]) or "").splitlines()[0]


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    told = printed(capsys, "--help")
    for name in ALL:
        assert f"    locinv {name} " in told and first_line(name) in told
    for name, text in SUBCOMMANDS.items():
        assert f"    {name} " in told and text in told


@pytest.mark.parametrize("name", ALL)
def test_every_command_says_what_it_takes(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    told = " ".join(printed(capsys, *name.split(), "--help").split())
    assert told.startswith("usage: ") and first_line(name) in told
    parameters = inspect.signature(ALL[name]).parameters
    for key in parameters if name != "benchmark" else {*parameters, *Benchmark.__dataclass_fields__} - {"settings"}:
        assert key in told


@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_every_subcommand_says_what_it_does(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    told = " ".join(printed(capsys, name, "--help").split())
    assert SUBCOMMANDS[name] in told and "--data" in told and "data.init_args.model" not in told.split("Linked")[0]


def config(group: str, name: str) -> str:
    """The file of a group."""
    return str(CONFIGS / group / f"{name}.yaml")


@pytest.mark.parametrize(
    ("words", "roots", "expected"),
    [
        ("run image=p0 prompt=x", {"run", "image", "prompt"}, ["run", "--image=p0", "--prompt=x"]),
        ("run --image p0 --help", {"image"}, ["run", "--image", "p0", "--help"]),
        ("edit.keep=all edit=exact", {"edit"}, [f"--edit={config('edit', 'exact')}", "--edit.keep=all"]),
        ("edit.keep=all edit=exact", RUN, [f"--model.edit={config('edit', 'exact')}", "--model.edit.keep=all"]),
        ("method=nti", {"method"}, [f"--method={config('method', 'nti')}"]),
        ("method=nti", RUN, [f"--model.method={config('method', 'nti')}"]),
        ("recipe=tiny output=o", {"recipe", "output"}, [f"--recipe={config('recipe', 'tiny')}", "--output=o"]),
        ("prior=box data=folder", {"data"}, [f"--data={config('data', 'folder')}", "--data.prior=box"]),
        ("backbone=x tuning.compile=true", {"json", "settings"}, ["--backbone=x", "--tuning.compile=true"]),
        ("prior=box backbone=x output=o", {"data"}, ["--data.prior=box", "--backbone=x", "--output=o"]),
        ("json=a=b -c my.yaml", {"json"}, ["-c", "my.yaml", "--json=a=b"]),
        ("config=my.yaml data.seed=1", RUN, ["--config=my.yaml", "--data.seed=1"]),
        ("data={class_path: X}", RUN, ["--data={class_path: X}"]),
    ],
)
def test_words(words: str, roots: set[str], expected: list[str]) -> None:
    split = ["data={class_path: X}"] if "{" in words else words.split()
    assert arguments(read_words(split), roots) == expected
    assert arguments(read_words(expected), roots) == expected


@pytest.mark.parametrize("group", [word for word, (_, content) in KEYS.items() if content == "group"])
def test_every_group_has_files(group: str) -> None:
    names = [path.stem for path in (CONFIGS / group).glob("*.yaml")]
    assert names
    for name in names:
        assert arguments(read_words([f"{group}={name}"])) == [f"--{KEYS[group][0]}={config(group, name)}"]
    for name in ("a\0b", "n" * 300):
        with pytest.raises(InputError, match="no such config"):
            arguments(read_words([f"{group}={name}"]))
    with pytest.raises(InputError, match=f"{group}=nowhere: no such config; use one of {sorted(names)[0]}"):
        arguments(read_words([f"{group}=nowhere"]))
