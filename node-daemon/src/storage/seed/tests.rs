//! Seeds are read back by another program's eyes where there is one (blkid), and by the library that wrote them.

use std::io::Read as _;
use std::os::fd::AsRawFd as _;
use std::process::Command;

use serde_json::Value;

use super::*;
use crate::model::Id;

fn files() -> SeedFiles {
    SeedFiles {
        user_data: "#cloud-config\n{}\n".into(),
        meta_data: "{\"instance-id\": \"a\"}\n".into(),
        network_config: network_config(&[]),
    }
}

fn read(fd: &OwnedFd, name: &str) -> String {
    let file = File::from(fd.try_clone().unwrap());
    let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut bytes, 0).unwrap();
    let volume = FileSystem::new(Cursor::new(bytes.as_mut_slice()), FsOptions::new()).unwrap();
    let mut text = String::new();
    volume.root_dir().open_file(name).unwrap().read_to_string(&mut text).unwrap();
    text
}

#[test]
fn the_files_are_in_it_and_it_is_found_by_its_label() {
    let fd = build(&files()).unwrap();
    assert_eq!(read(&fd, "user-data"), files().user_data);
    assert_eq!(read(&fd, "meta-data"), files().meta_data);
    assert_eq!(read(&fd, "network-config"), files().network_config);
    let path = format!("/proc/{}/fd/{}", std::process::id(), fd.as_raw_fd());
    let blkid = Command::new("blkid").args(["-p", "-o", "export", &path]).output().unwrap();
    let told = String::from_utf8(blkid.stdout).unwrap();
    assert!(told.contains("\nLABEL=CIDATA\n") && told.contains("TYPE=vfat"), "{told}");
}

#[test]
fn the_same_files_give_the_same_bytes() {
    assert_eq!(volume(&files()).unwrap(), volume(&files()).unwrap());
    let other = SeedFiles { user_data: "#!/bin/sh\n".into(), ..files() };
    assert_ne!(volume(&files()).unwrap(), volume(&other).unwrap());
}

#[test]
fn it_cannot_be_changed() {
    let mut file = File::from(build(&files()).unwrap());
    assert!(file.write_all(b"x").is_err());
    assert!(file.set_len(0).is_err());
}

#[test]
fn large_files_fit_and_larger_ones_are_refused() {
    let large = |bytes| SeedFiles { user_data: "x".repeat(bytes), ..SeedFiles::default() };
    for bytes in [0, 1, STEP - 1, STEP, STEP + 1, 5 * STEP] {
        let fd = build(&large(bytes)).unwrap();
        assert_eq!(read(&fd, "user-data").len(), bytes);
    }
    assert!(build(&large(BYTES_MAX + 1)).unwrap_err().to_string().contains("8 MiB"));
}

#[test]
fn nobody_breaks_out_of_a_document() {
    let account = Account {
        hostname: "web-1".into(),
        user: "ann".into(),
        ssh_keys: vec!["ssh-ed25519 AAAA \"ann\": {x: &a [1, *a]} # héllo".into()],
        password_hash: "$6$salt$hash".into(),
    };
    let text = user_data(&account).unwrap();
    let body = text.strip_prefix("#cloud-config\n").unwrap();
    let value: Value = serde_json::from_str(body).unwrap();
    assert_eq!(value["users"][0]["ssh_authorized_keys"][0], account.ssh_keys[0]);
    assert_eq!(value["users"][0]["passwd"], "$6$salt$hash");
    assert_eq!(value["hostname"], "web-1");
    let meta: Value = serde_json::from_str(&meta_data(&Id::new(), "web-1")).unwrap();
    assert_eq!(meta["local-hostname"], "web-1");
    let nic = SeedNic { id: "net0".into(), mac: "52:54:00:AB:00:01".into() };
    let network: Value = serde_json::from_str(&network_config(&[nic])).unwrap();
    assert_eq!(network["ethernets"]["net0"]["match"]["macaddress"], "52:54:00:ab:00:01");
}

#[test]
fn what_cannot_be_an_account_is_refused_by_field() {
    let field = |account: Account| user_data(&account).unwrap_err().fields()[0].field.clone();
    let none = Account::default;
    assert_eq!(field(Account { hostname: "a b".into(), ..none() }), "hostname");
    assert_eq!(field(Account { user: "Ann".into(), ..none() }), "user");
    assert_eq!(field(Account { user: "a\nroot".into(), ..none() }), "user");
    assert_eq!(field(Account { ssh_keys: vec!["ssh-rsa A\nx y".into()], ..none() }), "ssh_keys[0]");
    assert_eq!(field(Account { ssh_keys: vec!["ssh-rsa A \u{1f600}".into()], ..none() }), "ssh_keys[0]");
    let secret = Account { password_hash: "hunter2".into(), ..none() };
    assert_eq!(field(secret.clone()), "password_hash");
    assert!(!user_data(&secret).unwrap_err().to_string().contains("hunter2"));
}
