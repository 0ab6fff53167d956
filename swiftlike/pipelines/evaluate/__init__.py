"""`swiftlike eval`: one module per kind of evaluation."""
