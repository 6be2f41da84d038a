//! Users and API tokens: who may use the node.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use prost_types::Duration;
use quantix_api::v1::{
    CreateTokenRequest, CreateUserRequest, DeleteTokenRequest, DeleteUserRequest, ListTokensRequest, ListUsersRequest,
    Role, SetPasswordRequest, Token, UpdateUserRequest, User, WhoAmIRequest,
};

use crate::failure::Failure;
use crate::output::Format;
use crate::progress::Idempotent;
use crate::session::{Session, pages};
use crate::style::Tone;
use crate::table::{Cell, Column, Sheet};
use crate::terminal;
use crate::units;
use crate::words::{parser, word};

/// Commands on users.
#[derive(Debug, Subcommand)]
pub enum UserCommand {
    /// List users
    #[command(visible_alias = "list", after_help = "Examples:\n  qx user ls")]
    Ls,
    /// Add a user; the password is asked
    #[command(
        visible_alias = "add",
        after_help = "Examples:\n  qx user create alice --role operator\n  qx user create ci --role viewer --password-file -"
    )]
    Create {
        /// What to call the user
        name: String,
        /// What the user may do
        #[arg(long, value_parser = parser::<Role>())]
        role: Role,
        /// Read the password from the first line of a file (- is standard input) instead of asking
        #[arg(long, value_name = "FILE")]
        password_file: Option<PathBuf>,
        #[command(flatten)]
        idempotent: Idempotent,
    },
    /// Change a user's role, or whether the user may log in
    #[command(after_help = "Examples:\n  qx user edit alice --role admin\n  qx user edit bob --disable")]
    Edit(EditArgs),
    /// Set a password: your own, or as administrator anybody's
    #[command(after_help = "Examples:\n  qx user passwd alice\n  qx user passwd ci --password-file /run/secrets/ci")]
    Passwd {
        /// Name or id
        user: String,
        /// Read the new password from the first line of a file (- is standard input) instead of asking
        #[arg(long, value_name = "FILE")]
        password_file: Option<PathBuf>,
        /// Read your present password from the first line of a file instead of asking
        #[arg(long, value_name = "FILE")]
        old_password_file: Option<PathBuf>,
    },
    /// Remove a user with all tokens
    #[command(visible_alias = "rm", after_help = "Examples:\n  qx user delete bob")]
    Delete {
        /// Name or id
        user: String,
    },
}

/// What `user edit` takes.
#[derive(Debug, Args)]
pub struct EditArgs {
    /// Name or id
    user: String,
    /// What the user may do
    #[arg(long, value_parser = parser::<Role>())]
    role: Option<Role>,
    /// May not log in any more, and tokens do not work
    #[arg(long, conflicts_with = "enable")]
    disable: bool,
    /// May log in again
    #[arg(long)]
    enable: bool,
}

/// Commands on tokens.
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// List tokens, without their secrets
    #[command(visible_alias = "list", after_help = "Examples:\n  qx token ls")]
    Ls,
    /// Make a token; its secret is printed once
    #[command(
        after_help = "Examples:\n  qx token create backup --role viewer --expires 90d\n  qx token create ci --role operator -o json"
    )]
    Create {
        /// What it is for
        name: String,
        /// What it may do: at most what you may
        #[arg(long, value_parser = parser::<Role>())]
        role: Role,
        /// When it stops to work; never, when nothing is said
        #[arg(long, value_name = "DURATION", value_parser = units::parse_duration)]
        expires: Option<Duration>,
    },
    /// Make a token worthless at once
    #[command(visible_alias = "rm", after_help = "Examples:\n  qx token delete 0193a7e2-5b1c-7c33-a1f0-0f5d6a1c2b3d")]
    Delete {
        /// Its id
        token: String,
    },
}

const USERS: Sheet<User> = Sheet {
    plural: "users",
    name: |user| &user.name,
    columns: &[
        Column::text("NAME", |user, _| user.name.as_str().into()),
        Column::text("ROLE", |user, _| word::<Role>(user.role).into()),
        Column::text("LOGIN", |user, _| {
            if user.disabled { Cell::toned("disabled", Tone::Bad) } else { Cell::toned("enabled", Tone::Good) }
        }),
        Column::text("LAST LOGIN", |user, _| units::when(user.last_login_time.as_ref()).into()),
        Column::number("AGE", |user, view| units::age(user.create_time.as_ref(), view.now).into()),
        Column::wide_text("ID", |user, _| user.id.as_str().into()),
    ],
};

const TOKENS: Sheet<Token> = Sheet {
    plural: "tokens",
    name: |token| &token.id,
    columns: &[
        Column::text("ID", |token, _| token.id.as_str().into()),
        Column::text("NAME", |token, _| token.name.as_str().into()),
        Column::text("USER", |token, _| token.user.as_str().into()),
        Column::text("ROLE", |token, _| word::<Role>(token.role).into()),
        Column::number("EXPIRES", |token, view| units::until(token.expire_time.as_ref(), view.now).into()),
        Column::text("LAST USED", |token, _| units::when(token.last_used_time.as_ref()).into()),
        Column::number("AGE", |token, view| units::age(token.create_time.as_ref(), view.now).into()),
    ],
};

/// Runs a command on users.
pub async fn run(command: UserCommand, session: &Session) -> Result<(), Failure> {
    let mut auth = session.auth().await?;
    match command {
        UserCommand::Ls => {
            let users = pages!(&auth, list_users, ListUsersRequest::default(), users)?;
            session.out.list(&users, &USERS, &session.out.view())
        }
        UserCommand::Create { name, role, password_file, idempotent } => {
            let password = terminal::new_secret("Password of the new user: ", password_file.as_deref())?;
            let request = CreateUserRequest { name, password, role: role.into(), request_id: idempotent.request_id };
            let user = auth.create_user(request).await?.into_inner();
            let sentence = format!("User {} is there ({}).", user.name, word::<Role>(user.role));
            session.out.done(&user, &user.name, &sentence)
        }
        UserCommand::Edit(args) => {
            if args.role.is_none() && !args.disable && !args.enable {
                return Err(Failure::usage("Nothing is to be changed").hint("what can be: qx user edit --help"));
            }
            let request = UpdateUserRequest {
                user: args.user,
                role: args.role.map(Into::into),
                disabled: (args.disable || args.enable).then_some(args.disable),
                etag: String::new(),
            };
            let user = auth.update_user(request).await?.into_inner();
            session.out.done(&user, &user.name, &format!("User {} is changed.", user.name))
        }
        UserCommand::Passwd { user, password_file, old_password_file } => {
            // Who sets another's password is not asked for it.
            let me = auth.who_am_i(WhoAmIRequest {}).await?.into_inner().name;
            let old_password = if me == user || old_password_file.is_some() {
                terminal::secret("Present password: ", old_password_file.as_deref())?
            } else {
                String::new()
            };
            let password = terminal::new_secret("New password: ", password_file.as_deref())?;
            auth.set_password(SetPasswordRequest { user: user.clone(), password, old_password }).await?;
            session.out.line(&format!("The password of {user} is changed, and {user}'s sessions are ended."))
        }
        UserCommand::Delete { user } => {
            auth.delete_user(DeleteUserRequest { user: user.clone() }).await?;
            session.out.line(&format!("User {user} is removed."))
        }
    }
}

/// Runs a command on tokens.
pub async fn run_token(command: TokenCommand, session: &Session) -> Result<(), Failure> {
    let mut auth = session.auth().await?;
    match command {
        TokenCommand::Ls => {
            let tokens = pages!(&auth, list_tokens, ListTokensRequest::default(), tokens)?;
            session.out.list(&tokens, &TOKENS, &session.out.view())
        }
        TokenCommand::Create { name, role, expires } => {
            let expire_time = expires.as_ref().map(units::from_now);
            let request = CreateTokenRequest { name, role: role.into(), expire_time };
            let answer = auth.create_token(request).await?.into_inner();
            let token = answer.token.clone().unwrap_or_default();
            if matches!(session.out.format, Format::Table | Format::Wide) {
                // The secret alone on standard output, so that it can go straight into a file.
                eprintln!(
                    "Token {} for {} ({}). Its secret is shown this once:",
                    token.id,
                    token.name,
                    word::<Role>(token.role)
                );
            }
            session.out.done(&answer, &answer.secret, &answer.secret)
        }
        TokenCommand::Delete { token } => {
            auth.delete_token(DeleteTokenRequest { token: token.clone() }).await?;
            session.out.line(&format!("Token {token} is worthless now."))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::tests::view;

    #[test]
    fn lists_of_users_and_tokens() {
        let user = User { name: "alice".into(), role: Role::Operator.into(), disabled: true, ..User::default() };
        assert_eq!(
            USERS.render(&[user], &view()),
            "NAME   ROLE      LOGIN     LAST LOGIN  AGE\nalice  operator  disabled\n"
        );
        let token = Token { id: "t".into(), name: "ci".into(), role: Role::Viewer.into(), ..Token::default() };
        assert_eq!(
            TOKENS.render(&[token], &view()),
            "ID  NAME  USER  ROLE    EXPIRES  LAST USED  AGE\nt   ci          viewer    never\n"
        );
    }
}
