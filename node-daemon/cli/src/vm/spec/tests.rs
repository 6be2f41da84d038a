//! Options become specs: golden JSON, and what is refused.

use super::*;
use crate::args::{Cli, Noun};
use crate::vm::VmCommand;
use clap::Parser;
use quantix_api::json;

fn request(line: &str) -> Result<CreateVmRequest, Failure> {
    let cli = Cli::try_parse_from(line.split(' ')).map_err(|error| Failure::usage(error.to_string()))?;
    let Noun::Vm { command: VmCommand::Create(args) } = cli.noun else { panic!("{line}") };
    create_request(*args, &|path| match path.to_str() {
        Some("key.pub") => Ok("# mine\nssh-ed25519 AAAA me\n\nssh-rsa BBBB me\n".to_owned()),
        Some("user-data") => Ok("#cloud-config\n".to_owned()),
        Some("hash") => Ok("$6$salt$hash\n".to_owned()),
        _ => Err(io::Error::from(io::ErrorKind::NotFound)),
    })
}

#[test]
fn the_example_that_everybody_begins_with() {
    let line = "qx vm create demo --image debian --cpus 2 --memory 1G --network default --ssh-key @key.pub --start";
    let mut value = json::to_value(&request(line).unwrap());
    let spec = value["spec"].take();
    assert_eq!(value["name"], "demo");
    assert_eq!(value["start"], true);
    assert_eq!(spec["cpus"]["count"], 2);
    assert_eq!(spec["memory"]["sizeBytes"], "1073741824");
    assert_eq!(
        spec["disks"],
        serde_json::json!([{
            "id": "", "readonly": false, "direct": false, "queues": 0,
            "maxOperationsPerSecond": "0", "maxBytesPerSecond": "0",
            "newVolume": {
                "name": "", "pool": "", "format": "VOLUME_FORMAT_UNSPECIFIED", "sizeBytes": "0", "image": "debian",
                "fullCopy": false
            }
        }])
    );
    assert_eq!(spec["nics"][0]["network"], "default");
    assert_eq!(spec["cloudInit"]["hostname"], "demo");
    assert_eq!(spec["cloudInit"]["sshKeys"], serde_json::json!(["ssh-ed25519 AAAA me", "ssh-rsa BBBB me"]));
}

#[test]
fn every_option_has_its_field() {
    let line = "qx vm create web --description text --label a=1 --label b=2 --cpus 4 --sockets 1 --cores 2 --threads 2 \
                --cpu-weight 200 --cpu-quota 150 --pin 0-3,8 --memory 2G,hugepages=2M,prefault --kernel k --initrd i \
                --cmdline quiet --restart always --restart-attempts 3 --restart-backoff 5s --autostart 7,delay=10s \
                --without balloon,vsock --image debian --size 20G --pool fast --full-copy \
                --disk size=10G,pool=slow,id=data,direct,queues=4,iops=1000,bps=100M --disk volume=old,readonly \
                --disk iso=rescue --network lan,address=10.0.0.9,mac=52:54:00:00:00:01,queues=2,pps=1000,bps=10M \
                --rule in,accept,protocol=tcp,ports=22 --rule in,drop --user-data user-data --request-id r1 --dry-run";
    let value = json::to_value(&request(line).unwrap());
    let spec = &value["spec"];
    for (pointer, expected) in [
        ("/cpus/sockets", "1"),
        ("/cpus/cores", "2"),
        ("/cpus/threads", "2"),
        ("/cpus/weight", "200"),
        ("/cpus/quotaPercent", "150"),
        ("/cpus/pinning", "\"0-3,8\""),
        ("/memory/hugePages", "\"HUGE_PAGES_2M\""),
        ("/memory/prefault", "true"),
        ("/boot/kernel", "\"k\""),
        ("/boot/initrd", "\"i\""),
        ("/boot/cmdline", "\"quiet\""),
        ("/restart/mode", "\"RESTART_MODE_ALWAYS\""),
        ("/restart/maxAttempts", "3"),
        ("/restart/backoff", "\"5s\""),
        ("/autostart/enabled", "true"),
        ("/autostart/order", "7"),
        ("/autostart/delay", "\"10s\""),
        ("/noRng", "false"),
        ("/noBalloon", "true"),
        ("/noVsock", "true"),
        ("/disks/0/newVolume/sizeBytes", "\"21474836480\""),
        ("/disks/0/newVolume/fullCopy", "true"),
        ("/disks/1/newVolume/pool", "\"slow\""),
        ("/disks/1/id", "\"data\""),
        ("/disks/1/direct", "true"),
        ("/disks/1/queues", "4"),
        ("/disks/1/maxOperationsPerSecond", "\"1000\""),
        ("/disks/1/maxBytesPerSecond", "\"104857600\""),
        ("/disks/2/volume", "\"old\""),
        ("/disks/2/readonly", "true"),
        ("/disks/3/image", "\"rescue\""),
        ("/nics/0/address", "\"10.0.0.9\""),
        ("/nics/0/queues", "2"),
        ("/nics/0/maxPacketsPerSecond", "\"1000\""),
        ("/nics/0/rules/0/direction", "\"DIRECTION_IN\""),
        ("/nics/0/rules/0/ports", "\"22\""),
        ("/nics/0/rules/1/action", "\"FIREWALL_ACTION_DROP\""),
        ("/cloudInit/userData", "\"#cloud-config\\n\""),
        ("/cloudInit/hostname", "\"\""),
    ] {
        let found = spec.pointer(pointer).map(ToString::to_string);
        assert_eq!(found.as_deref(), Some(expected), "{pointer}");
    }
    assert_eq!(value["labels"], serde_json::json!({"a": "1", "b": "2"}));
    assert_eq!((value["validateOnly"].clone(), value["requestId"].clone()), (true.into(), "r1".into()));
}

#[test]
fn without_options_it_is_small_and_has_no_seed() {
    let request = request("qx vm create tiny --kernel k").unwrap();
    let spec = request.spec.unwrap();
    assert_eq!(spec.cpus.unwrap().count, 1);
    assert_eq!(spec.memory.unwrap().size_bytes, 512 << 20);
    assert_eq!((spec.cloud_init, spec.disks.len(), spec.restart, spec.autostart), (None, 0, None, None));
}

#[test]
fn a_password_hash_makes_a_seed() {
    let seed =
        request("qx vm create x --image d --user admin --password-hash-file hash").unwrap().spec.unwrap().cloud_init;
    let seed = seed.unwrap();
    assert_eq!(
        (seed.user.as_str(), seed.password_hash.as_str(), seed.hostname.as_str()),
        ("admin", "$6$salt$hash", "x")
    );
}

#[test]
fn what_is_wrong_is_named() {
    for (line, part) in [
        ("qx vm create x --memory 1Q", "'Q' is no unit of size"),
        ("qx vm create x --memory 1G,hugepages=4M", "hugepages: '4M' is neither 2M nor 1G"),
        ("qx vm create x --disk pool=fast", "give size=SIZE"),
        ("qx vm create x --disk volume=a,size=1G", "do not go together"),
        ("qx vm create x --disk size=0", "0 is too small"),
        ("qx vm create x --disk size=1G,colour=red", "'colour' is not known here"),
        ("qx vm create x --network mac=1", "the network's name is missing"),
        ("qx vm create x --network n --rule accept,in", "begin with in or out"),
        ("qx vm create x --rule in,drop", "--network"),
        ("qx vm create x --size 1G", "--image"),
        ("qx vm create x --ssh-key k --user-data user-data", "cannot be used with"),
        ("qx vm create x --user-data nowhere", "nowhere: "),
        ("qx vm create x --restart sometimes", "on-failure"),
    ] {
        let message = request(line).unwrap_err().message;
        assert!(message.contains(part), "{line}: {message}");
    }
}
