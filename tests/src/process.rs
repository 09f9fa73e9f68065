//! Child processes that never outlive us: the kernel kills them when we die, even by SIGKILL.

use std::{
    io,
    process::{Child, Command},
    sync::{
        OnceLock,
        mpsc::{Sender, channel},
    },
    thread,
};

type Order = (Command, Sender<io::Result<Child>>);

/// Starts a child that is killed when this process ends.
///
/// The kernel watches the *thread* that made the child, so all children are made by one thread that lives as long as the
/// process does; a test's own thread ends with its test.
///
/// # Errors
///
/// Those of [`Command::spawn`].
pub fn spawn(command: Command) -> io::Result<Child> {
    static SPAWNER: OnceLock<Sender<Order>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (orders, inbox) = channel::<Order>();
        thread::spawn(move || {
            for (command, reply) in inbox {
                // The asker waits for the answer; if it is gone, dropping the child does no harm: it dies with us.
                let _ = reply.send(spawn_here(command));
            }
        });
        orders
    });
    let (reply, answer) = channel();
    let gone = |_| io::Error::other("the thread that starts processes has ended");
    spawner.send((command, reply)).map_err(|_| io::Error::other("the thread that starts processes has ended"))?;
    answer.recv().map_err(gone)?
}

#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "the only way to ask for a death signal is between fork and exec")]
fn spawn_here(mut command: Command) -> io::Result<Child> {
    use nix::{
        sys::{prctl::set_pdeathsig, signal::Signal},
        unistd::{getpid, getppid},
    };
    use std::os::unix::process::CommandExt;

    let parent = getpid();
    let die_with_parent = move || {
        set_pdeathsig(Signal::SIGKILL)?;
        // We may have died between fork and the line above; then nobody would send the signal any more.
        if getppid() != parent {
            return Err(io::Error::from(io::ErrorKind::Interrupted));
        }
        Ok(())
    };
    // SAFETY: the closure runs in the forked child before exec and makes only async-signal-safe system calls (prctl,
    // getppid); it takes no lock and allocates nothing.
    unsafe { command.pre_exec(die_with_parent) };
    command.spawn()
}

#[cfg(not(target_os = "linux"))]
fn spawn_here(mut command: Command) -> io::Result<Child> {
    command.spawn()
}
