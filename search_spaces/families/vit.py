"""Image encoders: ViT and its relatives (DeiT, DINOv2), recognised by their main input."""

from search_spaces.families.family import Family, reads
from search_spaces.families.structure import Ranges

# InstaTune (arXiv 2308.15609, section 4.1), ViT-B/16: layers 11, 12, heads 6, 8, 10, 12, ffn widths 2048, 2560, 3072.
FAMILY = Family(
    recognises=reads("pixel_values"),
    ranges=Ranges(
        depth=(11 / 12, 1.0),
        heads=(6 / 12, 8 / 12, 10 / 12, 1.0),
        ffn=(8 / 12, 10 / 12, 1.0),
    ),
)
space = FAMILY.space
