//! Case 10: a client that reads slowly, or not at all.
