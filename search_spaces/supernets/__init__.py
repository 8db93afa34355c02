"""The super-network: all sub-networks in one set of weights, and what each of them costs."""
