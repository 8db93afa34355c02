"""Which axes of a network shrink together: symbols propagated through its exported graph."""
