"""Formats and scores of AlpacaEval, MT-Bench and Arena-Hard, and the table of all of them over iterations."""
