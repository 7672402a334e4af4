"""Obviously right versions of the fast code: plain loops, straight from the formulas."""
