"""The super-network: running, extracting and storing the sub-networks of a space, and counting what each one costs."""
