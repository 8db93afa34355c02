"""Labelled data: reading files, splitting rows, preprocessing them for a model, and scoring a model's outputs.

`reading.py` loads raw rows, `table.py` and `split.py` turn them into three disjoint splits, `preprocessing.py` makes
tokens and pixels of them, and `tasks.py` defines the loss and the metric of each task. `rows.py` is what a training
asks of its rows, whatever they are.
"""
