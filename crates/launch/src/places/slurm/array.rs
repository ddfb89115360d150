//! Many jobs as one array: one script, in which each element finds its own job by its number.
//!
//! Elements write to their own logs by themselves, since Slurm knows no name of theirs but their number.

use std::collections::BTreeMap;

use super::{
    Arrays, HELP, HERE, Slurm, call, cause, local, mark, options,
    script::{Options, head},
};
use crate::{
    LaunchError,
    array::{Array, Element},
    job::Job,
    outside::{Input, Request, quoted},
};

impl Arrays for Slurm {
    fn alike(&self, job: &Job) -> Option<String> {
        // What runs in a held allocation is no job of Slurm's.
        let options = checked(job).ok().filter(|options| options.allocation.is_none())?;
        Some(options.limits(job) + &options.rest(job))
    }

    fn request(&self, array: &Array<'_>) -> Result<Request, LaunchError> {
        let mut elements = String::new();
        for Element { index, job, attempt } in &array.elements {
            elements += &format!("{index})\n{};;\n", checked(job)?.run(job, *attempt));
        }
        let own = [
            format!("--job-name={}", array.name),
            format!("--comment={}", quoted(&of_store(array))),
            format!("--array={}", numbers(array)),
            "--output=/dev/null".into(),
        ];
        let first = array.elements[0].job;
        let (head, limits, rest) = (head(&own), checked(first)?.limits(first), checked(first)?.rest(first));
        let script = format!("{head}{limits}case $SLURM_ARRAY_TASK_ID in\n{elements}esac\nexec >>\"$hairpin_home/log\" 2>&1\n{rest}");
        Ok(Request::new(["sbatch", "--parsable"]).with(Input::Text(script)))
    }

    fn find(&self, array: &Array<'_>) -> Result<BTreeMap<usize, String>, LaunchError> {
        let told = call(["squeue", "--noheader", "--me", "--states=all", "--array", "--format=%F|%K|%k", "--name", array.name])?;
        let mark = of_store(array);
        let own = |line: &str| {
            let [id, index, comment] = line.splitn(3, '|').collect::<Vec<_>>()[..] else { return None };
            Some((index.parse().ok()?, format!("{id}_{index}"))).filter(|_| comment == mark)
        };
        let ended = array.elements.iter().filter(|element| local::exit(&element.job.home, element.attempt).is_some());
        Ok(ended.map(|element| (element.index, "ended".to_owned())).chain(told.lines().filter_map(own)).collect())
    }

    fn send(&self, array: &Array<'_>) -> Result<BTreeMap<usize, String>, LaunchError> {
        let told = self.request(array)?.call(HERE.name, HELP, cause)?;
        let id = told.trim().split(';').next().unwrap_or_default();
        Ok(array.elements.iter().map(|element| (element.index, format!("{id}_{}", element.index))).collect())
    }
}

fn checked(job: &Job) -> Result<Options, LaunchError> {
    let options: Options = options(&HERE, job)?;
    options.check().map(|()| options)
}

/// What tells our array from another of its name: the folder of all its jobs.
fn of_store(array: &Array<'_>) -> String {
    array.elements[0].job.home.parent().map(mark).unwrap_or_default()
}

/// `0-7%2`, `3,5`
fn numbers(array: &Array<'_>) -> String {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for index in array.elements.iter().map(|element| element.index) {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == index => *last = index,
            _ => runs.push((index, index)),
        }
    }
    let run = |(first, last): &(usize, usize)| if first == last { first.to_string() } else { format!("{first}-{last}") };
    let at_once = array.at_once.map_or(String::new(), |most| format!("%{most}"));
    runs.iter().map(run).collect::<Vec<_>>().join(",") + &at_once
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path, process::Command};

    use expect_test::expect;

    use super::*;
    use crate::places::tests::job;

    /// A job as a sweep makes it, in a store.
    fn swept(store: &Path, name: &str, options: &str) -> Job {
        let home = store.join(name);
        Job { name: name.into(), checkpoints: home.join("run").display().to_string(), home, ..job("slurm:1", options) }
    }

    fn array<'a>(jobs: &'a [Job], indices: &[usize], at_once: Option<usize>) -> Array<'a> {
        let elements = indices.iter().map(|index| Element { index: *index, job: &jobs[*index], attempt: 1 }).collect();
        Array { name: "small-seed-0a1b2c3d", at_once, elements }
    }

    #[test]
    fn jobs_that_differ_by_their_sweep_are_one_script() {
        let jobs = ["a", "b"].map(|name| swept(Path::new("/shared/my jobs"), name, "partition = \"gpu\"\nprogram = \"hairpin\""));
        expect![[r#"
            sbatch --parsable <<'EOF'
            #!/bin/bash
            #SBATCH --job-name=small-seed-0a1b2c3d
            #SBATCH --comment='hairpin:/shared/my jobs'
            #SBATCH --array=0-1%2
            #SBATCH --output=/dev/null
            #SBATCH --nodes=1
            #SBATCH --ntasks-per-node=1
            #SBATCH --open-mode=append
            #SBATCH --requeue
            #SBATCH --signal=B:TERM@120
            #SBATCH --partition=gpu
            case $SLURM_ARRAY_TASK_ID in
            0)
            hairpin_home='/shared/my jobs/a' hairpin_attempt=1
            hairpin_command=(hairpin train '/shared/my jobs/a/recipe.toml' --out '/shared/my jobs/a/run' --resume --set data.path=/shared/data)
            ;;
            1)
            hairpin_home='/shared/my jobs/b' hairpin_attempt=1
            hairpin_command=(hairpin train '/shared/my jobs/b/recipe.toml' --out '/shared/my jobs/b/run' --resume --set data.path=/shared/data)
            ;;
            esac
            exec >>"$hairpin_home/log" 2>&1
            cd /shared || exit 3
            export HAIRPIN_KERNELS=portable
            "${hairpin_command[@]}" &
            program=$!
            trap 'kill -TERM $program 2>/dev/null' TERM
            wait $program; code=$?
            while kill -0 $program 2>/dev/null; do wait $program; code=$?; done
            printf '{"attempt":%d,"code":%d}\n' $hairpin_attempt $code > "$hairpin_home/exit.json.new" && mv "$hairpin_home/exit.json.new" "$hairpin_home/exit.json"
            exit $code
            EOF"#]].assert_eq(&Slurm.request(&array(&jobs, &[0, 1], Some(2))).unwrap().text());
        let other = swept(Path::new("/shared/my jobs"), "c", "partition = \"cpu\"");
        assert!(Slurm.alike(&jobs[0]) == Slurm.alike(&jobs[1]) && Slurm.alike(&jobs[0]) != Slurm.alike(&other));
        assert_eq!(Slurm.alike(&swept(Path::new("/shared"), "d", "allocation = 7")), None, "a held allocation takes no batch jobs");
        let many: Vec<Job> = (0..8).map(|_| jobs[0].clone()).collect();
        let asked = |indices: &[usize], at_once| numbers(&array(&many, indices, at_once));
        assert_eq!((asked(&[0, 1, 2, 5, 7], None), asked(&[3], Some(1))), ("0-2,5,7".into(), "3%1".into()));
    }

    #[test]
    fn each_element_finds_its_own_job() {
        let folder = tempfile::tempdir().unwrap();
        let jobs: Vec<Job> = ["a", "it's b"]
            .map(|name| Job {
                folder: folder.path().into(),
                ..swept(folder.path(), name, "program = \"/bin/echo\"\nsetup = [\"home=x; set --\"]")
            })
            .into();
        jobs.iter().for_each(|job| fs::create_dir(&job.home).unwrap());
        let Input::Text(script) = Slurm.request(&array(&jobs, &[0, 1], None)).unwrap().input else { panic!("no script") };
        for (index, job) in jobs.iter().enumerate() {
            let status = Command::new("bash").args(["-c", &script]).env("SLURM_ARRAY_TASK_ID", index.to_string()).status().unwrap();
            assert!(status.success());
            let log = fs::read_to_string(job.log()).unwrap();
            assert_eq!(
                log.trim(),
                format!("train {}/recipe.toml --out {} --resume --set data.path=/shared/data", job.home.display(), job.checkpoints)
            );
            assert_eq!(local::exit(&job.home, 1).map(|exit| exit.code), Some(0));
        }
    }
}
