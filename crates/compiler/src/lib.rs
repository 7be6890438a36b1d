//! Turns the model into nf_tables transactions, incrementally.
