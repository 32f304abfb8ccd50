"""Reviews as spaCy documents with gold annotation."""

from spacy.tokens import Doc
from spacy.vocab import Vocab

from mixdpo.world.review import Review


def to_doc(review: Review, vocab: Vocab) -> Doc:
    """The review as a gold document."""
    words = review.words
    return Doc(
        vocab,
        words=[word.text for word in words],
        spaces=[word.space for word in words],
        tags=[word.tag for word in words],
        pos=[word.pos for word in words],
        heads=[word.head for word in words],
        deps=[word.dep for word in words],
        ents=[word.entity for word in words],
        sent_starts=[word.sent_start for word in words],
    )
