//! What each command does.

mod agent;
mod agent_local;
mod agents;
mod audit;
mod demo;
mod gateway;
mod grant;
mod host_add;
mod host_check;
mod host_invite;
mod host_list;
mod host_remove;
mod init;
mod init_shared;
mod key;
mod key_status;
mod members;
mod operator;
mod pods;
mod pods_key;
mod pods_role;
mod pods_store;
mod recovery_copy;
mod renew;
mod rotate;
mod rotation_display;
mod serve;
mod session;
mod spec;
mod ssh_agent_follower;
mod store;
mod store_gc;
mod store_migrate;
mod token;
mod via;

use clap::CommandFactory as _;

use crate::cli::agent_args::{Agent, Agents};
use crate::cli::args::{Cli, Command, Gateway, Host, Key, Session, Token};
use crate::cli::context::Context;
use crate::cli::{Exit, Failure, Output, Signals};

/// Runs the command that was asked for.
///
/// # Errors
/// Why it failed, with what to do next.
pub async fn run(cli: Cli, output: Output, signals: Signals) -> Result<Exit, Failure> {
    let global = cli.global;
    let context = || Context::open(&global, output, signals.clone());
    let changing = || Context::open_to_change(&global, output, signals.clone());
    match cli.command {
        Command::Init(options) => init::init(&global, &options, output, signals).await,
        Command::Host(Host::Add(options)) => host_add::add(&changing().await?, options).await,
        Command::Host(Host::Invite(options)) => host_invite::invite(&changing().await?, options).await,
        Command::Host(Host::Ls) => host_list::list(&context().await?).await,
        Command::Host(Host::Show { account }) => host_list::show(&context().await?, &account).await,
        Command::Host(Host::Check { accounts, concurrency }) => host_check::check(&context().await?, accounts, concurrency).await,
        Command::Host(Host::Rm(options)) => host_remove::remove(&changing().await?, &options).await,
        Command::Session(Session::Ls { all }) => session::list(&context().await?, all).await,
        Command::Session(Session::Show { id }) => session::show(&context().await?, id).await,
        Command::Session(Session::Cancel { id, all: _, forget }) => session::cancel(&changing().await?, id, forget).await,
        Command::Session(Session::Recover { id }) => session::recover(&changing().await?, id).await,
        Command::Key(Key::Show) => key::show(&context().await?).await,
        Command::Key(Key::Rotate(options)) => rotate::rotate(&changing().await?, options).await,
        Command::Key(Key::Renew(options)) => renew::renew(&changing().await?, options).await,
        Command::Key(Key::Status) => key_status::status(&context().await?).await,
        Command::Key(Key::Settle { concurrency, timeout }) => key_status::settle(&changing().await?, concurrency, timeout).await,
        Command::Key(Key::Load { lifetime, confirm }) => key::load(&context().await?, lifetime, confirm).await,
        Command::Key(Key::Unload) => key::unload(&context().await?).await,
        Command::Key(Key::Export(options)) => recovery_copy::export(&context().await?, &options).await,
        Command::Key(Key::VerifyCopy { copy, identity }) => {
            recovery_copy::verify(&context().await?, &global, &copy, &identity).await
        }
        Command::Gateway(Gateway::Serve(options)) => gateway::serve(&changing().await?, *options).await,
        Command::Gateway(Gateway::Pin) => gateway::pin(&context().await?).await,
        Command::Gateway(Gateway::RenewKey { force }) => gateway::renew_key(&changing().await?, force).await,
        Command::Token(Token::Create(options)) => token::create(&changing().await?, options).await,
        Command::Token(Token::Ls) => token::list(&context().await?).await,
        Command::Token(Token::Revoke { id }) => token::revoke(&changing().await?, id).await,
        Command::Grant(options) => grant::run(&changing().await?, options).await,
        Command::Agent(Agent::Join(options)) if options.local => {
            let context = Context::open_embedded(&global, output, signals).await?;
            agent_local::join(&context, &global, &options).await
        }
        Command::Agent(Agent::Join(options)) => agent::join_line(&global, &options, output, signals).await,
        Command::Agent(Agent::Ping(options)) => agent::ping(&global, &options, output, signals).await,
        Command::Agents(Agents::Ls) => agents::list(&context().await?).await,
        Command::Agents(Agents::Show { id }) => agents::show(&context().await?, &id).await,
        Command::Agents(Agents::Rm { id }) => agents::remove(&changing().await?, &id).await,
        Command::Spec(command) => spec::run(&global, command, output, signals).await,
        Command::Audit(command) => audit::run(&global, command, output, signals).await,
        Command::Operator(command) => members::run(&global, command, output, signals).await,
        Command::Store(command) => store::run(&global, command, output, signals).await,
        Command::Pods(command) => pods::run(&global, command, output, signals).await,
        Command::Serve(options) => serve::serve(&global, *options, output, signals).await,
        Command::Manual { directory } => {
            clap_mangen::generate_to(Cli::command(), &directory)
                .map_err(|error| Failure::new(format!("writing manual pages to {} failed: {error}", directory.display())))?;
            output.document(&serde_json::json!({ "directory": directory }));
            Ok(Exit::Done)
        }
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "toehold", &mut script);
            output.raw(&String::from_utf8_lossy(&script));
            Ok(Exit::Done)
        }
        Command::Demo(options) => demo::demo(&global, &options, output, signals).await,
    }
}
