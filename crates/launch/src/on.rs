//! Places and machines as they are asked for on the command line.

use crate::{LaunchError, job::Machines, places::PLACES};

impl Machines {
    /// `local`, `hosts:a,b`, `slurm:8`, `slurm:p4d.24xlarge:8`, `sagemaker:ml.p4d.24xlarge:16`, `kubernetes:4`.
    /// # Errors
    /// [`LaunchError::Place`].
    pub fn parse(text: &str) -> Result<Self, LaunchError> {
        let wrong = |problem: String| LaunchError::Place { text: text.into(), problem };
        let mut parts = text.split(':').map(str::trim);
        let place = parts.next().unwrap_or_default();
        if PLACES.find(place).is_none() {
            return Err(wrong(format!("there is no place `{place}`; there are {}", PLACES.names().join(", "))));
        }
        let rest: Vec<&str> = parts.collect();
        let machines = Self {
            place: place.into(),
            instance: None,
            count: 1,
            hosts: Vec::new(),
            ranks_each: 1,
            usd_per_hour: None,
            memory_bytes: None,
        };
        if place == "hosts" {
            let hosts: Vec<String> = rest.join(":").split(',').map(|host| host.trim().to_owned()).filter(|host| !host.is_empty()).collect();
            // An option of ssh, say, is no host.
            let is_host = |host: &String| {
                host.starts_with(char::is_alphanumeric) && host.chars().all(|c| c.is_ascii_alphanumeric() || "._-@".contains(c))
            };
            return match hosts.iter().find(|host| !is_host(host)) {
                Some(host) => Err(wrong(format!("`{host}` is no name of a host"))),
                None if hosts.is_empty() => Err(wrong("it lists no hosts".into())),
                None => Ok(Self { count: hosts.len(), hosts, ..machines }),
            };
        }
        let count = |text: &str| {
            text.parse::<usize>()
                .ok()
                .filter(|n| (1..=100_000).contains(n))
                .ok_or_else(|| wrong(format!("`{text}` is no number of machines")))
        };
        let is_number = |text: &str| text.chars().all(|c| c.is_ascii_digit() || c == '-');
        match rest[..] {
            [] => Ok(machines),
            _ if place == "local" => Err(wrong("there is one machine here".into())),
            [n] if is_number(n) => Ok(Self { count: count(n)?, ..machines }),
            ["", ..] => Err(wrong("a part of it is empty".into())),
            [instance] => Ok(Self { instance: Some(instance.into()), ..machines }),
            [instance, n] => Ok(Self { instance: Some(instance.into()), count: count(n)?, ..machines }),
            _ => Err(wrong("it has too many parts".into())),
        }
    }
}
