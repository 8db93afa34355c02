"""Fixed teachers of a training (knowledge distillation): where they come from, what they give, and how it is used."""
