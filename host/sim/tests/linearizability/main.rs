//! The linearizability checker on trial: published histories with known verdicts, the textbook's small ones, random ones
//! against a checker that simply tries every order, and what it says when a history fails.

mod brute_force;
mod explanation;
mod kv;
mod models;
mod published;
mod random;
mod textbook;
mod unknown;
