//! One seed again, with every event told.

use anyhow::{Context, Result, ensure};
use telegraft_sim::{run::Run, settings::MachineKind, shrink::shrink};

use super::Machine;

#[derive(clap::Args)]
pub struct Arguments {
    /// The seed.
    #[arg(long)]
    seed: u64,
    /// Which machine the nodes have.
    #[arg(long, value_enum, default_value = "wasm")]
    machine: Machine,
    /// Voters of the world; 0: the seed decides.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=9))]
    voters: u64,
    /// Numbers of the faults to keep, as `1,4,9`, or `none`. Without it, all.
    #[arg(long)]
    keep: Option<String>,
    /// Leave out faults as long as the same rule breaks, first.
    #[arg(long)]
    shrink: bool,
    /// Put this known bug back: the number of its class.
    #[cfg(feature = "defects")]
    #[arg(long)]
    defect: Option<u32>,
    /// Only the outcome and the digest, no trace.
    #[arg(long)]
    quiet: bool,
}

pub fn run(arguments: &Arguments) -> Result<bool> {
    let keep = match arguments.keep.as_deref() {
        None | Some("") => None,
        Some("none") => Some(Vec::new()),
        Some(numbers) => {
            let numbers: Result<Vec<usize>, _> = numbers.split(',').map(|n| n.trim().parse()).collect();
            Some(numbers.context("--keep takes numbers of faults, as 1,4,9, or none")?)
        }
    };
    let machine = MachineKind::from(arguments.machine);
    #[cfg(feature = "defects")]
    if let Some(number) = arguments.defect {
        use telegraft_sim::defects::{CLASSES, FOUND_HERE};
        let class = CLASSES.iter().chain(FOUND_HERE).find(|class| class.number == number);
        telegraft_raft::defects::choose(Some(
            class.ok_or_else(|| anyhow::anyhow!("there is no class {number}"))?.defect,
        ));
    }
    let mut run = Run { voters: arguments.voters, keep, ..Run::of(arguments.seed, machine) };
    if arguments.shrink {
        run = shrink(run.report()?, |_, _| ())?.run;
    }
    let report = Run { trace: !arguments.quiet, ..run.clone() }.report()?;
    if !arguments.quiet {
        println!("{:#?}", run.settings());
        for (number, planned) in run.plan().iter().enumerate() {
            if let Some(planned) = planned {
                println!("fault {number:>3}: {planned}");
            }
        }
        report.lines.iter().for_each(|line| println!("{line}"));
    }
    let again = run.report()?;
    ensure!(
        again.digest == report.digest,
        "the same seed gave the event digest {} and then {}: the simulator itself is not deterministic",
        report.digest,
        again.digest
    );
    println!("{} events, digest {} (twice)", report.tally.events, report.digest);
    match &report.violation {
        None => println!("seed {} passed", run.seed),
        Some(violation) => println!("seed {} FAILED  {violation}\n  replay: {}", run.seed, run.replay_command()),
    }
    Ok(report.violation.is_none())
}
