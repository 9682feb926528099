//! `redirector member`: a member more, a member less, another weight.

use std::{io::Write, path::Path};

use clap::{Args, Subcommand};

use super::{
    Exit,
    operator::{self, ChangeArgs, WeightArgs},
    reload::{self, ForceArgs},
    service_name,
};
use crate::{
    config,
    control::reload::{NewMember, Wish},
    model::Endpoint,
};

/// `member`
#[derive(Clone, Debug, Subcommand)]
pub enum MemberVerb {
    /// Give a member another weight, until the configuration gives it another one
    Weight(WeightArgs),
    /// Add a member to a service, until the next reload or restart; not where a `lag` check asks a REST API of each member
    Add(AddArgs),
    /// Remove a member from a service, until the next reload or restart; its flows end as after a failback
    Remove(RemoveArgs),
}

/// `member add`
#[derive(Clone, Debug, Args)]
pub struct AddArgs {
    /// Service
    #[arg(value_parser = service_name)]
    pub service: String,
    /// Name of the member
    #[arg(value_parser = service_name)]
    pub member: String,
    /// Where it is; it is checked and entered as the service's first member is
    #[arg(value_name = "HOST:PORT", value_parser = endpoint)]
    pub endpoint: Endpoint,
    /// Its weight: the healthy member with the highest one is active
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..), default_value = "100")]
    pub weight: u32,
    /// What all of them take.
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// `member remove`
#[derive(Clone, Debug, Args)]
pub struct RemoveArgs {
    /// Service
    #[arg(value_parser = service_name)]
    pub service: String,
    /// Member
    #[arg(value_parser = service_name)]
    pub member: String,
    /// What all of them take that may take an active member away.
    #[command(flatten)]
    pub force: ForceArgs,
    /// What all of them take.
    #[command(flatten)]
    pub change: ChangeArgs,
}

fn endpoint(text: &str) -> Result<Endpoint, String> {
    config::endpoint(text).map_err(|(cause, next)| format!("{cause}; {next}"))
}

/// Has the agent do it. Writes what became of it to `out` and errors to `err`.
pub async fn run(socket: &Path, verb: MemberVerb, out: &mut impl Write, err: &mut impl Write) -> Exit {
    let (wish, force, change) = match verb {
        MemberVerb::Weight(args) => return operator::run(socket, args, out, err).await,
        MemberVerb::Add(AddArgs { service, member, endpoint, weight, change }) => {
            (Wish::Add { service, member: NewMember { name: member, endpoint, weight } }, false, change)
        }
        MemberVerb::Remove(RemoveArgs { service, member, force, change }) => {
            (Wish::Remove { service, member }, force.force, change)
        }
    };
    reload::ask(socket, wish, force, change, out, err).await
}
