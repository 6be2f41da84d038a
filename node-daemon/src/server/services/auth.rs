//! `AuthService`: users, tokens, sessions. Async runtime. Who may call what is a row in the table of `auth/`; what concerns
//! only oneself is decided by the room.

use quantix_api::v1;
use quantix_api::v1::auth_service_server::AuthService;
use tonic::{Code, Request, Response, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::auth::{AuditNote, AuditSubject, Auth, Login, Peer, Refused, UserChange};
use crate::daemon::Rooms;
use crate::model::{Caller, Failure, Page, Role, Time, Token, User};
use crate::store::{Record as _, Stored};

/// The service.
pub struct AuthRpc {
    auth: Auth,
}

impl AuthRpc {
    /// The service on these rooms.
    pub fn new(rooms: &Rooms) -> Self {
        Self { auth: rooms.auth.clone() }
    }
}

impl From<Refused> for Status {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Failed(failure) => failure.into(),
            Refused::TooOften(wait) => {
                let seconds = wait.as_secs() + 1;
                let text =
                    format!("Too many failed logins for this name or from this address: try again in {seconds} s");
                let details = ErrorDetails::with_retry_info(Some(std::time::Duration::from_secs(seconds)));
                Status::with_error_details(Code::ResourceExhausted, text, details)
            }
        }
    }
}

fn peer<T>(request: &Request<T>) -> Result<Peer, Failure> {
    request.extensions().get().cloned().ok_or_else(|| Failure::bug("The listener did not say who is asking"))
}

/// A login has no caller yet: the audit log takes the name that was tried.
fn tried<T>(request: &Request<T>, name: &str) {
    if let Some(note) = request.extensions().get::<AuditNote>() {
        note.user(name);
    }
}

/// An answer, with what the call was done to.
fn about<T>(answer: T, subject: crate::model::ResourceRef) -> Response<T> {
    let mut response = Response::new(answer);
    response.extensions_mut().insert(AuditSubject(subject));
    response
}

fn role(field: &str, value: i32) -> Result<Role, Failure> {
    match v1::Role::try_from(value) {
        Ok(v1::Role::Viewer) => Ok(Role::Viewer),
        Ok(v1::Role::Operator) => Ok(Role::Operator),
        Ok(v1::Role::Admin) => Ok(Role::Admin),
        Ok(v1::Role::Unspecified) | Err(_) => {
            Err(Failure::invalid(field, value, "is no role: say ROLE_VIEWER, ROLE_OPERATOR or ROLE_ADMIN"))
        }
    }
}

fn role_on_wire(role: Role) -> i32 {
    let role = match role {
        Role::Viewer => v1::Role::Viewer,
        Role::Operator => v1::Role::Operator,
        Role::Admin => v1::Role::Admin,
    };
    role.into()
}

fn login_on_wire(login: Login) -> Response<v1::LoginResponse> {
    let subject = login.user.record.reference();
    let answer = v1::LoginResponse {
        token: login.secret,
        expire_time: Some(login.expires.into()),
        user: Some((&login.user).into()),
    };
    about(answer, subject)
}

fn token_on_wire(stored: &Stored<Token>, user: String) -> v1::Token {
    let token = &stored.record;
    v1::Token {
        id: token.id.to_string(),
        name: token.label.clone(),
        user,
        role: role_on_wire(token.role),
        create_time: Some(stored.create_time.into()),
        expire_time: token.expires.map(Into::into),
        last_used_time: token.last_used.map(Into::into),
    }
}

impl From<&Stored<User>> for v1::User {
    fn from(stored: &Stored<User>) -> Self {
        Self {
            id: stored.record.id.to_string(),
            name: stored.record.name.to_string(),
            role: role_on_wire(stored.record.role),
            disabled: stored.record.disabled,
            create_time: Some(stored.create_time.into()),
            last_login_time: stored.record.last_login.map(Into::into),
            etag: stored.etag(),
        }
    }
}

/// Reads a time; `field` is blamed.
fn time(field: &str, value: prost_types::Timestamp) -> Result<Time, Failure> {
    let micros = value.seconds.checked_mul(1_000_000).and_then(|m| m.checked_add(i64::from(value.nanos) / 1000));
    let valid = (0..1_000_000_000).contains(&value.nanos);
    let micros = micros.filter(|_| valid);
    micros.map(Time::from_micros).ok_or_else(|| Failure::invalid(field, value.seconds, "is no time"))
}

#[tonic::async_trait]
impl AuthService for AuthRpc {
    async fn setup(&self, request: Request<v1::SetupRequest>) -> Result<Response<v1::LoginResponse>, Status> {
        tried(&request, &request.get_ref().name);
        let peer = peer(&request)?;
        let v1::SetupRequest { setup_token, name, password } = request.into_inner();
        Ok(login_on_wire(self.auth.setup(&peer, &setup_token, &name, password).await?))
    }

    async fn login(&self, request: Request<v1::LoginRequest>) -> Result<Response<v1::LoginResponse>, Status> {
        tried(&request, &request.get_ref().name);
        let peer = peer(&request)?;
        let v1::LoginRequest { name, password } = request.into_inner();
        Ok(login_on_wire(self.auth.login(&peer, &name, password).await?))
    }

    async fn logout(&self, request: Request<v1::LogoutRequest>) -> Result<Response<()>, Status> {
        self.auth.logout(&Caller::of(&request)?).await?;
        Ok(Response::new(()))
    }

    async fn who_am_i(&self, request: Request<v1::WhoAmIRequest>) -> Result<Response<v1::WhoAmIResponse>, Status> {
        let caller = Caller::of(&request)?;
        Ok(Response::new(v1::WhoAmIResponse { name: caller.name, role: role_on_wire(caller.role) }))
    }

    async fn list_users(
        &self,
        request: Request<v1::ListUsersRequest>,
    ) -> Result<Response<v1::ListUsersResponse>, Status> {
        let request = request.into_inner();
        let page = Page::parse(request.page_size, &request.page_token, "users")?;
        let found = self.auth.users(page).await?;
        let users = found.items.iter().map(Into::into).collect();
        Ok(Response::new(v1::ListUsersResponse { users, next_page_token: found.next }))
    }

    async fn create_user(&self, request: Request<v1::CreateUserRequest>) -> Result<Response<v1::User>, Status> {
        let caller = Caller::of(&request)?;
        let v1::CreateUserRequest { name, password, role: as_role, request_id } = request.into_inner();
        let user = (name.as_str(), password, role("role", as_role)?);
        let made = self.auth.create_user(caller, user, request_id).await?;
        Ok(about((&made).into(), made.record.reference()))
    }

    async fn update_user(&self, request: Request<v1::UpdateUserRequest>) -> Result<Response<v1::User>, Status> {
        let v1::UpdateUserRequest { user, role: new_role, disabled, etag } = request.into_inner();
        let role = new_role.map(|value| role("role", value)).transpose()?;
        let changed = self.auth.update_user(user, UserChange { role, disabled, etag }).await?;
        Ok(about((&changed).into(), changed.record.reference()))
    }

    async fn set_password(&self, request: Request<v1::SetPasswordRequest>) -> Result<Response<()>, Status> {
        let (caller, peer) = (Caller::of(&request)?, peer(&request)?);
        let v1::SetPasswordRequest { user, password, old_password } = request.into_inner();
        let changed = self.auth.set_password((&caller, &peer), user, (password, old_password)).await?;
        Ok(about((), changed.reference()))
    }

    async fn delete_user(&self, request: Request<v1::DeleteUserRequest>) -> Result<Response<()>, Status> {
        let gone = self.auth.delete_user(request.into_inner().user).await?;
        Ok(about((), gone.reference()))
    }

    async fn list_tokens(
        &self,
        request: Request<v1::ListTokensRequest>,
    ) -> Result<Response<v1::ListTokensResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let page = Page::parse(request.page_size, &request.page_token, format!("tokens?{}", caller.name))?;
        let found = self.auth.tokens(&caller, page).await?;
        let tokens = found.items.iter().map(|(token, user)| token_on_wire(token, user.clone())).collect();
        Ok(Response::new(v1::ListTokensResponse { tokens, next_page_token: found.next }))
    }

    async fn create_token(
        &self,
        request: Request<v1::CreateTokenRequest>,
    ) -> Result<Response<v1::CreateTokenResponse>, Status> {
        let caller = Caller::of(&request)?;
        let v1::CreateTokenRequest { name, role: as_role, expire_time } = request.into_inner();
        let role = (as_role != 0).then(|| role("role", as_role)).transpose()?;
        let expires = expire_time.map(|value| time("expire_time", value)).transpose()?;
        let (made, secret, user) = self.auth.create_token(&caller, (name, role), expires).await?;
        let token = Some(token_on_wire(&made, user));
        Ok(about(v1::CreateTokenResponse { token, secret }, made.record.reference()))
    }

    async fn delete_token(&self, request: Request<v1::DeleteTokenRequest>) -> Result<Response<()>, Status> {
        let caller = Caller::of(&request)?;
        let gone = self.auth.delete_token(&caller, request.into_inner().token).await?;
        Ok(about((), gone.reference()))
    }
}
