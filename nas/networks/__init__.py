"""Load networks from `transformers` or from the user's own code, and prepare sub-networks for measurement.

`loading.py` chooses between `pretrained.py` and `own_model.py`; `recalibration.py` gives sub-networks their batch-norm
statistics; `untrained.py` builds networks with random weights for latency profiles.
"""
