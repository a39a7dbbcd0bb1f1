"""LightningCLI for this package's module: the words that it takes, what it builds, and what it refuses."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.strategies import ParallelStrategy

from locinv_pl.cli.parsers import Help, Parser
from locinv_pl.cli.table import SUBCOMMANDS
from locinv_pl.configs import CONFIGS
from locinv_pl.errors import InputError, tell
from locinv_pl.io.arguments import arguments, read_words
from locinv_pl.io.files import located, write_atomically
from locinv_pl.run.logging import metric_names
from locinv_pl.run.module import LocInvModule
from locinv_pl.run.strategy import ImageParallelStrategy, is_launched, num_cores


def translate(words: list[str]) -> list[str]:
    """Rewrite the command line's words for LightningCLI; translating twice changes nothing.

    Args:
        words: the command line, without the program's name.

    Returns:
        the subcommand, configuration files, the files of groups, and all other words, as LightningCLI takes them.

    Raises:
        InputError: a word isn't understood, or names no file of its group.
    """
    subcommand, rest = (words[0], words[1:]) if words[:1] and words[0] in SUBCOMMANDS else ("fit", words)
    read = list(read_words(rest))
    for word in read:
        if not word.key:
            known = ", ".join(SUBCOMMANDS)
            raise InputError(f"{word.texts[0]}: not understood; write key=value, or one of {known} first")
    return [subcommand, *arguments(read)]


def run_trainer() -> None:
    """Run what ``sys.argv`` says, translated; the processes that Lightning starts do the same."""
    defaults = [str(CONFIGS / "default.yaml")]
    parsers: dict[str, Any] = {
        name: {"default_config_files": defaults, "description": SUBCOMMANDS[name]} for name in LocInvCLI.subcommands()
    }
    LocInvCLI(
        LocInvModule,
        LightningDataModule,
        subclass_mode_data=True,
        save_config_callback=_ConfigFile,
        parser_class=TrainerParser,
        seed_everything_default=0,
        parser_kwargs={"formatter_class": Help, **parsers},
        auto_configure_optimizers=False,
    )


class TrainerParser(Parser, LightningArgumentParser):
    """LightningCLI's parser, whose complaint is an InputError, too."""


class _ConfigFile(SaveConfigCallback):
    """Writes config.yaml once the module has claimed the run's folder; a refused run leaves it alone."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Do nothing: Lightning writes the configuration here, before the run's folder is claimed."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the configuration, once every setup has ended well."""
        if trainer.is_global_zero:
            config = self.parser.dump(self.config, skip_none=False, skip_validation=True)
            write_atomically(located(trainer.default_root_dir) / "config.yaml", config.encode())


class LocInvCLI(LightningCLI):
    """LightningCLI with a run folder named after the data, the method and the prior."""

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """What a run is asked to do, or all that it can: building a parser takes a while."""
        hidden = {"model", "dataloaders", "datamodule", "train_dataloaders", "val_dataloaders"}
        said = [name for name in sys.argv[1:2] if name in SUBCOMMANDS]
        return {name: hidden for name in said or SUBCOMMANDS}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Give the data the model that its images are for."""
        parser.link_arguments("model", "data.init_args.model", apply_on="instantiate")

    def before_instantiate_classes(self) -> None:
        """Name the run's folder where ``output`` doesn't; take out what a run hasn't or is told to leave out."""
        config = self.config[self.subcommand]
        if config.get("ckpt_path"):
            raise InputError(
                f"ckpt_path={config.ckpt_path}: a run has no checkpoints, its folder holds all; leave it out, and the "
                f"same command goes on where it stopped"
            )
        if config.trainer.enable_progress_bar is False:
            config.trainer.callbacks = [entry for entry in config.trainer.callbacks or [] if not _is_bar(entry)]
        if config.trainer.default_root_dir is None:
            data = config.data.class_path.split(".")[-2]  # its file's name, as in data=scenes
            if config.data.init_args.get("world", "core") != "core":
                data += "_" + config.data.init_args.world
            prior = config.data.init_args.get("prior", "none")
            config.trainer.default_root_dir = f"outputs/{data}-{config.model.method.name}-{prior}"

    def instantiate_classes(self) -> None:
        """Build module, data and Trainer; a value that one of them doesn't take is bad input."""
        try:
            super().instantiate_classes()
        except InputError:
            raise
        except (MisconfigurationException, ImportError, RuntimeError, TypeError, ValueError) as error:
            raise InputError(f"{error}; check the values of trainer, model and data") from error
        strategy = self.trainer.strategy
        if isinstance(strategy, ParallelStrategy) and not isinstance(strategy, ImageParallelStrategy):
            raise InputError(
                f"trainer.strategy: {type(strategy).__name__} shares out the training of weights, and no "
                f"weight is trained here; leave it out, image_parallel is the default"
            )
        logged = metric_names(self.model.method)
        for callback in getattr(self.trainer, "callbacks", []):
            monitored = getattr(callback, "monitor", None)
            if isinstance(monitored, str) and monitored not in logged:
                raise InputError(
                    f"callback {type(callback).__name__}: monitors {monitored!r}, and a run logs no such figure; "
                    f"monitor one of {', '.join(logged)}, or take the callback out of trainer.callbacks"
                )

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Build the Trainer; on the CPU ``devices=auto`` is a process for each core that has a batch to work on.

        The number also ends the command line, which the processes that Lightning starts read again.

        Args:
            kwargs: arguments of the Trainer that win over the configuration's.
        """
        if (processes := self._processes()) > 1:
            sys.argv.append(f"--trainer.devices={processes}")
            kwargs["devices"] = processes
        return super().instantiate_trainer(**kwargs)

    def _processes(self) -> int:
        """How many processes ``devices=auto`` is on the CPU; 1 where it is not to be decided here."""
        trainer = self.config_init[self.subcommand].trainer
        on_cpu = trainer.accelerator == "cpu" or trainer.accelerator == "auto" and not torch.accelerator.is_available()
        is_ours = trainer.strategy == ImageParallelStrategy.strategy_name
        if trainer.devices != "auto" or not (on_cpu and is_ours) or trainer.num_nodes > 1 or is_launched():
            return 1
        threads = os.environ.get("OMP_NUM_THREADS", "")
        places = num_cores() // max(int(threads) if threads.isdecimal() else 1, 1)
        if places < 2 or not (batches := getattr(self.datamodule, "count_batches", int)()):
            return 1
        if not threads and places >= 2 * batches:
            tell(
                f"note: {batches} of {places} cores {'has' if batches == 1 else 'have'} a batch of images to work on; "
                f"a smaller data.batch_size makes more batches, OMP_NUM_THREADS={places // batches} gives a process "
                f"more threads; either changes the last bits of results"
            )
        return min(places, batches)


def _is_bar(entry: Any) -> bool:
    """Whether a callback's configuration names a progress bar."""
    module, _, name = entry.class_path.rpartition(".")
    return issubclass(getattr(import_module(module), name), ProgressBar)
