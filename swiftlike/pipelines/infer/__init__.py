"""Answers of a model: to the rows of a data set, in a conversation, to lines of standard input."""
