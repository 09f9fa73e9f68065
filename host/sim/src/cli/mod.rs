//! The command line: arguments, and which command does what. Each command answers whether all was well.

mod campaign;
#[cfg(feature = "defects")]
mod defects;
mod replay;
mod speed;

use anyhow::Result;
use clap::{Parser, Subcommand, ValueEnum};
use telegraft_sim::settings::MachineKind;

/// Telegraft's simulator: whole nodes in worlds of faults, each made of one seed.
#[derive(Parser)]
#[command(name = "telegraft-sim", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run many seeds; the last line says how many passed.
    Run(campaign::Arguments),
    /// Run one seed again and show what happens.
    Replay(replay::Arguments),
    /// Measure simulated seconds a second, with and without the Wasm guest.
    Speed(speed::Arguments),
    /// Put known bugs back, one at a time, and see which checker finds each.
    #[cfg(feature = "defects")]
    Defects(defects::Arguments),
}

/// Which machine the nodes have.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Machine {
    /// The real one: a Wasm guest over SQLite.
    Wasm,
    /// A plain map, many times faster.
    Plain,
}

impl From<Machine> for MachineKind {
    fn from(machine: Machine) -> Self {
        match machine {
            Machine::Wasm => MachineKind::Wasm,
            Machine::Plain => MachineKind::Plain,
        }
    }
}

/// Runs what the arguments ask for; whether all was well.
pub fn run() -> Result<bool> {
    telegraft_sim::run::keep_panics_quiet();
    match Arguments::parse().command {
        Command::Run(arguments) => campaign::run(&arguments),
        Command::Replay(arguments) => replay::run(&arguments),
        Command::Speed(arguments) => speed::run(&arguments),
        #[cfg(feature = "defects")]
        Command::Defects(arguments) => defects::run(&arguments),
    }
}
