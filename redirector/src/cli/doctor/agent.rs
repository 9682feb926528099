//! Rows about what runs: the agent, its pins, programs on the hooks.

use std::path::Path;

use redirector_common::layout;

use super::row::{Area, Row};
use crate::{
    control::{
        client::{self, ClientError},
        status::Status,
    },
    datapath::doctor::{Hook, Pins, pins::State},
};

/// What answers on the control socket.
#[derive(Clone, Debug)]
pub(super) enum Answer {
    /// An agent.
    Status(Status),
    /// Nobody.
    None,
    /// Somebody, but not what was asked for; cause and next step.
    Error(String),
}

impl Answer {
    pub(super) async fn ask(socket: &Path) -> Self {
        match client::status(socket, None).await {
            Ok(status) => Self::Status(status),
            Err(ClientError::NotRunning { .. }) => Self::None,
            Err(error) => Self::Error(error.to_string()),
        }
    }
}

pub(super) fn agent(answer: &Answer, socket: &Path, pins: &Pins) -> Row {
    match answer {
        Answer::Status(status) => {
            let services: Vec<_> =
                status.services.iter().map(|service| format!("{} {}", service.name, service.state)).collect();
            Row::good(Area::Agent, "agent", format!("runs: {}", services.join(", ")))
        }
        Answer::Error(error) => Row::warning(Area::Agent, "agent", "does not answer properly", error),
        Answer::None if matches!(pins.state, State::Usable | State::Broken(_)) => Row::warning(
            Area::Agent,
            "agent",
            "none runs; traffic goes on with the last decision",
            format!(
                "nobody checks the members: start it (`redirector run`), or remove what it left (`redirector uninstall`); \
                 it would listen on {}",
                socket.display()
            ),
        ),
        Answer::None => Row::note(
            Area::Agent,
            "agent",
            "none runs",
            format!("start it (`redirector run`); it would listen on {}", socket.display()),
        ),
    }
}

pub(super) fn pins(found: &Pins) -> Vec<Row> {
    let mut rows = Vec::new();
    for pin in &found.stale {
        rows.push(
            Row::note(
                Area::Agent,
                "stale_pin",
                "its device is gone",
                "nothing: it runs nowhere, and the next start removes it",
            )
            .about(pin),
        );
    }
    rows.push(match &found.state {
        State::Empty => Row::good(Area::Agent, "pins", "none"),
        State::Usable => Row::good(
            Area::Agent,
            "pins",
            format!("{} links, and all maps of layout {}", found.links, layout::VERSION),
        ),
        State::Dead(why) => Row::note(
            Area::Agent,
            "pins",
            format!("remains: {why}"),
            "nothing: the next start or `redirector uninstall` removes them",
        ),
        State::Broken(what) => Row::warning(
            Area::Agent,
            "pins",
            format!("programs run, but {what}"),
            "start the agent: it begins anew, and flows end with the next packet of each client",
        ),
        State::Refused(sentence) => Row::bad(Area::Agent, "pins", "cannot be taken over", sentence),
    });
    rows
}

/// A row for each hook. `refused` is why an agent would not take the VIP device.
pub(super) fn hooks(hooks: &[Hook], vip_device: &str, pins: &Pins, refused: Option<&str>) -> Vec<Row> {
    let installed = pins.state == State::Usable;
    let mut rows: Vec<_> = hooks.iter().map(|found| hook(found, installed)).collect();
    if let Some(sentence) = refused {
        rows.push(Row::bad(Area::Agent, "vip_device", "belongs to another agent", sentence));
    } else if installed && !hooks.iter().any(|hook| hook.device == vip_device) {
        rows.push(Row::bad(
            Area::Agent,
            "vip_device",
            format!("there is no {vip_device} any more"),
            "no packet reaches a VIP; start the agent again, which makes it anew",
        ));
    }
    rows
}

fn hook(hook: &Hook, installed: bool) -> Row {
    let subject = format!("{} {}", hook.device, hook.direction.name());
    let row = |row: Row| row.about(&subject);
    let Some(programs) = &hook.programs else {
        return row(Row::note(
            Area::Agent,
            "hook",
            "programs, which this process may not look at",
            "run `redirector doctor` as root: it takes CAP_SYS_ADMIN",
        ));
    };
    let mut met = Vec::new();
    for program in programs {
        let whose = match (program.ours, program.redirectors) {
            (true, _) => ", ours",
            (false, true) => ", another agent's",
            (false, false) => "",
        };
        let name = if program.name.is_empty() { "without a name" } else { &program.name };
        met.push(format!("{name} (tcx, id {}{whose})", program.id));
    }
    for filter in &hook.filters {
        let name = filter.program.as_deref().unwrap_or(&filter.kind);
        met.push(format!("{name} (clsact, priority {})", filter.priority));
    }
    let found = if met.is_empty() { "nothing".to_owned() } else { met.join(", then ") };

    let ours = programs.iter().filter(|program| program.ours).count()
        + hook.filters.iter().filter(|filter| filter.redirectors).count();
    let foreign = met.len() - ours;
    let others = programs.iter().filter(|program| program.redirectors && !program.ours).count();
    match ours {
        0 if installed => row(Row::bad(
            Area::Agent,
            "hook",
            found,
            "the program of Redirector's is missing, and packets pass untranslated; start the agent again",
        )),
        2.. => row(Row::warning(
            Area::Agent,
            "hook",
            found,
            "Redirector's program runs more than once; stop the agent and start it again",
        )),
        _ if others > 0 => row(Row::warning(
            Area::Agent,
            "hook",
            found,
            "a program of Redirector's without a pin here, of an agent with another pin_dir; stop that one, or use devices \
             apart",
        )),
        _ if foreign > 0 => row(Row::note(
            Area::Agent,
            "hook",
            found,
            "nothing, as long as both work: whoever stands first sees packets first, and what he redirects or drops never \
             comes to those behind",
        )),
        _ => row(Row::good(Area::Agent, "hook", found)),
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::row::Verdict::{Bad, Good, Note, Warning},
        *,
    };
    use crate::datapath::doctor::{Direction, Program, hooks::Filter};

    const OURS: (&str, bool, bool) = ("redirector_egre", true, true);
    const OTHERS: (&str, bool, bool) = ("redirector_egre", false, true);
    const FOREIGN: (&str, bool, bool) = ("cil_to_netdev", false, false);

    fn with(programs: &[(&str, bool, bool)]) -> Hook {
        let program = |(id, (name, ours, redirectors)): (u32, &(&str, bool, bool))| Program {
            id,
            name: (*name).to_owned(),
            ours: *ours,
            redirectors: *redirectors,
        };
        Hook {
            device: "redirector0".into(),
            direction: Direction::Egress,
            programs: Some((0..).zip(programs).map(program).collect()),
            filters: Vec::new(),
        }
    }

    #[test]
    fn one_program_is_good_and_any_other_number_is_not() {
        assert_eq!(hook(&with(&[OURS]), true).verdict, Good);
        assert_eq!(hook(&with(&[OURS, OURS]), true).verdict, Warning);
        assert_eq!(hook(&with(&[]), true).verdict, Bad);
        assert_eq!(hook(&with(&[]), false).verdict, Good);
        assert_eq!(hook(&with(&[OURS, OTHERS]), true).verdict, Warning);
        assert_eq!(hook(&Hook { programs: None, ..with(&[]) }, true).verdict, Note);
    }

    #[test]
    fn a_vip_device_that_is_gone_or_another_agents_is_bad() {
        let left = Pins { links: 1, stale: Vec::new(), state: State::Usable };
        let of =
            |found: &[Hook], pins: &Pins, refused: Option<&str>| hooks(found, "redirector0", pins, refused);
        assert_eq!(of(&[], &left, None)[0].verdict, Bad);
        assert!(of(&[], &Pins::none(), None).is_empty(), "nothing is installed");
        assert_eq!(of(&[with(&[OURS])], &left, None).len(), 1);
        let rows = of(&[with(&[OTHERS])], &Pins::none(), Some("another agent's"));
        assert_eq!((rows[1].verdict, rows[1].next.as_deref()), (Bad, Some("another agent's")));
    }

    #[test]
    fn programs_of_others_are_named_in_their_order() {
        let mut found = with(&[FOREIGN, OURS]);
        found.filters.push(Filter { kind: "flower".into(), priority: 7, program: None, redirectors: false });
        let row = hook(&found, true);
        assert_eq!(row.verdict, Note);
        assert_eq!(
            row.found,
            "cil_to_netdev (tcx, id 0), then redirector_egre (tcx, id 1, ours), then flower (clsact, priority 7)"
        );
        assert_eq!(row.subject.as_deref(), Some("redirector0 egress"));
    }

    #[test]
    fn pins_without_an_agent_are_a_warning() {
        let socket = Path::new("/run/control.sock");
        let left = Pins { links: 2, stale: Vec::new(), state: State::Usable };
        assert_eq!(agent(&Answer::None, socket, &left).verdict, Warning);
        assert_eq!(agent(&Answer::None, socket, &Pins::none()).verdict, Note);
        assert_eq!(agent(&Answer::Error("mute; repeat".into()), socket, &left).verdict, Warning);
    }

    #[test]
    fn pins_are_judged_by_what_a_start_does_with_them() {
        let of = |state| pins(&Pins { links: 2, stale: Vec::new(), state }).remove(0);
        assert_eq!((of(State::Empty).verdict, of(State::Usable).verdict), (Good, Good));
        assert_eq!(of(State::Dead("their boot is over".into())).verdict, Note);
        assert_eq!(of(State::Broken("maps are missing".into())).verdict, Warning);
        let row = of(State::Refused("another layout".into()));
        assert_eq!((row.verdict, row.next.as_deref()), (Bad, Some("another layout")));
        let rows = pins(&Pins { links: 2, stale: vec!["ingress_7".into()], state: State::Usable });
        assert_eq!((rows[0].verdict, rows[0].subject.as_deref()), (Note, Some("ingress_7")));
    }
}
