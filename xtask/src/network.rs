//! Test hosts on this machine: network namespaces joined by pairs of virtual cards and a bridge, each link limited in
//! rate by `tc tbf` in both directions, and real `mpirun` over them. Removed when dropped.
//!
//! ```text
//! mpirun 10.77.0.254 -- bridge -- hp0 10.77.0.1: ranks 0..k      inside a host: shared memory
//!                             \-- hp1 10.77.0.2: ranks k..2k     across: the limited links
//! ```

use std::{
    path::PathBuf,
    process::{Command, Stdio},
};

const BRIDGE: &str = "hpbr";

/// How `mpirun` enters a host. Each has a name of its own, as OpenMPI names shared memory by it.
const AGENT: &str = r#"#!/bin/sh
host=hp$((${1##*.}-1)); shift
exec unshare --uts sh -c "hostname $host; exec ip netns exec $host sh -c \"\$0\"" "$*"
"#;

/// See the head of this file.
pub(crate) struct Network {
    hosts: usize,
    agent: PathBuf,
}

impl Network {
    /// `hosts` with links of so many megabits a second; `None` where this machine does not let us make them.
    pub(crate) fn new(hosts: usize, megabits: usize) -> Result<Option<Self>, String> {
        let agent = std::env::current_dir().map_err(|e| e.to_string())?.join("target/network-agent.sh");
        std::fs::write(&agent, AGENT).map_err(|e| format!("{}: {e}", agent.display()))?;
        sh(&format!("chmod +x {}", agent.display()))?;
        let this = Self { hosts, agent };
        this.remove(); // what a run that was killed has left
        if sh("ip netns add hp0 && ip netns del hp0").is_err() {
            return Ok(None);
        }
        let limit = |device: &str| format!("tc qdisc add dev {device} root tbf rate {megabits}mbit burst 64kb limit 1mb");
        sh(&format!("ip link add {BRIDGE} type bridge && ip addr add 10.77.0.254/24 dev {BRIDGE} && ip link set {BRIDGE} up"))?;
        for host in 0..hosts {
            sh(&format!(
                "ip netns add hp{host} && ip link add hpv{host} type veth peer name eth0 netns hp{host} && ip link set hpv{host} master {BRIDGE} up && \
                 ip -n hp{host} link set lo up && ip -n hp{host} addr add 10.77.0.{}/24 dev eth0 && ip -n hp{host} link set eth0 up && \
                 ip netns exec hp{host} {} && {}",
                host + 1,
                limit("eth0"),
                limit(&format!("hpv{host}"))
            ))?;
        }
        Ok(Some(this))
    }

    pub(crate) fn hosts(&self) -> usize {
        self.hosts
    }

    /// `mpirun` with `each` ranks on every host, to be given a program.
    pub(crate) fn mpirun(&self, each: usize) -> Command {
        let mut command = Command::new("mpirun");
        let hosts: Vec<String> = (1..=self.hosts).map(|host| format!("10.77.0.{host}:{each}")).collect();
        command.args(["--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "--host", &hosts.join(",")]);
        command.args(["-n", &(self.hosts * each).to_string()]);
        for (key, value) in [
            ("plm_rsh_agent", &*self.agent.display().to_string()),
            ("plm_rsh_no_tree_spawn", "1"),
            ("oob_tcp_if_include", "10.77.0.0/24"),
            ("btl_tcp_if_include", "10.77.0.0/24"),
            ("btl", "self,vader,tcp"),
            ("mpi_yield_when_idle", "1"),
        ] {
            command.args(["--mca", key, value]);
        }
        command
    }

    /// A command inside a host.
    pub(crate) fn on_host(&self, host: usize) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &format!("hp{host}")]);
        command
    }

    fn remove(&self) {
        for host in 0..16 {
            drop(sh(&format!("ip netns del hp{host}")));
        }
        drop(sh(&format!("ip link del {BRIDGE}")));
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.remove();
    }
}

fn sh(line: &str) -> Result<(), String> {
    let output = Command::new("sh").args(["-c", line]).stdin(Stdio::null()).output().map_err(|e| format!("sh: {e}"))?;
    if output.status.success() { Ok(()) } else { Err(format!("{line}: {}", String::from_utf8_lossy(&output.stderr))) }
}
