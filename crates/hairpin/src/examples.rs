//! Every example in a help text, README and docs is one that the command line takes.

use clap::{CommandFactory, Parser};

use crate::Cli;

/// The words of a command as a shell sees them; what follows a redirection or a pipe is the shell's.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut quote, mut word) = (Vec::new(), None, None::<String>);
    for c in line.chars() {
        match (quote, c) {
            (Some(open), _) if c == open => quote = None,
            (None, '\'' | '"') => (quote, word) = (Some(c), Some(word.unwrap_or_default())),
            (None, '>' | '|' | ';' | '&') => break,
            (None, _) if c.is_whitespace() => words.extend(word.take()),
            _ => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

/// What is wrong with an example, if anything is.
fn problem(example: &str) -> Option<String> {
    // `mpirun -n 2 hairpin ...` starts it too.
    let at = example.find("hairpin ")?;
    let error = Cli::try_parse_from(words(&example[at..])).err()?;
    // A command may be named without all that it needs.
    (error.use_stderr() && error.kind() != clap::error::ErrorKind::MissingRequiredArgument)
        .then(|| format!("`{example}`: {}", error.to_string().lines().next().unwrap_or_default()))
}

fn each(command: &clap::Command, see: &mut impl FnMut(&clap::Command)) {
    see(command);
    command.get_subcommands().for_each(|command| each(command, see));
}

#[test]
fn every_help_has_an_example_that_parses() {
    let (mut problems, mut count) = (Vec::new(), 0);
    each(&Cli::command(), &mut |command| {
        let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        let mut examples =
            help.lines().map(|line| line.trim().trim_start_matches("Example: ")).filter(|line| line.contains("hairpin ")).peekable();
        // A command that only holds others has none of its own.
        if examples.peek().is_none() && !command.has_subcommands() {
            problems.push(format!("`{}` has no example", command.get_name()));
        }
        for example in examples.filter(|line| line.starts_with("hairpin ") || line.starts_with("mpirun ")) {
            count += 1;
            problems.extend(problem(example));
        }
    });
    assert!(problems.is_empty() && count > 20, "{count}: {problems:#?}");
}

#[test]
fn every_command_in_readme_and_docs_parses() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
    let docs = std::fs::read_dir(format!("{root}/docs")).unwrap().flatten().map(|entry| entry.path());
    let pages = docs.filter(|path| path.extension().is_some_and(|e| e == "md")).chain([format!("{root}/README.md").into()]);
    let (mut problems, mut count) = (Vec::new(), 0);
    for page in pages {
        let text = std::fs::read_to_string(&page).unwrap();
        // Lines of a fenced block; and `code`, which may go on in the next line. Words in capitals and braces stand for what a reader has.
        let (mut is_fenced, mut fenced, mut plain) = (false, Vec::new(), String::new());
        for line in text.lines() {
            match line.starts_with("```") {
                true => is_fenced = !is_fenced,
                false if is_fenced => fenced.push(line.split("  ").next().unwrap_or(line).to_owned()),
                false => plain += &format!("{line} "),
            }
        }
        let inline = plain.split('`').skip(1).step_by(2).map(|code| code.split_whitespace().collect::<Vec<_>>().join(" "));
        for code in inline.chain(fenced) {
            let is_whole = code.starts_with("hairpin ") && !code.contains(['|', '{', '…', '<', '[']) && !code.contains("...");
            if is_whole && code.split(' ').nth(1).is_some_and(|word| word.starts_with(|c: char| c.is_ascii_lowercase())) {
                count += 1;
                problems.extend(problem(&code).map(|problem| format!("{}: {problem}", page.display())));
            }
        }
    }
    assert!(problems.is_empty() && count > 20, "{count}: {problems:#?}");
}
