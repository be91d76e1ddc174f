"""Nouns that stages share, cut by which stages import them: each module is a cache boundary."""
