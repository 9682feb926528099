//! Every key of the contract, by section: those that are built, with an example that error messages show,
//! and those that are not built yet.

use super::error::Complaint;

/// The keys of one section.
#[derive(Debug)]
pub(super) struct Keys {
    /// As one writes it; the root has none.
    pub(super) header: &'static str,
    /// Key and how one writes it.
    pub(super) built: &'static [(&'static str, &'static str)],
    /// Keys of the contract that are not built yet.
    pub(super) later: &'static [&'static str],
    /// Sections below this one.
    pub(super) sections: &'static [(&'static str, &'static Keys)],
}

pub(super) static ROOT: Keys = Keys {
    header: "",
    built: &[],
    later: &[],
    sections: &[("agent", &AGENT), ("datapath", &DATAPATH), ("service", &SERVICE)],
};

static AGENT: Keys = Keys {
    header: "[agent]",
    built: &[
        ("control_socket", r#"control_socket = "/run/redirector/control.sock""#),
        ("state_dir", r#"state_dir = "/var/lib/redirector""#),
        ("operator_group", r#"operator_group = "redirector""#),
        ("metrics_listen", r#"metrics_listen = "127.0.0.1:9109""#),
        ("record", r#"record = "/var/lib/redirector/record.jsonl""#),
    ],
    later: &[],
    sections: &[],
};

static DATAPATH: Keys = Keys {
    header: "[datapath]",
    built: &[
        ("hooks", r#"hooks = ["tc"]"#),
        ("device", r#"device = "redirector0""#),
        ("uplinks", r#"uplinks = ["eth0"]"#),
        ("pin_dir", r#"pin_dir = "/sys/fs/bpf/redirector""#),
        ("max_flows", "max_flows = 262144"),
        ("port_range", r#"port_range = "10000-32767""#),
        ("source_addresses", r#"source_addresses = ["10.1.0.2", "10.1.0.3"]"#),
        ("half_open_per_source", "half_open_per_source = 5000"),
        ("half_open_per_service", "half_open_per_service = 10000"),
        ("on_stop", r#"on_stop = "keep""#),
        ("attach", r#"attach = "auto""#),
    ],
    later: &[],
    sections: &[("idle_timeouts", &IDLE_TIMEOUTS)],
};

static IDLE_TIMEOUTS: Keys = Keys {
    header: "[datapath.idle_timeouts]",
    built: &[
        ("opening", r#"opening = "30s""#),
        ("established", r#"established = "24h""#),
        ("closing", r#"closing = "2m""#),
    ],
    later: &[],
    sections: &[],
};

static SERVICE: Keys = Keys {
    header: "[[service]]",
    built: &[
        ("name", r#"name = "orders""#),
        ("vips", r#"vips = ["10.255.0.1:6379"]"#),
        ("on_failover", r#"on_failover = "reset""#),
        ("on_failback", r#"on_failback = "drain""#),
        ("drain_timeout", r#"drain_timeout = "30s""#),
        ("reset_over", r#"reset_over = "2s""#),
        ("signals", r#"signals = "act""#),
        ("on_all_down", r#"on_all_down = "stay""#),
        ("initial", r#"initial = "any""#),
        ("initial_timeout", r#"initial_timeout = "5s""#),
        ("profile", r#"profile = "balanced""#),
        ("combine", r#"combine = "at_least""#),
        ("at_least", "at_least = 1"),
    ],
    later: &[],
    sections: &[
        ("redis", &REDIS),
        ("application", &APPLICATION),
        ("detect", &DETECT),
        ("breaker", &BREAKER),
        ("failback", &FAILBACK),
        ("limit", &LIMIT),
        ("check", &CHECK),
        ("hook", &HOOK),
        ("member", &MEMBER),
    ],
};

static APPLICATION: Keys = Keys {
    header: "[service.application]",
    built: &[
        ("username", r#"username = "orders""#),
        ("password_file", r#"password_file = "/etc/redirector/application.password""#),
        ("password_credential", r#"password_credential = "application-password""#),
        ("server_name", r#"server_name = "orders.example.com""#),
        ("ready_every", r#"ready_every = "60s""#),
    ],
    later: &[],
    sections: &[],
};

static FAILBACK: Keys = Keys {
    header: "[service.failback]",
    built: &[
        ("mode", r#"mode = "auto""#),
        ("healthy_for", r#"healthy_for = "60s""#),
        ("hold_down", r#"hold_down = "30s""#),
        ("flap_half_life", r#"flap_half_life = "10m""#),
    ],
    later: &[],
    sections: &[],
};

static DETECT: Keys = Keys {
    header: "[service.detect]",
    built: &[
        ("silence_tolerance", r#"silence_tolerance = "300ms""#),
        ("stall_tolerance", r#"stall_tolerance = "1s""#),
        ("refused_tolerance", r#"refused_tolerance = "0ms""#),
    ],
    later: &[],
    sections: &[],
};

static BREAKER: Keys = Keys {
    header: "[service.breaker]",
    built: &[
        ("minimum_failures", "minimum_failures = 1000"),
        ("failure_rate", "failure_rate = 10"),
        ("window", r#"window = "2s""#),
        ("in_a_row", "in_a_row = 20"),
        ("open_for", r#"open_for = "60s""#),
    ],
    later: &[],
    sections: &[],
};

static LIMIT: Keys = Keys {
    header: "[service.limit]",
    built: &[("new_connections", "new_connections = 1000"), ("burst", "burst = 200")],
    later: &[],
    sections: &[],
};

static CHECK: Keys = Keys {
    header: "[[service.check]]",
    built: &[
        ("name", r#"name = "quick""#),
        ("kind", r#"kind = "ping""#),
        ("interval", r#"interval = "1s""#),
        ("fast_interval", r#"fast_interval = "50ms""#),
        ("timeout", r#"timeout = "1s""#),
        ("fall", "fall = 3"),
        ("rise", "rise = 2"),
        ("effect", r#"effect = "count""#),
        ("down_interval", r#"down_interval = "1s""#),
        ("jitter_percent", "jitter_percent = 10"),
        ("probes", "probes = 3"),
        ("probe_delay", r#"probe_delay = "100ms""#),
        ("policy", r#"policy = "all""#),
        ("counted_errors", r#"counted_errors = ["LOADING", "MASTERDOWN"]"#),
        ("role", r#"role = "primary""#),
        ("prefix", r#"prefix = "redirector:probe:""#),
        ("expiry", r#"expiry = "60s""#),
        ("tags", "tags = 16"),
        ("channel", r#"channel = "redirector:heartbeat""#),
        ("per_shard", "per_shard = true"),
        ("tolerance", r#"tolerance = "5s""#),
        ("extended", "extended = true"),
        ("command", r#"command = ["/usr/local/lib/redirector/check", "--quick"]"#),
        ("user", r#"user = "nobody""#),
        ("url", r#"url = "http://monitor.example.com:8080/redis""#),
        ("path", r#"path = "/health""#),
        ("port", "port = 8080"),
        ("status", r#"status = "200-299""#),
        ("contains", r#"contains = "role: primary""#),
    ],
    later: &[],
    sections: &[("tls", &CHECK_TLS)],
};

static HOOK: Keys = Keys {
    header: "[[service.hook]]",
    built: &[
        ("when", r#"when = "before""#),
        ("command", r#"command = ["/usr/local/lib/redirector/may-switch"]"#),
        ("user", r#"user = "nobody""#),
        ("url", r#"url = "https://hooks.example.com/redirector""#),
        ("ca_file", r#"ca_file = "/etc/redirector/ca.pem""#),
        ("server_name", r#"server_name = "hooks.example.com""#),
        ("timeout", r#"timeout = "5s""#),
        ("on_failure", r#"on_failure = "veto""#),
        ("kinds", r#"kinds = ["failback", "manual"]"#),
    ],
    later: &[],
    sections: &[],
};

static CHECK_TLS: Keys = Keys { header: "[service.check.tls]", built: TLS_KEYS, later: &[], sections: &[] };

static MEMBER: Keys = Keys {
    header: "[[service.member]]",
    built: &[
        ("name", r#"name = "paris""#),
        ("endpoint", r#"endpoint = "10.2.1.2:6379""#),
        ("weight", "weight = 100"),
    ],
    later: &[],
    sections: &[("redis", &MEMBER_REDIS), ("rest", &MEMBER_REST), ("check", &MEMBER_CHECK)],
};

static MEMBER_REST: Keys = Keys {
    header: "[service.member.rest]",
    built: &[
        ("url", r#"url = "https://cluster.dublin.example.com:9443""#),
        ("username", r#"username = "viewer""#),
        ("password_file", r#"password_file = "/etc/redirector/dublin.password""#),
        ("password_credential", r#"password_credential = "dublin-rest-password""#),
        ("ca_file", r#"ca_file = "/etc/redirector/ca.pem""#),
        ("server_name", r#"server_name = "cluster.dublin.example.com""#),
        ("uid", "uid = 7"),
    ],
    later: &[],
    sections: &[],
};

static MEMBER_CHECK: Keys = Keys {
    header: "[[service.member.check]]",
    built: &[
        ("name", r#"name = "quick""#),
        ("interval", r#"interval = "2s""#),
        ("fast_interval", r#"fast_interval = "100ms""#),
        ("timeout", r#"timeout = "2s""#),
        ("fall", "fall = 5"),
        ("rise", "rise = 3"),
        ("down_interval", r#"down_interval = "5s""#),
        ("jitter_percent", "jitter_percent = 20"),
        ("probes", "probes = 3"),
        ("probe_delay", r#"probe_delay = "200ms""#),
        ("policy", r#"policy = "majority""#),
        ("url", r#"url = "http://monitor.example.com:8080/dublin""#),
        ("path", r#"path = "/health""#),
        ("port", "port = 8080"),
    ],
    later: &[],
    sections: &[],
};

const REDIS_KEYS: &[(&str, &str)] = &[
    ("username", r#"username = "probe""#),
    ("password_file", r#"password_file = "/etc/redirector/orders.password""#),
    ("password_credential", r#"password_credential = "orders-password""#),
];

static REDIS: Keys =
    Keys { header: "[service.redis]", built: REDIS_KEYS, later: &[], sections: &[("tls", &REDIS_TLS)] };

static MEMBER_REDIS: Keys = Keys {
    header: "[service.member.redis]",
    built: REDIS_KEYS,
    later: &[],
    sections: &[("tls", &MEMBER_REDIS_TLS)],
};

const TLS_KEYS: &[(&str, &str)] = &[
    ("ca_file", r#"ca_file = "/etc/redirector/ca.pem""#),
    ("server_name", r#"server_name = "orders.example.com""#),
    ("certificate_file", r#"certificate_file = "/etc/redirector/probe.pem""#),
    ("key_file", r#"key_file = "/etc/redirector/probe.key""#),
];

static REDIS_TLS: Keys = Keys { header: "[service.redis.tls]", built: TLS_KEYS, later: &[], sections: &[] };

static MEMBER_REDIS_TLS: Keys =
    Keys { header: "[service.member.redis.tls]", built: TLS_KEYS, later: &[], sections: &[] };

impl Keys {
    /// How one writes `key`, for error messages: an example, or the section's header.
    pub(super) fn example(&self, key: &str) -> &'static str {
        let section = || self.section(key).map(|keys| keys.header);
        let found = self.built.iter().find(|(name, _)| *name == key).map(|(_, example)| *example);
        found.or_else(section).expect("callers ask for keys of the table above")
    }

    /// The section `key` below this one.
    pub(super) fn section(&self, key: &str) -> Option<&'static Keys> {
        self.sections.iter().find(|(name, _)| *name == key).map(|(_, keys)| *keys)
    }

    /// What is wrong with the use of `key` in this section, if anything.
    pub(super) fn complaint(&self, key: &str) -> Option<Complaint> {
        if self.known().any(|known| known == key) {
            return None;
        }
        if self.later.contains(&key) {
            return Some(Complaint::new(
                format!("`{key}` is part of the contract but not built yet"),
                "remove it until a later version has it",
            ));
        }
        let next = if let Some(near) = self.near(key) {
            format!("did you mean `{near}`?")
        } else if let Some(home) = home(&ROOT, key) {
            format!("it belongs in {home}")
        } else {
            format!("remove it, or use one of {}", self.known().collect::<Vec<_>>().join(", "))
        };
        Some(Complaint::new(format!("unknown key `{}`{}", key.escape_debug(), self.within()), next))
    }

    fn within(&self) -> String {
        if self.header.is_empty() { String::new() } else { format!(" in {}", self.header) }
    }

    /// What may stand in this section.
    fn known(&self) -> impl Iterator<Item = &'static str> {
        self.built.iter().map(|(key, _)| *key).chain(self.sections.iter().map(|(key, _)| *key))
    }

    /// The key that was probably meant: at most one in three characters is wrong.
    fn near(&self, key: &str) -> Option<&'static str> {
        let keys = self.known().chain(self.later.iter().copied());
        keys.map(|known| (distance(known, key), known))
            .filter(|(distance, known)| *distance * 3 <= known.len())
            .min()
            .map(|(_, known)| known)
    }
}

/// Header of the first section that has `key`, from `keys` downwards.
fn home(keys: &'static Keys, key: &str) -> Option<&'static str> {
    let below = || keys.sections.iter().find_map(|(_, section)| home(section, key));
    let here = keys.built.iter().any(|(built, _)| *built == key).then_some(keys.header);
    here.or_else(|| keys.section(key).map(|section| section.header)).or_else(below)
}

/// Levenshtein distance in characters; a key is short, so one row of the matrix is enough.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, a) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::distance;

    #[test]
    fn distance_counts_insertions_deletions_and_replacements() {
        assert_eq!(distance("weight", "weight"), 0);
        assert_eq!(distance("weight", "wieght"), 2);
        assert_eq!(distance("vips", "vip"), 1);
        assert_eq!(distance("", "rise"), 4);
    }
}
