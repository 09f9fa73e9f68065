//! Known bugs, put back one at a time: which checker finds each, and after how many seeds.

use std::{
    collections::BTreeSet,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use anyhow::Result;
use telegraft_raft::defects;
use telegraft_sim::{
    defects::{CLASSES, Class, FOUND_HERE},
    run::Run,
};

use super::campaign::bar;

#[derive(clap::Args)]
pub struct Arguments {
    /// Seeds to try for each bug, each time.
    #[arg(long, default_value_t = 2_000)]
    seeds: u64,
    /// How often each bug is looked for, in other seeds each time; the median is told.
    #[arg(long, default_value_t = 5)]
    times: u64,
    /// Only these numbers, as `1,7,30`.
    #[arg(long, value_delimiter = ',')]
    only: Vec<u32>,
    /// Print one JSON object a bug instead of a table.
    #[arg(long)]
    json: bool,
}

/// What came of one bug.
struct Hunt {
    /// Seeds tried until it was found, each time it was.
    tries: Vec<u64>,
    checkers: BTreeSet<char>,
    /// A seed that shows it.
    example: Option<u64>,
    /// A seed that fails without the bug: then nothing here can be believed.
    unsound: Option<u64>,
}

pub fn run(arguments: &Arguments) -> Result<bool> {
    let wanted = |class: &&Class| arguments.only.is_empty() || arguments.only.contains(&class.number);
    let classes: Vec<&Class> = CLASSES.iter().chain(FOUND_HERE).filter(wanted).collect();
    let shipped = classes.iter().filter(|class| !is_ours(class)).count();
    let bar = bar(classes.len() as u64 * arguments.times, "hunts");
    let next = AtomicUsize::new(0);
    let hunts: Vec<Mutex<Option<Hunt>>> = classes.iter().map(|_| Mutex::new(None)).collect();
    let worker = || -> Result<()> {
        loop {
            let number = next.fetch_add(1, Relaxed);
            let Some(class) = classes.get(number) else { return Ok(()) };
            let hunt = hunt(class, arguments, || bar.inc(1))?;
            *hunts[number].lock().unwrap_or_else(PoisonError::into_inner) = Some(hunt);
        }
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..cores).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().try_for_each(|worker| {
            worker.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a worker panicked outside of its world")))
        })
    })?;
    bar.finish_and_clear();

    let (mut found, mut ours_found) = (0, 0);
    let mut sound = true;
    if !arguments.json {
        println!(
            "{:>3}  {:<78} {:>7}  {:<9} {:>12}  {:>9}",
            "#", "bug class", "found", "checkers", "median seeds", "see seed"
        );
    }
    for (class, hunt) in classes.iter().zip(hunts) {
        let Some(hunt) = hunt.into_inner().unwrap_or_else(PoisonError::into_inner) else { continue };
        let times = hunt.tries.len() as u64;
        // Found is what most hunts find.
        let is_found = times * 2 > arguments.times;
        *if is_ours(class) { &mut ours_found } else { &mut found } += usize::from(is_found);
        let checkers: String = hunt.checkers.iter().collect();
        let median = median(hunt.tries.clone(), arguments.times);
        if arguments.json {
            println!(
                "{{\"class\":{},\"name\":{:?},\"found\":{is_found},\"times\":{times},\"of\":{},\"checkers\":{checkers:?},\"median_seeds\":{},\"seed\":{}}}",
                class.number,
                class.name,
                arguments.times,
                median.map_or("null".to_owned(), |m| m.to_string()),
                hunt.example.map_or("null".to_owned(), |s| s.to_string()),
            );
        } else {
            println!(
                "{:>3}  {:<78} {:>7}  {:<9} {:>12}  {:>9}",
                class.number,
                class.name,
                format!("{times} of {}", arguments.times),
                checkers,
                median.map_or(format!("> {}", arguments.seeds), |m| m.to_string()),
                hunt.example.map_or_else(String::new, |seed| seed.to_string()),
            );
        }
        if let Some(seed) = hunt.unsound {
            sound = false;
            println!("     seed {seed} fails without any bug put back: mend that first");
        }
    }
    if classes.len() > shipped {
        println!("{ours_found} of {} of our own found again", classes.len() - shipped);
    }
    println!("{found} of {shipped} found");
    Ok(sound)
}

/// Bugs that were found here, numbered from 101; the last line counts what others shipped.
fn is_ours(class: &Class) -> bool {
    class.number > 100
}

fn hunt(class: &Class, arguments: &Arguments, mut done: impl FnMut()) -> Result<Hunt> {
    let mut hunt = Hunt { tries: Vec::new(), checkers: BTreeSet::new(), example: None, unsound: None };
    for time in 0..arguments.times {
        let first = 1 + time * arguments.seeds;
        for seed in first..first + arguments.seeds {
            let run = Run { voters: class.voters, ..Run::of(seed, class.machine) };
            defects::choose(Some(class.defect));
            let report = run.report();
            defects::choose(None);
            let Some(violation) = report?.violation else { continue };
            if run.report()?.violation.is_some() {
                hunt.unsound = Some(seed);
                continue;
            }
            hunt.tries.push(seed - first + 1);
            hunt.checkers.insert(violation.checker);
            hunt.example.get_or_insert(seed);
            break;
        }
        done();
    }
    Ok(hunt)
}

/// The median over all hunts, those in vain counted as longer than any; `None` where it is one of those.
fn median(mut tries: Vec<u64>, times: u64) -> Option<u64> {
    tries.sort_unstable();
    tries.get(usize::try_from(times / 2).unwrap_or(usize::MAX)).copied()
}
