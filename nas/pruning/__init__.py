"""EMO-PMS: the sub-networks of a trained CNN pruned each by itself, and joined by how much each impairs the whole."""
