//! `cluster`: what an operator asks of a whole cluster. So far: that another host lead.

use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::json;
use telegraft_proto::v1::{TransferLeadership, TransferredLeadership, cluster_client::ClusterClient};

use super::{connect::Connection, failure::Failure, output::Output};

/// `telegraft cluster`
#[derive(Subcommand, Debug)]
pub enum ClusterCommand {
    /// Hand leadership to another host; returns when it leads
    #[command(after_help = "\
Examples:
  telegraft cluster transfer-leader              to the voter whose log is the most complete
  telegraft cluster transfer-leader --to 2       to host 2; nothing happens where that leads already

Writes wait meanwhile, for some milliseconds as a rule. After an election timeout the leader gives up and goes on leading.
A host that is stopped (SIGTERM, Ctrl-C) hands leadership over by itself.")]
    TransferLeader(TransferArgs),
}

/// `telegraft cluster transfer-leader`
#[derive(Args, Debug)]
pub struct TransferArgs {
    /// Who is to lead [default: the voter whose log is the most complete]
    #[arg(long, value_name = "HOST_ID", value_parser = clap::value_parser!(u64).range(1..))]
    to: Option<u64>,
}

/// Runs a `cluster` command.
pub async fn run(hosts: &[String], timeout: Duration, command: &ClusterCommand, output: Output) -> Result<(), Failure> {
    match command {
        ClusterCommand::TransferLeader(args) => {
            let connection = Connection::to_any(hosts, timeout).await?;
            let wish = TransferLeadership { machine: String::new(), to: args.to.unwrap_or(0) };
            let done = ClusterClient::new(connection.channel.clone()).transfer_leader(connection.request(wish)).await;
            let done = done.map_err(|status| Failure::of_status("leadership was not transferred", &status))?;
            print(&done.into_inner(), output)
        }
    }
}

fn print(done: &TransferredLeadership, output: Output) -> Result<(), Failure> {
    let changed = done.leader_id != done.previous_leader_id;
    if output.json {
        return output.json(&json!({
            "changed": changed, "leader_id": done.leader_id, "leader_address": done.leader_address, "term": done.term,
            "previous_leader_id": done.previous_leader_id,
        }));
    }
    let TransferredLeadership { leader_id, leader_address, term, previous_leader_id } = done;
    output.line(&if changed {
        format!("host {leader_id} ({leader_address}) leads now, in term {term}; before, host {previous_leader_id} did")
    } else {
        format!("host {leader_id} ({leader_address}) leads already, in term {term}")
    });
    Ok(())
}
