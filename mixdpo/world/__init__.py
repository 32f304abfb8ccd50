"""A world of invented movie and book reviews: a grammar with a lexicon that writes them with gold annotation."""

from mixdpo.world.review import Review, Word, review, reviews, without_mistakes

__all__ = ["Review", "Word", "review", "reviews", "to_doc", "without_mistakes"]


def __getattr__(name: str):
    # Text needs no spaCy, so it is imported where a document is first asked for.
    if name == "to_doc":
        from mixdpo.world.gold import to_doc

        return to_doc
    raise AttributeError(name)
