//! The machine as a whole: real components over real SQLite, one file for each group of behaviours.

mod administer;
mod batches;
mod effects;
mod failures;
mod guests;
mod modules;
mod prices;
mod probe;
mod reach;
mod reading;
mod rehearsal;
mod replay;
mod reuse;
mod sessions;
mod snapshots;
mod sql;
mod sql_bounds;
mod sql_entry;
mod trial;
