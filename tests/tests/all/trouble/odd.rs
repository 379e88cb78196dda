//! Events that are hard.
