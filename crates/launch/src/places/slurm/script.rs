//! The script of a job, or its command in a held allocation.

use serde::Deserialize;

use super::{HERE, mark};
use crate::{LaunchError, job::Job, outside::quoted};

/// Before the time limit: enough for a checkpoint.
const WARNING_SECS: u32 = 120;
/// A signal ends a wait before what is waited for has ended: wait again until it has.
const RUN: &str = r#""${hairpin_command[@]}" &
program=$!
trap 'kill -TERM $program 2>/dev/null' TERM
wait $program; code=$?
while kill -0 $program 2>/dev/null; do wait $program; code=$?; done
printf '{"attempt":%d,"code":%d}\n' $hairpin_attempt $code > "$hairpin_home/exit.json.new" && mv "$hairpin_home/exit.json.new" "$hairpin_home/exit.json"
exit $code
"#;

/// Of a job at this place.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Options {
    partition: Option<String>,
    account: Option<String>,
    qos: Option<String>,
    time: Option<String>,
    ranks_each: Option<usize>,
    pub(super) allocation: Option<u64>,
    program: Option<String>,
    sbatch: Vec<String>,
    mpirun: Vec<String>,
    setup: Vec<String>,
}

impl Options {
    /// One line stays one line.
    pub(super) fn check(&self) -> Result<(), LaunchError> {
        let words = [&self.partition, &self.account, &self.qos, &self.time, &self.program].into_iter().flatten();
        let bad = words.chain(&self.sbatch).chain(&self.mpirun).chain(&self.setup).find(|text| text.contains(['\n', '\r', '\0']));
        bad.map_or(Ok(()), |text| {
            let problem = format!("`{}` holds an end of line", disk::printable_line(text));
            Err(LaunchError::Option { place: HERE.name, problem, help: "write each line as an entry of its own".into() })
        })
    }

    fn program(&self) -> String {
        let own = || std::env::current_exe().map_or_else(|_| "hairpin".to_owned(), |path| path.display().to_string());
        self.program.clone().unwrap_or_else(own)
    }

    /// Processes on each machine.
    fn each(&self, job: &Job) -> usize {
        self.ranks_each.unwrap_or(job.machines.ranks_each).max(1)
    }

    /// Of the program on all machines, inside an allocation: `mpirun` finds its machines by itself.
    fn command(&self, job: &Job) -> Vec<String> {
        let (each, count) = (self.each(job), job.machines.count);
        let mut argv = Vec::new();
        if each * count > 1 {
            let ranks = (each * count).to_string();
            argv.extend(
                ["mpirun", "-n", &ranks, "--map-by", &format!("ppr:{each}:node"), "--mca", "odls_base_sigkill_timeout", "120"]
                    .map(str::to_owned),
            );
            argv.extend(self.mpirun.clone());
        }
        argv.push(self.program());
        argv.extend(job.command(&job.paths_here()));
        argv
    }

    /// As a step of a held allocation.
    pub(super) fn step(&self, job: &Job, allocation: u64) -> Vec<String> {
        let (each, count) = (self.each(job), job.machines.count);
        if each * count > 1 {
            // `mpirun` learns of the allocation by what `salloc` would have set.
            return ["env".to_owned(), format!("SLURM_JOB_ID={allocation}"), format!("SLURM_JOBID={allocation}")]
                .into_iter()
                .chain(self.command(job))
                .collect();
        }
        let mut argv: Vec<String> =
            ["srun".to_owned(), format!("--jobid={allocation}"), "--overlap".into(), "--nodes=1".into(), "--ntasks=1".into()].into();
        // Otherwise it takes what `salloc` was given for its own steps.
        argv.extend(self.command(job));
        argv
    }

    /// Of one job.
    pub(super) fn script(&self, job: &Job, attempt: u32) -> String {
        let own = [
            format!("--job-name={}", job.attempt_name(attempt)),
            format!("--comment={}", quoted(&mark(&job.home))),
            format!("--output={}", quoted(&job.log().display().to_string())),
        ];
        format!("{}{}{}{}", head(&own), self.limits(job), self.run(job, attempt), self.rest(job))
    }

    /// What machines a job has and for how long.
    pub(super) fn limits(&self, job: &Job) -> String {
        let mut lines = vec![
            format!("--nodes={}", job.machines.count),
            format!("--ntasks-per-node={}", self.each(job)),
            "--open-mode=append".into(),
            "--requeue".into(),
            format!("--signal=B:TERM@{WARNING_SECS}"),
        ];
        // In minutes, where nothing else is set.
        let time = self.time.clone().or_else(|| job.max_secs.map(|secs| secs.div_ceil(60).to_string()));
        for (name, value) in [("partition", &self.partition), ("account", &self.account), ("qos", &self.qos), ("time", &time)] {
            lines.extend(value.iter().map(|value| format!("--{name}={}", quoted(value))));
        }
        lines.extend(self.sbatch.iter().cloned());
        directives(&lines)
    }

    /// What a job runs and where it tells how that ended, as variables that no line of `setup` is likely to set.
    pub(super) fn run(&self, job: &Job, attempt: u32) -> String {
        let home = quoted(&job.home.display().to_string());
        let command = self.command(job).iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ");
        format!("hairpin_home={home} hairpin_attempt={attempt}\nhairpin_command=({command})\n")
    }

    /// From there to the end.
    pub(super) fn rest(&self, job: &Job) -> String {
        let mut script = format!("cd {} || exit 3\n", quoted(&job.folder.display().to_string()));
        job.env.iter().for_each(|(key, value)| script += &format!("export {key}={}\n", quoted(value)));
        self.setup.iter().for_each(|line| script += &format!("{line}\n"));
        script + RUN
    }
}

pub(super) fn head(lines: &[String]) -> String {
    format!("#!/bin/bash\n{}", directives(lines))
}

fn directives(lines: &[String]) -> String {
    lines.iter().map(|line| format!("#SBATCH {line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::super::*;
    use crate::places::tests::job;

    #[test]
    fn a_job_is_one_script() {
        let options = "partition = \"gpu\"\ntime = \"1-00:00:00\"\nprogram = \"/opt/hair pin\"\nsbatch = [\"--gres=gpu:8\"]\nsetup = [\"module load openmpi\"]";
        let request = &Slurm.requests(&job("slurm:4", options), 2).unwrap()[0];
        expect![[r#"
            sbatch --parsable <<'EOF'
            #!/bin/bash
            #SBATCH --job-name=small-1a2b3c4d-try2
            #SBATCH --comment=hairpin:/shared/jobs/small-1a2b3c4d
            #SBATCH --output=/shared/jobs/small-1a2b3c4d/log
            #SBATCH --nodes=4
            #SBATCH --ntasks-per-node=1
            #SBATCH --open-mode=append
            #SBATCH --requeue
            #SBATCH --signal=B:TERM@120
            #SBATCH --partition=gpu
            #SBATCH --time=1-00:00:00
            #SBATCH --gres=gpu:8
            hairpin_home=/shared/jobs/small-1a2b3c4d hairpin_attempt=2
            hairpin_command=(mpirun -n 4 --map-by ppr:1:node --mca odls_base_sigkill_timeout 120 '/opt/hair pin' train /shared/jobs/small-1a2b3c4d/recipe.toml --out /shared/jobs/small-1a2b3c4d/run --resume --set data.path=/shared/data)
            cd /shared || exit 3
            export HAIRPIN_KERNELS=portable
            module load openmpi
            "${hairpin_command[@]}" &
            program=$!
            trap 'kill -TERM $program 2>/dev/null' TERM
            wait $program; code=$?
            while kill -0 $program 2>/dev/null; do wait $program; code=$?; done
            printf '{"attempt":%d,"code":%d}\n' $hairpin_attempt $code > "$hairpin_home/exit.json.new" && mv "$hairpin_home/exit.json.new" "$hairpin_home/exit.json"
            exit $code
            EOF"#]]
        .assert_eq(&request.text());
        assert!(Slurm.requests(&job("slurm:4", "partition = \"a\\n#SBATCH --uid=0\""), 1).is_err());
    }
}
