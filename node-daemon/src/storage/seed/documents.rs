//! The documents that cloud-init reads, made from what a VM is. Pure.
//!
//! They are YAML, and JSON is YAML: so values are written by `serde_json` and nobody can break out of them. Two things are not the
//! same in both and are kept out: characters that YAML does not print, and characters beyond 16 bit (JSON has pairs for them).

use serde_json::{Map, Value, json};

use crate::model::{Failure, Id};

/// Who may log in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// The guest's name; empty for the VM's.
    pub hostname: String,
    /// The user to make; empty for the image's default user.
    pub user: String,
    /// Its SSH keys, as in `authorized_keys`.
    pub ssh_keys: Vec<String>,
    /// Its password, as of mkpasswd(1); empty for none.
    pub password_hash: String,
}

/// A NIC, as far as its addressing goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeedNic {
    /// Its name in the VM.
    pub id: String,
    /// Its hardware address, with colons.
    pub mac: String,
}

/// `user-data` for an account.
///
/// # Errors
/// The fields of `CloudInit` that cannot be.
pub fn user_data(account: &Account) -> Result<String, Failure> {
    check(account)?;
    let mut document = Map::new();
    if !account.hostname.is_empty() {
        document.insert("hostname".into(), json!(account.hostname));
        document.insert("preserve_hostname".into(), json!(false));
    }
    let with_password = !account.password_hash.is_empty();
    if account.user.is_empty() {
        if !account.ssh_keys.is_empty() {
            document.insert("ssh_authorized_keys".into(), json!(account.ssh_keys));
        }
        if with_password {
            document.insert("password".into(), json!(account.password_hash));
            document.insert("chpasswd".into(), json!({"expire": false}));
        }
    } else {
        document.insert("users".into(), json!([user(account)]));
        if account.user == "root" {
            document.insert("disable_root".into(), json!(false));
        }
    }
    if with_password {
        document.insert("ssh_pwauth".into(), json!(true));
    }
    Ok(format!("#cloud-config\n{:#}\n", Value::Object(document)))
}

fn user(account: &Account) -> Value {
    let mut user = Map::new();
    user.insert("name".into(), json!(account.user));
    if account.user != "root" {
        user.insert("sudo".into(), json!("ALL=(ALL) NOPASSWD:ALL"));
        user.insert("shell".into(), json!("/bin/bash"));
    }
    if !account.ssh_keys.is_empty() {
        user.insert("ssh_authorized_keys".into(), json!(account.ssh_keys));
    }
    let locked = account.password_hash.is_empty();
    user.insert("lock_passwd".into(), json!(locked));
    if !locked {
        user.insert("passwd".into(), json!(account.password_hash));
    }
    Value::Object(user)
}

/// `meta-data` of a VM. A new id makes cloud-init run again as on a first boot.
pub fn meta_data(vm: &Id, name: &str) -> String {
    format!("{:#}\n", json!({"instance-id": vm.as_str(), "local-hostname": name}))
}

/// `network-config`, version 2: each NIC, found by its address, asks DHCP.
pub fn network_config(nics: &[SeedNic]) -> String {
    let entry =
        |nic: &SeedNic| (nic.id.clone(), json!({"match": {"macaddress": nic.mac.to_lowercase()}, "dhcp4": true}));
    let ethernets: Map<String, Value> = nics.iter().map(entry).collect();
    format!("{:#}\n", json!({"version": 2, "ethernets": ethernets}))
}

/// Characters that mean the same in YAML and in JSON.
fn is_plain(c: char) -> bool {
    !c.is_control() && !matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}'..)
}

fn check(account: &Account) -> Result<(), Failure> {
    let host = |label: &str| {
        let plain = label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        plain && (1..=63).contains(&label.len()) && !label.starts_with('-') && !label.ends_with('-')
    };
    if !account.hostname.is_empty() && (account.hostname.len() > 253 || !account.hostname.split('.').all(host)) {
        return Err(Failure::invalid(
            "hostname",
            &account.hostname,
            "is not a host name: use letters, digits, - and dots",
        ));
    }
    let mut letters = account.user.bytes();
    let begins = letters.next().is_none_or(|b| b.is_ascii_lowercase() || b == b'_');
    if !begins
        || account.user.len() > 32
        || !letters.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_".contains(&b))
    {
        let reason = "is not a user's name: it begins with a-z or _, has a-z, 0-9, - and _, and up to 32 characters";
        return Err(Failure::invalid("user", &account.user, reason));
    }
    if account.ssh_keys.len() > 64 {
        return Err(Failure::invalid("ssh_keys", account.ssh_keys.len(), "are too many keys: give up to 64"));
    }
    for (index, key) in account.ssh_keys.iter().enumerate() {
        let blanks = key.trim().contains(' ');
        if !blanks || key.len() > 16 << 10 || !key.chars().all(is_plain) {
            let reason = "is not an SSH key: give one line, such as `ssh-ed25519 AAAA… comment`";
            return Err(Failure::invalid(format!("ssh_keys[{index}]"), key, reason));
        }
    }
    let hash = &account.password_hash;
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"$./,=+-_".contains(&b);
    if !hash.is_empty() && (!hash.starts_with('$') || hash.len() > 512 || !hash.bytes().all(plain)) {
        // The value is not repeated: it may be the password itself.
        let reason = "is not a hash as of mkpasswd(1): it begins with $6$, $y$ or the like";
        return Err(Failure::invalid("password_hash", "(hidden)", reason));
    }
    Ok(())
}
