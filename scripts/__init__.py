"""Scripts of the checkout; not part of the package."""
