//! What follows from a stream of events: pure functions of it, without clocks and without I/O.

pub mod pairing;
