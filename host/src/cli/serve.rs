//! `serve` and `config`: one host in this process, and the settings it would run with. The flags are made from the list of
//! keys, so every key has one.

use std::{io::IsTerminal, path::PathBuf, sync::LazyLock};

use clap::{Arg, ArgMatches, Args, Command, FromArgMatches};
use serde_json::json;
use tracing_subscriber::EnvFilter;

use super::{failure::Failure, output::Output};
use crate::settings::{KEYS, Key, Loaded, LogFormat, Settings, Sources, TelemetrySettings, load};

/// A flag for every setting.
#[derive(Clone, Debug, Default)]
pub struct SettingFlags {
    given: Vec<(String, String)>,
}

/// Name and help of each key's flag. Made once, for clap wants text that lives as long as the program.
static FLAGS: LazyLock<Vec<(&'static Key, String, String)>> = LazyLock::new(|| {
    let defaults = toml::Value::try_from(Settings::default()).ok();
    KEYS.iter()
        .map(|key| {
            let default =
                defaults.as_ref().and_then(|all| key.path.split('.').try_fold(all, |table, name| table.get(name)));
            let default = match default {
                None | Some(toml::Value::Array(_) | toml::Value::Table(_)) => String::new(),
                Some(toml::Value::String(text)) => format!(" [default: {text}]"),
                Some(other) => format!(" [default: {other}]"),
            };
            (key, key.flag(), format!("{}{default} [env: {}]", key.help, key.variable()))
        })
        .collect()
});

impl FromArgMatches for SettingFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut flags = Self::default();
        flags.update_from_arg_matches(matches)?;
        Ok(flags)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        for key in KEYS {
            if let Some(value) = matches.get_one::<String>(key.path) {
                self.given.push((key.path.to_owned(), value.clone()));
            }
        }
        Ok(())
    }
}

impl Args for SettingFlags {
    fn augment_args(command: Command) -> Command {
        FLAGS.iter().fold(command, |command, (key, flag, help)| {
            let argument = Arg::new(key.path).long(flag.as_str()).value_name(key.shape).help(help.as_str());
            command.arg(argument.help_heading("Settings (flag > variable > file > default)"))
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

/// Where the settings come from.
#[derive(Args, Clone, Debug)]
pub struct SettingArgs {
    /// TOML file; `telegraft config` prints one with everything in it
    #[arg(long, value_name = "FILE", env = "TELEGRAFT_CONFIG")]
    config: Option<PathBuf>,
    #[command(flatten)]
    flags: SettingFlags,
}

impl SettingArgs {
    fn load(&self) -> Result<Loaded, Failure> {
        let mut sources = Sources::of_process(self.config.clone());
        sources.flags = self.flags.given.clone();
        let loaded = load(&sources)?;
        for warning in &loaded.warnings {
            eprintln!("warning: {warning}");
        }
        Ok(loaded)
    }
}

/// `telegraft serve`
#[derive(Args, Debug)]
pub struct ServeArgs {
    #[command(flatten)]
    settings: SettingArgs,
    /// End at once when the process with this id, our parent, ends
    #[arg(long, value_name = "PID", hide = true)]
    end_with: Option<i32>,
}

/// Runs one host until it is told to stop.
pub fn serve(args: &ServeArgs) -> Result<(), Failure> {
    if let Some(parent) = args.end_with {
        end_with(parent)?;
    }
    let loaded = args.settings.load()?;
    start_log(&loaded.settings.telemetry)?;
    crate::server::serve(loaded.settings).map_err(|error| Failure::refused(format!("the host stopped: {error:#}")))
}

/// From now on the host's log goes to stderr.
fn start_log(telemetry: &TelemetrySettings) -> Result<(), Failure> {
    // The settings' check has read the level already.
    let filter = EnvFilter::try_new(&telemetry.log_level)
        .map_err(|error| Failure::usage(format!("telemetry.log_level: {error}")))?;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    let started = match telemetry.log_format {
        LogFormat::Text => lines.try_init(),
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    };
    started.map_err(|error| Failure::refused(format!("the log cannot start: {error}")))
}

/// Has the kernel kill this process when its parent ends, however that ends: a host that somebody tries out must not
/// linger unseen. SIGKILL, since nobody is left to wait for a clean end, and a host must survive it anyway.
#[cfg(target_os = "linux")]
fn end_with(parent: i32) -> Result<(), Failure> {
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)
        .map_err(|error| Failure::refused(format!("the end of the parent cannot be watched: {error}")))?;
    // It may have ended before we asked.
    if nix::unistd::getppid().as_raw() != parent {
        return Err(Failure::refused("the parent process has ended"));
    }
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn end_with(_parent: i32) -> Result<(), Failure> {
    Ok(())
}

/// Prints the effective settings, in the form in which a file has them.
pub fn config(args: &SettingArgs, output: Output) -> Result<(), Failure> {
    let loaded = args.load()?;
    if output.json {
        let origins: serde_json::Map<_, _> =
            loaded.origins.iter().map(|(key, origin)| ((*key).to_owned(), json!(origin.to_string()))).collect();
        return output.json(&json!({ "settings": loaded.settings, "origins": origins }));
    }
    let text = toml::to_string(&loaded.settings)
        .map_err(|error| Failure::refused(format!("the settings cannot be printed as TOML: {error}")))?;
    if !loaded.origins.is_empty() {
        output.line("# Not defaults:");
        for (key, origin) in &loaded.origins {
            output.line(&format!("#   {key} (from {origin})"));
        }
        output.line("");
    }
    output.line(text.trim_end());
    Ok(())
}
