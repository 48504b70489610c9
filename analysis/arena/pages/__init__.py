"""Pages of the documentation: one for each method of the catalogue, made when the site is built."""

from analysis.arena.pages.methods import pages

__all__ = ["pages"]
