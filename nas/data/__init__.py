"""Labelled data: reading files, splitting rows, preprocessing them for a model, and scoring a model's outputs.

`reading.py` loads raw rows, `table.py` and `split.py` turn them into three disjoint splits, `tokens.py` and
`pixels.py` make of them what a network reads, and `tasks.py` defines the loss and the metric of each task. `rows.py` is
what a training asks of its rows, whatever they are.
"""
