"""Labelled rows: what is learned, reading, splitting, preprocessing, and how well outputs fit."""
