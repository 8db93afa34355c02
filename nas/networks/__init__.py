"""Networks to begin from, and sub-networks as they are measured."""
