"""Loading, adapting and running models. Hot."""
