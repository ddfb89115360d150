//! Test hosts on this machine: network namespaces joined by pairs of virtual cards and a bridge, each link limited in
//! rate by `tc tbf` in both directions and, where asked, each host in what it computes by a quota of its control group; and
//! real `mpirun` over them. Removed when dropped.
//!
//! ```text
//! mpirun 10.77.0.254 -- bridge -- hp0 10.77.0.1: ranks 0..k      inside a host: shared memory
//!                             \-- hp1 10.77.0.2: ranks k..2k     across: the limited links
//! ```

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

const BRIDGE: &str = "hpbr";

/// How `mpirun` enters a host. Each has a name of its own, as OpenMPI names shared memory by it.
const AGENT: &str = r#"#!/bin/sh
host=hp$((${1##*.}-1)); shift
for group in /sys/fs/cgroup/cpu/$host /sys/fs/cgroup/$host; do
    if [ -d $group ]; then echo $$ > $group/cgroup.procs; fi
done
exec unshare --uts sh -c "hostname $host; exec ip netns exec $host sh -c \"\$0\"" "$*"
"#;

/// Of a limit, in which a host may use its share of the cores: short beside a step.
const PERIOD_US: usize = 10_000;

/// See the head of this file.
pub(crate) struct Network {
    hosts: usize,
    megabits: usize,
    agent: PathBuf,
}

impl Network {
    /// `hosts` with links of so many megabits a second, each with that share of a core for all it does, or with whatever
    /// there is; `None` where this machine does not let us make them.
    pub(crate) fn new(hosts: usize, megabits: usize, cores: Option<f64>) -> Result<Option<Self>, String> {
        let agent = std::env::current_dir().map_err(|e| e.to_string())?.join("target/network-agent.sh");
        std::fs::write(&agent, AGENT).map_err(|e| format!("{}: {e}", agent.display()))?;
        sh(&format!("chmod +x {}", agent.display()))?;
        let this = Self { hosts, megabits, agent };
        this.remove(); // what a run that was killed has left
        if sh("ip netns add hp0 && ip netns del hp0").is_err() {
            return Ok(None);
        }
        // A smaller burst than a packet of 64 KiB makes the kernel cut it up again, which took half of this machine.
        let limit = |device: &str| format!("tc qdisc add dev {device} root tbf rate {megabits}mbit burst 256kb limit 1mb");
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
            if let Some(cores) = cores {
                limit_cores(host, (cores * PERIOD_US as f64) as usize)?;
            }
        }
        Ok(Some(this))
    }

    pub(crate) fn hosts(&self) -> usize {
        self.hosts
    }

    /// Of each link, a second.
    pub(crate) fn megabits(&self) -> usize {
        self.megabits
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
            drop(sh(&format!("rmdir /sys/fs/cgroup/cpu/hp{host} || rmdir /sys/fs/cgroup/hp{host}")));
        }
        drop(sh(&format!("ip link del {BRIDGE}")));
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.remove();
    }
}

/// Control groups of the first version, or of the second.
fn limit_cores(host: usize, quota_us: usize) -> Result<(), String> {
    let group = format!("hp{host}");
    if Path::new("/sys/fs/cgroup/cpu").is_dir() {
        let group = format!("/sys/fs/cgroup/cpu/{group}");
        return sh(&format!("mkdir {group} && echo {PERIOD_US} > {group}/cpu.cfs_period_us && echo {quota_us} > {group}/cpu.cfs_quota_us"));
    }
    let group = format!("/sys/fs/cgroup/{group}");
    sh(&format!("echo +cpu > /sys/fs/cgroup/cgroup.subtree_control && mkdir {group} && echo '{quota_us} {PERIOD_US}' > {group}/cpu.max"))
}

fn sh(line: &str) -> Result<(), String> {
    let output = Command::new("sh").args(["-c", line]).stdin(Stdio::null()).output().map_err(|e| format!("sh: {e}"))?;
    if output.status.success() { Ok(()) } else { Err(format!("{line}: {}", String::from_utf8_lossy(&output.stderr))) }
}
