//! docs/configuration.md has every key, and the defaults that it names are those of the code.

use super::*;
use crate::config::keys::{Keys, ROOT};

const PAGE: &str = include_str!("../../../../docs/configuration.md");

#[test]
fn every_key_is_documented() {
    fn look(keys: &Keys) {
        for (key, _) in keys.built {
            let shown = [format!("`{key}`"), format!(".{key}`")];
            assert!(shown.iter().any(|key| PAGE.contains(key)), "no {key} of {} in the page", keys.header);
        }
        keys.sections.iter().for_each(|(_, below)| look(below));
    }
    look(&ROOT);
}

/// Section, key and what the page says first of its default, where that is a value.
fn rows() -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
    let mut section = "";
    PAGE.lines().filter_map(move |line| {
        if line.starts_with('#') {
            section = line.trim_start_matches('#').trim();
        }
        let (key, rest) = line.strip_prefix("| `")?.split_once('`')?;
        let (default, _) = rest.strip_prefix(" | `")?.split_once('`')?;
        let is_value = default.starts_with(['"', '['])
            || default.parse::<u32>().is_ok()
            || matches!(default, "true" | "false");
        (is_value && section != "Profiles").then_some((section, key, default))
    })
}

/// A configuration in which `key` of a section may stand; and the same with it.
fn with_and_without(section: &str, key: &str, value: &str) -> [String; 2] {
    let line = format!("{key} = {value}\n");
    let check = match key {
        "kind" => "",
        "prefix" | "expiry" => "kind = \"set_get\"\n",
        "tags" => "kind = \"keyspace\"\n",
        "channel" | "per_shard" => "kind = \"heartbeat\"\n",
        "tolerance" => "kind = \"heartbeat\"\n",
        "extended" => "kind = \"lag\"\neffect = \"count\"\n",
        "status" => "kind = \"http\"\npath = \"/\"\n",
        "user" => "kind = \"exec\"\ncommand = [\"/bin/true\"]\n",
        _ => "kind = \"ping\"\n",
    };
    // A check that gates needs another one that counts.
    let checks = |check: &str| {
        format!("[[service.check]]\nname = \"other\"\nkind = \"tcp\"\n[[service.check]]\n{check}")
    };
    let rest = if key == "extended" {
        "[service.member.rest]\nurl = \"https://c.example.com:9443\"\nusername = \"u\"\npassword_file = \"orders.password\"\n"
    } else {
        ""
    };
    let of_service =
        |line: &str| MINIMAL.replacen("[[service.member]]", &format!("{line}[[service.member]]"), 1);
    let file = |line: &str| match section {
        "`[agent]`" | "`[datapath]`" | "`[datapath.idle_timeouts]`" => {
            format!("{}\n{line}{MINIMAL}", section.trim_matches('`'))
        }
        "`[[service]]`" => of_service(line),
        "`[service.detect]`" | "`[service.breaker]`" | "`[service.failback]`" | "`[service.application]`" => {
            of_service(&format!("{}\n{line}", section.trim_matches('`')))
        }
        "`[[service.hook]]`" => {
            of_service(&format!("[[service.hook]]\nwhen = \"before\"\ncommand = [\"/bin/true\"]\n{line}"))
        }
        "`[[service.check]]`" => format!("{}{rest}", of_service(&checks(&format!("{check}{line}")))),
        "`[[service.member]]`" => format!("{MINIMAL}{line}"),
        other => panic!("a default in a section that this test does not know: {other} {key}"),
    };
    [file(""), file(&line)]
}

#[test]
fn documented_defaults_are_those_of_the_code() {
    let mut seen = 0;
    for (section, key, value) in rows() {
        // Whether this group is there is the host's business.
        if key == "operator_group" {
            continue;
        }
        let [without, with] = with_and_without(section, key, value).map(|text| {
            Directory::new().parse(&text).unwrap_or_else(|error| panic!("{key} = {value}: {error}\n{text}"))
        });
        assert_eq!(without, with, "{section} {key} is not {value} where nothing is said");
        seen += 1;
    }
    assert!(seen > 40, "{seen} rows have a default");
}
