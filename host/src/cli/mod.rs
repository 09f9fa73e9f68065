//! The command line: what there is to type, and the exit codes. Each command has a file of its own; `cluster` runs a
//! cluster of child processes for `dev` and `bench`.

mod author;
mod call;
mod cluster;
mod connect;
mod descriptors;
mod dev;
mod failure;
mod machine;
mod module;
mod module_test;
mod module_trial;
mod output;
mod serve;
mod status;
mod transfer;
mod watch;

use std::{ffi::OsString, future::Future, process::ExitCode, time::Duration};

use clap::{Args, Parser, Subcommand};

pub(crate) use cluster::{LocalCluster, free_ports};
pub(crate) use connect::{Connection, endpoint};
pub(crate) use descriptors::Service;
pub(crate) use dev::StopSignals;
pub(crate) use failure::{Failure, status_name};
pub(crate) use module::{activate, digest_of, list, read, upload};
pub(crate) use output::{Output, counted, grouped};

use crate::{bench, settings::parse_duration};

const EXAMPLES: &str = "\
Examples:
  telegraft dev --module chat.wasm                 a cluster of three hosts to try things on
  telegraft status                                 its hosts, and who leads
  telegraft call chat.v1.Chat/CreateUser '{\"name\": \"alice\"}'
  telegraft module activate kv.wasm                upload another module and switch to it
  telegraft machine limits --set fuel=500000000    change a budget, on every host alike
  telegraft module rehearse kv.wasm --last 1000    replay the newest commands with it first, on a copy
  telegraft cluster transfer-leader --to 2         have host 2 lead
  telegraft module new my-poll --language rust     begin a module of your own
  telegraft serve --config host.toml               one host of a real cluster
  telegraft config > host.toml                     all settings, to begin from

Exit codes:
  0  all is well
  1  the cluster refused, or what was checked is not as it must be
  2  the command line, the input or the configuration is wrong
  3  no host can be reached";

/// Replicated state machines from WebAssembly components
#[derive(Parser, Debug)]
#[command(name = "telegraft", version, about, after_help = EXAMPLES, max_term_width = 120)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Every command")]
struct Global {
    /// A host's client address; may be given several times: the next is tried where one cannot be reached
    #[arg(long = "host", global = true, value_name = "ADDR", default_value = "127.0.0.1:7400")]
    hosts_to_try: Vec<String>,
    /// Print JSON, for machines
    #[arg(long, global = true)]
    json: bool,
    /// How long an answer may take
    #[arg(long, global = true, value_name = "TIME", default_value = "5s", value_parser = parse_duration)]
    timeout: Duration,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Run one host of a cluster
    Serve(Box<serve::ServeArgs>),
    /// Run a whole cluster on this machine, to try things on
    Dev(dev::DevArgs),
    /// Show every host of the cluster: role, term, commit, applied, lag, module
    Status(status::StatusArgs),
    /// Hand leadership over
    #[command(subcommand)]
    Cluster(transfer::ClusterCommand),
    /// Begin, build, test, try, activate, list and take back modules
    #[command(subcommand)]
    Module(module::ModuleCommand),
    /// Show and set a machine's budgets, and show its past
    #[command(subcommand)]
    Machine(machine::MachineCommand),
    /// Send a write through the log
    #[command(
        after_help = "Example:\n  telegraft request chat.v1.Chat/CreateUser '{\"name\": \"alice\"}' --client-id me --request-id 1"
    )]
    Request(call::RequestArgs),
    /// Ask for a read
    #[command(
        after_help = "Example:\n  telegraft query chat.v1.Chat/GetChatUsers '{\"chatId\": \"…\"}' --consistency at-least:42"
    )]
    Query(call::QueryArgs),
    /// Call a method of the module's own service, as any gRPC client does
    #[command(after_help = "Example:\n  telegraft call chat.v1.Chat/SendMessage @message.json --host 127.0.0.1:7410")]
    Call(call::CallArgs),
    /// Print the effective settings, as a file has them
    Config(Box<serve::SettingArgs>),
    /// Put load on a cluster and print one JSON line of figures
    Bench(bench::BenchArgs),
}

/// Does what the command line says.
pub fn run() -> ExitCode {
    let Cli { global, command } = match Cli::try_parse() {
        Ok(parsed) => parsed,
        // Help and version are answers, and are printed as ever.
        Err(error) if error.use_stderr() && asks_for_json(std::env::args_os()) => return usage(&error).report(true),
        Err(error) => error.exit(),
    };
    let output = Output::new(global.json);
    let (hosts, timeout) = (&global.hosts_to_try, global.timeout);
    let result = match &command {
        Command::Serve(args) => serve::serve(args),
        Command::Config(args) => serve::config(args, output),
        Command::Dev(args) => block_on(dev::run(args, timeout, output)),
        Command::Status(args) => block_on(status::run(hosts, timeout, args, output)),
        Command::Cluster(command) => block_on(transfer::run(hosts, timeout, command, output)),
        Command::Module(command) => block_on(module::run(hosts, timeout, command, output)),
        Command::Machine(command) => block_on(machine::run(hosts, timeout, command, output)),
        Command::Request(args) => block_on(call::request(hosts, timeout, args, output)),
        Command::Query(args) => block_on(call::query(hosts, timeout, args, output)),
        Command::Call(args) => block_on(call::call(hosts, timeout, args, output)),
        Command::Bench(args) => bench::run(args, hosts, timeout, output),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(output.json),
    }
}

/// Whether `--json` is on a command line, also on one that is wrong.
fn asks_for_json(mut arguments: impl Iterator<Item = OsString>) -> bool {
    arguments.by_ref().skip(1).take_while(|argument| argument != "--").any(|argument| argument == "--json")
}

/// What is wrong with the command line, as other failures are told.
fn usage(error: &clap::Error) -> Failure {
    let text = error.render().to_string();
    Failure::usage(text.strip_prefix("error: ").unwrap_or(&text).trim_end())
}

/// Runs a command on this thread: a client needs no more, and children's fates hang on the thread that started them.
fn block_on(command: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::refused(format!("no runtime: {error}")))?;
    let result = runtime.block_on(command);
    // A read of standard input or a name look-up may still hang; nobody waits for it.
    runtime.shutdown_background();
    result
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_setting_is_a_flag_of_serve() {
        let command = Cli::command();
        let serve = command.find_subcommand("serve").unwrap();
        for key in crate::settings::KEYS {
            let flag = key.flag();
            let argument = serve.get_arguments().find(|argument| argument.get_long() == Some(flag.as_str()));
            let help = argument.unwrap_or_else(|| panic!("serve has no --{flag}")).get_help().unwrap().to_string();
            assert!(help.contains(&key.variable()), "{help}");
        }
    }

    #[test]
    fn a_wrong_command_line_is_told_as_other_failures_are() {
        let failure = usage(&parse("telegraft module rehearse m.wasm --last 0 --json").unwrap_err());
        assert_eq!(failure.kind.exit_code(), 2);
        let message = failure.details["message"].as_str().unwrap();
        assert!(
            message.starts_with("invalid value '0' for '--last <N>'") && !message.contains('\u{1b}'),
            "{message:?}"
        );

        let asks = |line: &str| asks_for_json(line.split_whitespace().map(OsString::from));
        assert!(asks("telegraft --json no-such-command") && asks("telegraft call --colour --json"));
        assert!(!asks("telegraft call m -- --json") && !asks("telegraft status"));
    }

    #[test]
    fn global_flags_stand_anywhere() {
        let cli = parse("telegraft status --host a:1 --host b:2 --timeout 150ms --json").unwrap();
        assert_eq!(cli.global.hosts_to_try, ["a:1", "b:2"]);
        assert_eq!(cli.global.timeout, Duration::from_millis(150));
        assert!(cli.global.json);
        assert_eq!(parse("telegraft status").unwrap().global.hosts_to_try, ["127.0.0.1:7400"]);
    }

    #[test]
    fn every_command_parses_with_global_flags() {
        // Also guards against an argument of a command that has a global one's name.
        for line in [
            "serve --config h.toml --raft-tick 5ms",
            "dev --hosts 5 --module m.wasm --activate-reuse",
            "dev --module my-poll --watch",
            "module new my-poll --language rust",
            "module new my-poll --language javascript folder",
            "module build",
            "module build my-poll",
            "status --hosts a:1,b:2 --digest",
            "cluster transfer-leader",
            "cluster transfer-leader --to 2",
            "module upload m.wasm",
            "module activate 0123456789 --reuse",
            "module activate m.wasm --dry-run --reuse",
            "module rehearse m.wasm --last 100 --reuse",
            "module list",
            "module inspect m.wasm",
            "module rollback --discard-since-activation --yes",
            "machine limits",
            "machine limits --set fuel=5 --set value_bytes=2MiB",
            "machine history --limit 3",
            "module test m.wasm --scenario s.toml --seeds 5 --first 7 --jobs 2",
            "module test m.wasm --scenario s.toml --seed 3",
            "request M {} --client-id me --request-id 3",
            "request M --raw 00ff",
            "query M {} --consistency at-least:3",
            "call M @- --consistency local",
            "config --hosts 1=a:1/a:2",
            "bench --own-cluster --module m.wasm --kill-leader",
            "bench --own-cluster --module m.wasm --stop-leader",
            "bench --own-cluster --module m.wasm --idle 5",
            "bench --hosts a:1,b:2 --clients 1",
        ] {
            let cli = parse(&format!("telegraft {line} --json --timeout 1s --host a:1"))
                .unwrap_or_else(|e| panic!("{line}: {e}"));
            assert!(cli.global.json, "{line}");
        }
    }

    #[test]
    fn bad_usage_is_exit_code_2_and_help_is_0() {
        for line in [
            "telegraft",
            "telegraft fly",
            "telegraft status --timeout soon",
            "telegraft request M {} --raw 00",
            "telegraft cluster transfer-leader --to 0",
            "telegraft machine limits --set fuel",
            "telegraft machine limits --set fule=5",
            "telegraft machine limits --set fuel=5MiB",
            "telegraft machine limits --set value_bytes=0",
            "telegraft dev --watch",
            "telegraft module new my-poll",
            "telegraft module new my-poll --language cobol",
        ] {
            let error = parse(line).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{line}: {error}");
        }
        assert_eq!(parse("telegraft --help").unwrap_err().exit_code(), 0);
    }
}
