"""What leaves a run: a network in a deployment, as a folder that loads without this project, and its card."""
