"""The commands as steps on a run folder."""
