//! How many simulated seconds one core gets done in a second.

use std::time::Instant;

use anyhow::{Result, bail};
use telegraft_sim::{run::Run, settings::MachineKind};

#[derive(clap::Args)]
pub struct Arguments {
    /// Worlds of three nodes to run, with each machine.
    #[arg(long, default_value_t = 40)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    first: u64,
}

pub fn run(arguments: &Arguments) -> Result<bool> {
    for (machine, name) in [(MachineKind::Wasm, "with the Wasm guest"), (MachineKind::Plain, "with a plain machine")] {
        // Compiles the modules.
        Run { voters: 3, ..Run::of(arguments.first, machine) }.report()?;
        let (begun, mut simulated, mut operations) = (Instant::now(), 0, 0);
        for seed in arguments.first..arguments.first + arguments.seeds {
            let report = Run { voters: 3, ..Run::of(seed, machine) }.report()?;
            if let Some(violation) = report.violation {
                bail!("seed {seed} failed, {violation}: a speed is of no interest before that is mended");
            }
            simulated += report.tally.simulated;
            operations += report.tally.operations;
        }
        let (seconds, simulated) = (begun.elapsed().as_secs_f64(), simulated as f64 / 1e6);
        println!(
            "three nodes {name}: {:.0} simulated seconds a second on one core ({simulated:.0} s in {seconds:.2} s, {:.1} operations a simulated second)",
            simulated / seconds,
            operations as f64 / simulated
        );
    }
    Ok(true)
}
