//! An event as a line of the log. The level says whether somebody should look: `warn` where traffic moved or something was
//! not as it should be, `error` where the agent could not do what it had to.

use super::event::Event;

/// Writes the line.
#[allow(clippy::too_many_lines)] // One arm for each event: a list, not a procedure.
pub(super) fn write(event: &Event) {
    match event {
        Event::Started { release, .. } => tracing::info!(version = release, "started"),
        Event::Stopping { on_stop } => tracing::info!(?on_stop, "stopping"),
        Event::TookOver { service, active, epoch } => {
            tracing::info!(service, active, epoch, "took over what an earlier agent left");
        }
        Event::Ready {} => tracing::info!("ready"),
        Event::Switch { service, from, to, kind, reason, epoch, policy, detected_in_ms, .. } => {
            tracing::warn!(service, from, to, epoch, %kind, flows = %policy, detected_in_ms, reason, "switch");
        }
        Event::FlowsReset { service, member, epoch, reset, waiting, after_ms } => {
            tracing::info!(service, member, epoch, reset, waiting, after_ms, "reset stale flows");
        }
        Event::MemberChanged { service, member, state, reason, trouble, borne_ms, signal, signalled_ms } => {
            let trouble = trouble.map(|kind| kind.to_string());
            tracing::info!(
                service, member, %state, trouble, borne_ms, signal, signalled_ms, reason, "member changed"
            );
        }
        Event::Signal { service, member, signal, count, began_ms, looked } => {
            tracing::info!(service, member, signal, count, began_ms, looked, "signal of the kernel");
        }
        Event::AddressChanged { service, member, address, state, reason } => {
            tracing::info!(service, member, %address, %state, reason, "address changed");
        }
        Event::AddressesChanged { service, member, from, to, left_out } => {
            tracing::info!(service, member, from, to, left_out, "the endpoint has other addresses");
        }
        Event::Offered { service, member, offered, left_out } => {
            tracing::debug!(service, member, ?offered, ?left_out, "addresses offered");
        }
        Event::AddressReset { service, member, address, removed } => {
            tracing::info!(service, member, %address, removed, "its flows are reset");
        }
        Event::DrainBegan { service, member, epoch, lasts_ms } => {
            tracing::info!(service, member, epoch, lasts_ms, "drain began");
        }
        Event::DrainEnded { service, member: None, epoch, .. } => {
            tracing::info!(service, epoch, "drain ended");
        }
        Event::DrainEnded { service, member, epoch, reason } => {
            tracing::warn!(service, member, epoch, reason, "drain ended early: its member is down");
        }
        Event::CheckInconclusive { service, member, address, check, outcome, reason } => tracing::warn!(
            service,
            member,
            %address,
            check,
            outcome,
            reason,
            "the check says nothing about the member, and counts for nothing"
        ),
        Event::CheckConclusive { service, member, address, check, reason } => {
            tracing::info!(service, member, %address, check, reason, "the check says something again");
        }
        Event::Operator { verb, service, member, dry_run, who, reason, result, message } => tracing::warn!(
            verb,
            service,
            member,
            dry_run,
            uid = who.uid,
            user = who.user,
            login = who.login,
            gid = who.gid,
            pid = who.pid,
            command = who.command,
            reason,
            result,
            message,
            "operator"
        ),
        Event::Reload { done: true, changes, .. } => {
            changes.iter().for_each(|change| tracing::info!("{change}"));
            tracing::warn!(changes = changes.len(), "reloaded");
        }
        // A line for each fault of the file.
        Event::Reload { error, .. } => {
            error
                .iter()
                .flat_map(|error| error.lines())
                .for_each(|line| tracing::error!("not reloaded: {line}"));
        }
        Event::NetworkRestored { what } => tracing::warn!("{what}"),
        Event::Late { late_ms, more } => tracing::warn!(
            late_ms,
            more,
            "the agent was not scheduled for a while, or the machine slept: a member that went down since is left only \
             when another probe has failed too"
        ),
        Event::Hook { service, hook, when, done: true, result, took_ms } => {
            tracing::info!(service, hook, when, result, took_ms, "hook");
        }
        Event::Hook { service, hook, when, result, took_ms, .. } => {
            tracing::warn!(service, hook, when, result, took_ms, "the hook failed");
        }
        Event::Error { service, member, message } => tracing::error!(service, member, "{message}"),
        // Only in streams.
        Event::Lost { .. } => {}
    }
}
