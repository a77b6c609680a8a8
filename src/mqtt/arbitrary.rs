//! Packets at random, for property tests.
