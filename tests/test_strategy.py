"""The strategy's queues."""

from lightning.pytorch import Trainer

from locinv_pl.strategy import ImageParallelStrategy


def test_one_process_has_queues_of_its_own():
    trainer = Trainer(accelerator="cpu", devices=1, strategy="image_parallel", logger=False)
    strategy = trainer.strategy
    assert isinstance(strategy, ImageParallelStrategy)
    strategy.setup_environment()
    first, second = strategy.new_queue(), strategy.new_queue()
    assert [first(), first(), second(), first(), second()] == [0, 1, 0, 2, 1]
