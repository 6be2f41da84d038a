//! Who is using the node: the first administrator, logging in and out. Secrets are asked without echo or read from files.

use std::path::PathBuf;

use clap::Args;
use quantix_api::v1::auth_service_client::AuthServiceClient;
use quantix_api::v1::{LoginRequest, LoginResponse, LogoutRequest, Role, SetupRequest, WhoAmIRequest, WhoAmIResponse};

use crate::connect::{Address, Target, Trust};
use crate::contexts::{Context, Contexts};
use crate::failure::{ExitStatus, Failure};
use crate::session::Session;
use crate::table::Facts;
use crate::terminal;
use crate::units;
use crate::words::word;

const LOGIN_EXAMPLES: &str = "\
Examples:
  qx login node1.example.net
  qx login node1.example.net --user admin --save-as lab
  qx login --context lab --password-file - < password
  qx login 10.0.0.5 --user ci --password-file /run/secrets/qx \\
      --fingerprint 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

/// What `login` takes.
#[derive(Debug, Args)]
#[command(after_help = LOGIN_EXAMPLES)]
pub struct LoginArgs {
    #[command(flatten)]
    account: Account,
}

/// What `setup` takes.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  qx setup node1.example.net
  qx setup --user admin
  qx setup 10.0.0.5 --user admin --setup-token-file token --password-file password \\
      --trust-on-first-use")]
pub struct SetupArgs {
    #[command(flatten)]
    account: Account,
    /// Read the one-time setup token from the first line of a file (- is standard input) instead of asking
    #[arg(long, value_name = "FILE")]
    setup_token_file: Option<PathBuf>,
}

/// Who, where, and how it is kept.
#[derive(Debug, Args)]
struct Account {
    /// HOST, HOST:PORT or unix:PATH; without it, the node that commands use
    address: Option<Address>,
    /// Name of the user; asked when it is not given
    #[arg(short, long, value_name = "NAME")]
    user: Option<String>,
    /// Read the password from the first line of a file (- is standard input) instead of asking
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// Name of the context to keep it in; the first part of the host's name when it is not given
    #[arg(long, value_name = "CONTEXT")]
    save_as: Option<String>,
}

/// What `logout` takes.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  qx logout\n  qx logout --context lab")]
pub struct LogoutArgs {}

/// What `whoami` takes.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  qx whoami\n  qx whoami --context lab -o json")]
pub struct WhoamiArgs {}

/// Logs in.
pub async fn login(args: LoginArgs, session: &Session) -> Result<(), Failure> {
    let (target, mut client) = args.account.reach(session).await?;
    let name = args.account.name()?;
    let password = terminal::secret("Password: ", args.account.password_file.as_deref())?;
    let answer = client.login(LoginRequest { name: name.clone(), password }).await;
    let answer = answer.map_err(|status| {
        let mut failure = Failure::from(status);
        // Whoever is logging in is not helped by being told to log in.
        failure.hint = None;
        failure
    })?;
    keep(&args.account, &target, answer.into_inner(), session)
}

/// Makes the first administrator.
pub async fn setup(args: SetupArgs, session: &Session) -> Result<(), Failure> {
    let (target, mut client) = args.account.reach(session).await?;
    let setup_token =
        terminal::secret("Setup token (the node's console and log show it): ", args.setup_token_file.as_deref())?;
    let name = args.account.name()?;
    let password = terminal::new_secret("New password: ", args.account.password_file.as_deref())?;
    let answer = client.setup(SetupRequest { setup_token, name, password }).await?.into_inner();
    keep(&args.account, &target, answer, session)
}

impl Account {
    fn name(&self) -> Result<String, Failure> {
        match &self.user {
            Some(name) => Ok(name.clone()),
            None => terminal::ask("User: "),
        }
    }

    /// The node that is meant, with its certificate agreed to and no token.
    async fn reach(&self, session: &Session) -> Result<(Target, AuthServiceClient<crate::session::Wire>), Failure> {
        let mut global = session.global.clone();
        if let Some(address) = &self.address {
            if global.node.is_some() || global.context.is_some() {
                return Err(Failure::usage("The node is named twice: as an argument, and with --node or --context"));
            }
            global.node = Some(address.clone());
        }
        let session = Session::new(global);
        let mut target = session.target()?;
        target.token = None;
        if let (Address::Tls(host, port), Trust::Ask | Trust::FirstUse) = (&target.address, &target.trust) {
            target.trust = Trust::Pinned(session.first_contact(host, *port).await?);
        }
        let client = AuthServiceClient::new(session.open(&target).await?);
        Ok((target, client))
    }
}

/// Keeps the token in a context.
fn keep(account: &Account, target: &Target, answer: LoginResponse, session: &Session) -> Result<(), Failure> {
    let user = answer.user.clone().unwrap_or_default();
    let mut contexts = Contexts::load()?;
    let name =
        account.save_as.clone().or_else(|| target.context.clone()).unwrap_or_else(|| short_name(&target.address));
    let (fingerprint, ca_file) = match &target.trust {
        Trust::Pinned(fingerprint) => (Some(*fingerprint), None),
        Trust::Authorities(file) => (None, std::path::absolute(file).ok()),
        Trust::Ask | Trust::FirstUse => (None, None),
    };
    let address = target.address.to_string();
    contexts.set(
        &name,
        Context { address, user: Some(user.name.clone()), token: Some(answer.token), fingerprint, ca_file },
    );
    contexts.choose(&name)?;
    contexts.save()?;
    let until = answer.expire_time.as_ref().map(|time| format!(", until {}", units::when(Some(time))));
    let sentence = format!(
        "Logged in to {} as {} ({}){}; context {name}.",
        target.address,
        user.name,
        word::<Role>(user.role),
        until.unwrap_or_default(),
    );
    session.out.done(&user, &name, &sentence)
}

/// What a context is called when nobody says.
fn short_name(address: &Address) -> String {
    match address {
        Address::Socket(_) => "local".to_owned(),
        // An IP address has no first part that says anything.
        Address::Tls(host, _) if host.parse::<std::net::IpAddr>().is_ok() => host.clone(),
        Address::Tls(host, _) => host.split('.').next().unwrap_or(host).to_owned(),
    }
}

/// Ends the session, and forgets its token.
pub async fn logout(session: &Session) -> Result<(), Failure> {
    let target = session.target()?;
    if target.token.is_none() {
        return Err(Failure::failed(format!("Nobody is logged in at {}", target.address)));
    }
    let ended = session.auth().await?.logout(LogoutRequest {}).await.map_err(Failure::from);
    // A token that the node does not know any more is to be forgotten too.
    if let Err(failure) = ended
        && failure.status != ExitStatus::Denied
    {
        return Err(failure);
    }
    if let Some(name) = &target.context {
        let mut contexts = Contexts::load()?;
        contexts.change(name, |context| context.token = None);
        contexts.save()?;
    }
    session.out.line(&format!("Logged out of {}.", target.address))
}

/// Says who is asking.
pub async fn whoami(session: &Session) -> Result<(), Failure> {
    let address = session.target()?.address.to_string();
    let me = session.auth().await?.who_am_i(WhoAmIRequest {}).await?.into_inner();
    let name = me.name.clone();
    session.out.show(&me, &name, |me: &WhoAmIResponse, _| {
        let mut facts = Facts::default();
        facts.add("Node", address).add("User", me.name.clone()).add("Role", word::<Role>(me.role));
        facts
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_context_is_named_after_its_host() {
        for (address, name) in
            [("node1.example.net", "node1"), ("10.0.0.5:99", "10.0.0.5"), ("::1", "::1"), ("unix:/run/x", "local")]
        {
            assert_eq!(short_name(&address.parse().unwrap()), name);
        }
    }
}
