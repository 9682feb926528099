//! Keys that hold for as long as the agent runs: a file that says something else cannot be reloaded.

use super::{
    Loaded,
    error::{Complaint, Error, Fault},
};
use crate::model::{Change, Config, Difference};

/// Keys of `[datapath]` that may change while the agent runs. Whatever is not named here is fixed.
const LIVE: [&str; 9] = [
    "uplinks",
    "source_addresses",
    "port_range",
    "half_open_per_source",
    "half_open_per_service",
    "on_stop",
    "opening of idle_timeouts",
    "established of idle_timeouts",
    "closing of idle_timeouts",
];

impl Loaded {
    /// Every key that the running agent would have to be started anew for; `None`: there is none.
    #[must_use]
    pub fn refuse_fixed(&self, running: &Config) -> Option<Error> {
        let Difference { agent, datapath, .. } = Difference::between(running, &self.config);
        let fixed = datapath.iter().filter(|change| !LIVE.contains(&change.what.as_str()));
        let agent = agent.iter().map(|change| self.fixed_fault("agent", change));
        let datapath = fixed.map(|change| self.fixed_fault("datapath", change));
        let mut faults: Vec<_> = agent.chain(datapath).collect();
        faults.sort_by_key(|fault| fault.place().map(|place| (place.line, place.column)));
        Error::of(faults)
    }

    fn fixed_fault(&self, section: &'static str, change: &Change) -> Fault {
        let Change { what, from, to, .. } = change;
        let values = match (from, to) {
            (Some(from), Some(to)) => format!(" ({from} -> {to})"),
            _ => String::new(),
        };
        let cause = format!("`{what}` of [{section}] cannot change while the agent runs{values}");
        let next = match what.as_str() {
            "max_flows" => "stop the agent, `redirector uninstall`, and start it again, or change it back",
            // Its pins and its device would stay behind.
            "pin_dir" | "device" => {
                "stop the agent, `redirector uninstall` with the old file, and start it again, or change it back"
            }
            _ => "restart the agent, or change it back",
        };
        self.fault_of_key(section, what, Complaint::new(cause, next))
    }
}
