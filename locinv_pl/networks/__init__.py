"""The frozen networks: how they are loaded and run, and how their attention is read.

diffusers and its classes are known here. Elsewhere only ``editing/pipelines.py``, ``editing/pretrained.py``,
``measures/judge.py``, ``benchmark/published.py`` and ``pretrain/`` import it; ``tests/test_structure.py`` keeps it so.
"""
