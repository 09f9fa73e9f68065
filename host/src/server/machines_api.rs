//! `telegraft.v1.Machines`: a machine's budgets, which are changed through the log, and its past.

use prost::Message as _;
use telegraft_proto::{
    internal::{self, Command, SetLimits, command::Body},
    v1::{
        Budgets, GetHistory, GetLimits, HistoryEntry, MachineHistory, MachineLimits, SetMachineLimits,
        machines_server::Machines,
    },
};
use telegraft_sandbox::{HistoryRecord, Limits, MachineReader};
use tonic::{Request, Response, Status};

use super::{
    client_api::{Calls, check_machine, timeout},
    errors::bad_call,
    modules_api::unreadable,
};

/// Serves budgets and history.
#[derive(Clone)]
pub struct MachinesService {
    /// The way of writes.
    pub calls: Calls,
    /// Knows what has been applied here.
    pub machine: MachineReader,
}

#[tonic::async_trait]
impl Machines for MachinesService {
    async fn limits(&self, request: Request<GetLimits>) -> Result<Response<MachineLimits>, Status> {
        check_machine(&request.get_ref().machine)?;
        let (index, limits, used) = self.machine.limits().map_err(unreadable)?;
        Ok(Response::new(answer(index, limits, used)))
    }

    async fn set_limits(&self, request: Request<SetMachineLimits>) -> Result<Response<MachineLimits>, Status> {
        let timeout = timeout(request.metadata());
        let SetMachineLimits { machine, budgets } = request.into_inner();
        check_machine(&machine)?;
        self.calls.check_goes_on()?;
        let asked = budgets.unwrap_or_default();
        check(&asked)?;
        let set = SetLimits { limits: Some(to_internal(&asked)) };
        let command = Command { body: Some(Body::SetLimits(set)), ..Command::default() };
        let deadline = self.calls.writes.deadline(timeout);
        let (index, reply) = self.calls.writes.submit(command, deadline).await?;
        let in_force = internal::Limits::decode(reply)
            .map_err(|e| Status::internal(format!("the machine's answer cannot be decoded: {e}")))?;
        self.calls.wait_for(index, deadline).await;
        let (_, _, used) = self.machine.limits().map_err(unreadable)?;
        Ok(Response::new(answer(index, Limits::from(&in_force), used)))
    }

    async fn history(&self, request: Request<GetHistory>) -> Result<Response<MachineHistory>, Status> {
        let GetHistory { machine, limit } = request.into_inner();
        check_machine(&machine)?;
        let limit = if limit == 0 { usize::MAX } else { usize::try_from(limit).unwrap_or(usize::MAX) };
        let entries = self.machine.history(limit).map_err(unreadable)?.into_iter().map(entry).collect();
        Ok(Response::new(MachineHistory { entries }))
    }
}

/// Refuses a request that changes nothing, and budgets beyond what can be set: better said here than mended in silence.
fn check(asked: &Budgets) -> Result<(), Status> {
    if *asked == Budgets::default() {
        return Err(bad_call("no budget is given: set at least one to a value greater than 0"));
    }
    let (min, max) = (budgets(Limits::MIN), budgets(Limits::MAX));
    let bounds = fields(&min).into_iter().zip(fields(&max));
    let wrong: Vec<String> = fields(asked)
        .into_iter()
        .zip(bounds)
        .filter_map(|((name, asked), ((_, least), (_, most)))| match asked {
            0 => None,
            _ if asked > most => Some(format!("{name} can be set to {most} at most, and {asked} was asked for")),
            _ if asked < least => Some(format!("{name} can be set to {least} at least, and {asked} was asked for")),
            _ => None,
        })
        .collect();
    if wrong.is_empty() { Ok(()) } else { Err(bad_call(wrong.join("; "))) }
}

fn answer(index: u64, limits: Limits, used: u64) -> MachineLimits {
    MachineLimits {
        budgets: Some(budgets(limits)),
        max: Some(budgets(Limits::MAX)),
        default: Some(budgets(Limits::DEFAULT)),
        database_bytes_used: used,
        index,
    }
}

/// The clients' message and the log's are of one form, and each may grow alone. Every field is named, so none can be forgotten.
macro_rules! same_in_both {
    ($($field:ident),+) => {
        fn fields(budgets: &Budgets) -> Vec<(&'static str, u64)> {
            vec![$((stringify!($field), budgets.$field)),+]
        }

        fn budgets(limits: Limits) -> Budgets {
            let internal::Limits { $($field),+ } = limits.into();
            Budgets { $($field),+ }
        }

        fn to_internal(asked: &Budgets) -> internal::Limits {
            let Budgets { $($field),+ } = *asked;
            internal::Limits { $($field),+ }
        }
    };
}

same_in_both!(
    fuel,
    memory_bytes,
    sql_steps,
    rows,
    result_bytes,
    reply_bytes,
    value_bytes,
    database_bytes,
    module_bytes
);

fn entry(record: HistoryRecord) -> HistoryEntry {
    HistoryEntry {
        index: record.index,
        time_us: record.time_us,
        what: record.what,
        digest: record.digest.map(|digest| digest.to_string()).unwrap_or_default(),
        name: record.name,
        version: record.version,
        schema: record.schema,
        engine: record.engine,
        detail: record.detail,
        commands: record.commands,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_above_the_maximum_is_named_with_both_figures() {
        let asked = Budgets { fuel: Limits::MAX.fuel + 1, rows: 1, ..Budgets::default() };
        let refused = check(&asked).unwrap_err();
        assert_eq!(refused.code(), tonic::Code::InvalidArgument);
        let most = Limits::MAX.fuel;
        let expected = format!("fuel can be set to {most} at most, and {} was asked for", most + 1);
        assert!(refused.message().contains(&expected) && !refused.message().contains("rows"), "{refused:?}");
        assert!(check(&budgets(Limits::MAX)).is_ok());
        assert!(check(&Budgets::default()).is_err(), "nothing to change");
        let refused = check(&Budgets { value_bytes: 1000, ..Budgets::default() }).unwrap_err();
        assert!(refused.message().contains("value_bytes can be set to 262144 at least"), "{refused:?}");
    }

    #[test]
    fn no_budget_is_lost_on_the_way() {
        let all = budgets(Limits::MAX);
        assert!(fields(&all).iter().all(|(_, value)| *value > 0));
        assert_eq!(budgets(Limits::from(&to_internal(&all))), all);
    }
}
