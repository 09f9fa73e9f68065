//! The simulator: whole nodes in a simulated world. It comes with the work on the core (issue "a Raft core that a skeptic can trust").
