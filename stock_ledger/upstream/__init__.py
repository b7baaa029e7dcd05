"""A second system that keeps stock, and must agree with the stock here."""
