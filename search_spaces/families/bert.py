"""Text encoders: BERT and its relatives (RoBERTa, ELECTRA, MiniLM, DistilBERT), recognised by their main input."""

from search_spaces.families.family import Family, reads
from search_spaces.families.structure import Ranges

# InstaTune (arXiv 2308.15609, section 4.1), BERT Base: layers 6 to 12, heads 6, 8, 10, 12, ffn widths 1024, 2048, 3072.
# As shares of the full sizes they fit models of any size.
FAMILY = Family(
    recognises=reads("input_ids"),
    ranges=Ranges(
        depth=tuple(layers / 12 for layers in range(6, 13)),
        heads=(6 / 12, 8 / 12, 10 / 12, 1.0),
        ffn=(1 / 3, 2 / 3, 1.0),
    ),
)
space = FAMILY.space
