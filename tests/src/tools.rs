//! Settings of a host in the words of an operator: `ip`, `nft`, forwarding, counters of a device.

use anyhow::{Result, ensure};

use crate::Host;

impl Host {
    /// Runs `ip` (iproute2) with these words: `host.ip("route add 10.2.1.0/24 via 10.1.0.1")`. Returns what it printed.
    ///
    /// # Errors
    /// When it fails, with what it said.
    pub fn ip(&self, command: &str) -> Result<String> {
        self.tool("ip", &command.split_whitespace().collect::<Vec<_>>())
    }

    /// Runs `tc` with these words: `host.tc("qdisc show dev eth0")`.
    ///
    /// # Errors
    /// When it fails, with what it said.
    pub fn tc(&self, command: &str) -> Result<String> {
        self.tool("tc", &command.split_whitespace().collect::<Vec<_>>())
    }

    /// Runs `nft` with these words, which may be many lines: `host.nft("table inet lab { chain … }")`, `host.nft("delete
    /// table inet lab")`.
    ///
    /// # Errors
    /// When it fails, with what it said.
    pub fn nft(&self, rules: &str) -> Result<String> {
        self.tool("nft", &[rules])
    }

    /// Loses what matches any of these on its way through the host (hook `forward`): `host.lose(&["tcp flags syn"])`.
    /// Ended by [`Host::lose_nothing`].
    ///
    /// # Errors
    /// When `nft` does not take a match.
    pub fn lose(&self, matches: &[&str]) -> Result<()> {
        let rules: String = matches.iter().map(|one| format!(" {one} counter drop;")).collect();
        self.nft(&format!(
            "table inet lose {{ chain c {{ type filter hook forward priority filter;{rules} }}; }}"
        ))
        .map(drop)
    }

    /// Ends [`Host::lose`].
    ///
    /// # Errors
    /// When nothing is lost.
    pub fn lose_nothing(&self) -> Result<()> {
        self.nft("delete table inet lose").map(drop)
    }

    /// Counts what matches on its way through the host (hook `forward`), from now on; read by [`Host::counted`].
    ///
    /// # Errors
    /// When `nft` does not take the match.
    pub fn count(&self, matching: &str) -> Result<()> {
        let hook = "type filter hook forward priority filter - 1;";
        self.nft("add table inet counted; delete table inet counted")?;
        self.nft(&format!("table inet counted {{ chain c {{ {hook} {matching} counter; }}; }}")).map(drop)
    }

    /// Packets that [`Host::count`] counted.
    ///
    /// # Errors
    /// When nothing is counted.
    pub fn counted(&self) -> Result<u64> {
        let shown = self.nft("list table inet counted")?;
        let count = shown.split_once("counter packets ").and_then(|(_, rest)| rest.split(' ').next());
        let count = count.and_then(|count| count.parse().ok());
        count.ok_or_else(|| anyhow::anyhow!("host {}: no counter in {shown}", self.name()))
    }

    /// Passes on packets of others, as a router or a host of containers does.
    ///
    /// # Errors
    /// When the kernel has no such settings.
    pub fn forward(&self) -> Result<()> {
        self.sysctl("net/ipv4/ip_forward", "1")?;
        self.sysctl("net/ipv6/conf/all/forwarding", "1")
    }

    /// Index of a device; a device that was made anew has another one.
    ///
    /// # Errors
    /// When there is none of this name.
    pub fn device_index(&self, device: &str) -> Result<u32> {
        let shown = self.ip(&format!("-o link show dev {device}"))?;
        let index = shown.split(':').next().and_then(|index| index.trim().parse().ok());
        index.ok_or_else(|| anyhow::anyhow!("host {}: no index in {shown:?}", self.name()))
    }

    fn tool(&self, program: &str, words: &[&str]) -> Result<String> {
        let mut command = self.command(program);
        command.args(words);
        let output = self.output(command)?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "host {}: {program} {}: {said}", self.name(), words.join(" "));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}
