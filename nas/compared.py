"""The networks that an export compares, by their names in JSON, and what heads their columns for people."""

HEADS = {"today": "full, today", "full": "full", "serving_int8": "full, all INT8", "chosen": "chosen"}
"""In the order of tables; `nas.exporting.comparison` says what each of them is."""
