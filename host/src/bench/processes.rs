//! What the kernel says about the hosts' processes (proc(5)): their use of CPU, and the file system under their data.

use std::{fs, path::Path, time::Duration};

use crate::cli::Failure;

/// Clock ticks a second in /proc/PID/stat. The kernel's interface has this value on every architecture that we build for
/// (USER_HZ), whatever its own timer does.
const TICKS_PER_SECOND: f64 = 100.0;

/// Seconds of CPU that each process has used, its kernel time included.
///
/// # Errors
///
/// If a process has ended, or the system has no /proc.
pub fn cpu_times(pids: &[u32]) -> Result<Vec<f64>, Failure> {
    pids.iter()
        .map(|pid| {
            let path = format!("/proc/{pid}/stat");
            let text = fs::read_to_string(&path)
                .map_err(|error| Failure::refused(format!("{path} cannot be read: {error}")))?;
            cpu_time(&text).ok_or_else(|| Failure::refused(format!("{path} is not as proc(5) has it")))
        })
        .collect()
}

/// Fields 14 and 15, user and system time. The second field, the program's name in brackets, may hold anything.
fn cpu_time(stat: &str) -> Option<f64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some((user + system) as f64 / TICKS_PER_SECOND)
}

/// Percent of one core used between two looks.
pub fn percent_of_a_core(before: &[f64], after: &[f64], elapsed: Duration) -> Vec<f64> {
    let percent = |(before, after): (&f64, &f64)| ((after - before) / elapsed.as_secs_f64() * 10_000.0).round() / 100.0;
    before.iter().zip(after).map(percent).collect()
}

/// The type of the file system that a folder is on, as `ext4`. None where it cannot be told.
pub fn file_system(folder: &Path) -> Option<String> {
    let folder = fs::canonicalize(folder).ok()?;
    file_system_in(&fs::read_to_string("/proc/mounts").ok()?, &folder)
}

/// The mount with the longest path above the folder; of equal ones the last, which lies on top.
fn file_system_in(mounts: &str, folder: &Path) -> Option<String> {
    mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split_ascii_whitespace().skip(1);
            Some((fields.next()?, fields.next()?))
        })
        .filter(|(at, _)| folder.starts_with(at))
        .max_by_key(|(at, _)| at.len())
        .map(|(_, kind)| kind.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_and_blanks_does_no_harm() {
        let stat = "42 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20";
        assert_eq!(cpu_time(stat), Some(2.0));
        assert_eq!(cpu_time("42 (a) S 1"), None);
        assert_eq!(cpu_time(""), None);
    }

    #[test]
    fn our_own_times_can_be_read() {
        let times = cpu_times(&[std::process::id()]).unwrap();
        assert!(times.len() == 1 && times[0] >= 0.0);
        assert!(cpu_times(&[u32::MAX]).is_err());
    }

    #[test]
    fn percent_is_of_one_core() {
        assert_eq!(percent_of_a_core(&[1.0, 0.0], &[1.1, 20.0], Duration::from_secs(10)), [1.0, 200.0]);
    }

    #[test]
    fn the_nearest_mount_counts() {
        let mounts = "a / ext4 rw\nb /tmp tmpfs rw\nc /tmp/x xfs rw\nd /tmp/x btrfs rw\n";
        let kind = |folder| file_system_in(mounts, Path::new(folder));
        assert_eq!(kind("/tmp/y").as_deref(), Some("tmpfs"));
        assert_eq!(kind("/tmp/x/z").as_deref(), Some("btrfs"));
        assert_eq!(kind("/tmpfoo").as_deref(), Some("ext4"));
    }
}
