"""The runs of the board: their full form is stored."""
