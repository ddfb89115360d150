//! Subcommands: one file each, or one file for a few that belong together.

mod align;
mod bench;
mod demo;
mod doctor;
mod elsewhere;
mod jobs;
mod kept;
mod launch;
mod model;
mod plan;
mod project;
mod recipe;
mod train;
mod vision;

use std::process::ExitCode;

use crate::progress;

#[derive(clap::Subcommand)]
pub(crate) enum Command {
    Demo(demo::DemoArgs),
    Init(project::InitArgs),
    Data(project::DataArgs),
    Plan(Box<plan::PlanArgs>),
    Climb(project::ClimbArgs),
    Report(project::ReportArgs),
    Train(train::TrainArgs),
    Launch(Box<launch::LaunchArgs>),
    Jobs(jobs::JobsArgs),
    Logs(jobs::LogsArgs),
    Stop(jobs::StopArgs),
    Resume(jobs::ResumeArgs),
    Cost(jobs::CostArgs),
    Compare(jobs::CompareArgs),
    Supervise(launch::SuperviseArgs),
    Work(launch::WorkArgs),
    Recipe(recipe::RecipeArgs),
    Eval(model::EvalArgs),
    Generate(model::GenerateArgs),
    Export(model::ExportArgs),
    Import(model::ImportArgs),
    #[command(subcommand)]
    Align(align::AlignCommand),
    Doctor(doctor::DoctorArgs),
    #[command(subcommand)]
    Bench(bench::BenchCommand),
}

pub(crate) fn run(command: &Command, json: bool) -> miette::Result<ExitCode> {
    match command {
        Command::Plan(_) => progress::busy("planning"),
        Command::Report(_) => progress::busy("writing the report"),
        Command::Launch(_) => progress::busy("quoting"),
        Command::Eval(_) => progress::busy("measuring held-out loss"),
        Command::Generate(_) => progress::busy("reading the model"),
        Command::Export(_) => progress::busy("exporting"),
        Command::Import(_) => progress::busy("importing"),
        Command::Doctor(_) | Command::Bench(_) => progress::busy("measuring this machine"),
        _ => {}
    }
    match command {
        Command::Demo(args) => demo::run(args, json),
        Command::Init(args) => project::init(args, json),
        Command::Data(args) => project::data(args, json),
        Command::Plan(args) => plan::run(args, json),
        Command::Climb(args) => project::climb(args, json),
        Command::Report(args) => project::report(args, json),
        Command::Train(args) => train::run(args, json),
        Command::Launch(args) => launch::run(args, json),
        Command::Jobs(args) => jobs::jobs(args, json),
        Command::Logs(args) => jobs::logs(args),
        Command::Stop(args) => jobs::stop(args, json),
        Command::Resume(args) => jobs::resume(args, json),
        Command::Cost(args) => jobs::cost(args, json),
        Command::Compare(args) => jobs::compare(args, json),
        Command::Supervise(args) => launch::supervise(args),
        Command::Work(args) => launch::work(args),
        Command::Recipe(args) => recipe::run(args, json),
        Command::Eval(args) => model::eval(args, json),
        Command::Generate(args) => model::generate(args, json),
        Command::Export(args) => model::export(args, json),
        Command::Import(args) => model::import(args, json),
        Command::Align(command) => align::run(command, json),
        Command::Doctor(args) => doctor::run(args, json),
        Command::Bench(command) => bench::run(command, json),
    }
}
