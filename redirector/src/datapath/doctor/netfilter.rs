//! Rules of nftables that translate the source of packets on their way to the VIP device, as container engines have
//! them. iptables over nftables shows up here too; rules of the older iptables (`iptables-legacy`) do not.

use std::{process::Stdio, time::Duration};

use serde::Deserialize;
use serde_json::Value;
use tokio::{process::Command, time::timeout};

/// A large host has some 100 000 rules.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where a rule stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Masquerade {
    /// `ip`, `ip6` or `inet`
    pub family: String,
    /// Name of the table.
    pub table: String,
    /// Name of the chain.
    pub chain: String,
}

/// Chains with a rule that masquerades packets to `vip_device`, as far as the device decides; each once. `None`: there
/// is no `nft`, or it may not look.
pub async fn masquerades(vip_device: &str) -> Option<Vec<Masquerade>> {
    let nft = Command::new("nft")
        .args(["-j", "list", "ruleset"])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = timeout(PATIENCE, nft).await.ok()?.ok()?;
    let ruleset = serde_json::from_slice(&output.stdout).ok().filter(|_| output.status.success())?;
    Some(masquerades_in(&ruleset, vip_device))
}

/// libnftables-json(5)
#[derive(Debug, Deserialize)]
struct Ruleset {
    nftables: Vec<Object>,
}

#[derive(Debug, Deserialize)]
struct Object {
    rule: Option<Rule>,
}

#[derive(Debug, Deserialize)]
struct Rule {
    family: String,
    table: String,
    chain: String,
    #[serde(default)]
    expr: Vec<Value>,
}

fn masquerades_in(ruleset: &Ruleset, vip_device: &str) -> Vec<Masquerade> {
    let mut found = Vec::new();
    for rule in ruleset.nftables.iter().filter_map(|object| object.rule.as_ref()) {
        let translates = rule.expr.iter().any(|e| e.get("masquerade").is_some() || e.get("snat").is_some());
        if translates && rule.expr.iter().all(|expression| may_leave_by(expression, vip_device)) {
            let place = Masquerade {
                family: rule.family.clone(),
                table: rule.table.clone(),
                chain: rule.chain.clone(),
            };
            if !found.contains(&place) {
                found.push(place);
            }
        }
    }
    found
}

/// Whether a packet that leaves by `device` can pass an expression; what says nothing of the device lets it pass.
fn may_leave_by(expression: &Value, device: &str) -> bool {
    let Some(compared) = expression.get("match") else { return true };
    let key = compared["left"]["meta"]["key"].as_str();
    let (Some("oifname" | "oif"), Some(right)) = (key, compared["right"].as_str()) else { return true };
    let equal = right.strip_suffix('*').map_or(right == device, |start| device.starts_with(start));
    equal != (compared["op"] == "!=")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chains(rules: &str) -> Vec<String> {
        let ruleset = format!(r#"{{"nftables": [{{"metainfo": {{"version": "1.0.6"}}}}, {rules}]}}"#);
        let ruleset: Ruleset = serde_json::from_str(&ruleset).unwrap();
        masquerades_in(&ruleset, "redirector0").into_iter().map(|found| found.chain).collect()
    }

    fn rule(chain: &str, expressions: &str) -> String {
        format!(
            r#"{{"rule": {{"family": "ip", "table": "nat", "chain": "{chain}", "handle": 4, "expr": [{expressions}]}}}}"#
        )
    }

    fn device(op: &str, name: &str) -> String {
        format!(
            r#"{{"match": {{"op": "{op}", "left": {{"meta": {{"key": "oifname"}}}}, "right": "{name}"}}}}"#
        )
    }

    #[test]
    fn a_rule_counts_unless_it_is_for_another_device() {
        let masquerade = r#"{"counter": {"packets": 0, "bytes": 0}}, {"masquerade": null}"#;
        let caught = |first: String| !chains(&rule("post", &format!("{first}, {masquerade}"))).is_empty();
        assert!(caught(device("!=", "docker0")), "what Docker makes");
        assert!(caught(device("==", "redirector0")) && caught(device("==", "redir*")));
        assert!(!caught(device("==", "eth0")) && !caught(device("!=", "redirector0")));
        assert_eq!(chains(&rule("post", r#"{"accept": null}"#)), [""; 0]);
        let twice = format!("{}, {}", rule("post", masquerade), rule("post", masquerade));
        assert_eq!(chains(&twice), ["post"]);
    }
}
