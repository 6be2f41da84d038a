//! Tables of what is accepted and refused, and properties of the parsers. No machine is needed.

use proptest::prelude::*;

use super::*;

/// A configuration that is as full as it can be.
fn full() -> MachineConfig {
    MachineConfig::from_json(
        br#"{
            "kernel": "/boot/vmlinux", "initrd": "fd:initrd", "cmdline": "console=ttyS0",
            "cpus": {"count": 4, "topology": {"sockets": 2, "cores": 2}},
            "memory": {"size_bytes": 4294967296, "hugepages": "2M", "shared": true, "numa": [
                {"size_bytes": 1073741824, "cpus": "0-2"},
                {"size_bytes": 3221225472, "cpus": "3", "distances": [30, 10]}]},
            "disks": [{"path": "/a.img"}, {"path": "/b.qcow2", "id": "data", "format": "qcow2", "readonly": true}],
            "nets": [{"tap": "tap0", "mac": "52:54:00:12:34:56"}, {"tap": "fd:q0+q1", "queues": 2, "vhost": "off"}],
            "vsock": {"cid": 3, "socket": "/run/v.sock"}, "rng": true, "balloon": {"size_bytes": 4096},
            "console": "socket=/run/c.sock", "api_socket": "fd:api", "reboot": true, "log_level": "debug"
        }"#,
    )
    .expect("a configuration")
}

#[test]
fn a_full_configuration_becomes_a_plan() {
    let plan = Plan::try_from(&full()).expect("a plan");
    assert_eq!(plan.boot.initrd, Some(Source::Fd(FdName::try_from("initrd").unwrap())));
    assert_eq!(plan.cpus, CpuPlan { count: 4, topology: Topology { sockets: 2, cores: 2, threads: 1 } });
    assert_eq!(plan.memory.numa[0].distances, [10, 20]);
    assert_eq!(plan.memory.numa[1].distances, [30, 10]);
    let ids: Vec<_> = plan.disks.iter().map(|d| d.id.as_str()).chain(plan.nets.iter().map(|n| n.id.as_str())).collect();
    assert_eq!(ids, ["disk0", "data", "net0", "net1"]);
    assert_eq!(plan.disks[0].serial.as_str(), "disk0");
    assert_eq!(plan.nets[0].mac.unwrap().octets(), [0x52, 0x54, 0, 0x12, 0x34, 0x56]);
    assert_eq!(plan.log_level, log::LevelFilter::Debug);
}

#[test]
fn what_is_printed_reads_back_the_same() {
    let config = full();
    assert_eq!(MachineConfig::from_json(config.to_json().as_bytes()).unwrap(), config);
}

#[test]
fn a_kernel_is_a_whole_configuration() {
    let plan = plan_from_json(br#"{"kernel": "vmlinux"}"#).expect("a plan");
    assert_eq!((plan.cpus.count, plan.memory.size_bytes, plan.sandbox), (1, 512 << 20, true));
    assert_eq!((plan.serial, plan.console), (Endpoint::Stdio, Endpoint::Off));
}

/// What is changed in a good configuration, and the line that comes of it.
type Refusal = (fn(&mut MachineConfig), &'static str);

const REFUSALS: &[Refusal] = &[
    (|c| c.kernel = None, "--kernel: there is nothing to boot; give a vmlinux or bzImage with --kernel PATH"),
    (
        |c| c.firmware = Some("OVMF.fd".into()),
        "--firmware OVMF.fd: UEFI guests do not work yet; leave it out and boot a kernel with --kernel",
    ),
    (|c| c.kernel = Some(String::new()), "--kernel: a path is not empty and has no NUL byte"),
    (
        |c| c.initrd = Some("fd:In It".into()),
        "--initrd fd:In It: a name has 1 to 63 of a-z, 0-9 and '-', and neither starts nor ends with '-'",
    ),
    (|c| c.cmdline = "a\0b".into(), "--cmdline a\\u{0}b: it has a NUL or another control character; take it out"),
    (|c| c.cpus.count = 0, "--cpus 0: must be from 1 to 128"),
    (|c| c.cpus.count = 300, "--cpus 300: must be from 1 to 128"),
    (|c| c.cpus.count = 3, "--cpus 3: sockets × cores × threads is 4; make the two equal"),
    (
        |c| c.cpus.topology = Some(TopologyConfig { sockets: 0, cores: 4, threads: 1 }),
        "--cpus sockets=0: must be from 1 to 4, the number of vCPUs",
    ),
    (|c| c.memory.size_bytes = 1 << 20, "--memory 1048576: must be from 16M to 16T"),
    (|c| c.memory.size_bytes = u64::MAX, "--memory 18446744073709551615: must be from 16M to 16T"),
    (|c| c.memory.size_bytes = (4 << 30) + 4096, "--memory 4294971392: must be a multiple of the page size, 2M"),
    (
        |c| c.memory.numa[1].size_bytes = 1 << 30,
        "--numa: the nodes' memory must add up to that of --memory, 4294967296 bytes",
    ),
    (|c| c.memory.numa[0].cpus = "0-3".into(), "--numa: vCPU 3 is in 2 nodes; put each into one"),
    (|c| c.memory.numa[0].cpus = "0-1".into(), "--numa: vCPU 2 is in 0 nodes; put each into one"),
    (|c| c.memory.numa[1].cpus = "3-9".into(), "--numa #2 cpus=3-9: the last vCPU is number 3"),
    (|c| c.memory.numa[0].cpus = "2-0".into(), "--numa #1 cpus=2-0: vCPUs are a number or a range, such as 0-3"),
    (
        |c| c.memory.numa[0].distances = vec![10],
        "--numa #1 distances=10: there are 2 nodes; give one distance each, or none at all",
    ),
    (
        |c| c.memory.numa[0].distances = vec![20, 10],
        "--numa #1 distances=20:10: a node is 10 from itself and further from all others",
    ),
    (|c| c.disks[1].queues = 99, "--disk #2 queues=99: must be from 1 to 16"),
    (|c| c.disks[0].iops = Some(0), "--disk #1 iops=0: nothing would ever finish; leave it out for no limit"),
    (|c| c.disks[0].id = Some("data".into()), "--disk #2 id=data: another device has this id; choose a different one"),
    (|c| c.nets[0].id = Some("rng0".into()), "--net #1 id=rng0: another device has this id; choose a different one"),
    (|c| c.disks[1].path = "/a.img".into(), "--disk #2 path=/a.img: another option uses it already; give each its own"),
    (|c| c.disks[0].path = "fd:q1".into(), "--net #2 tap=fd:q1: another option uses it already; give each its own"),
    (
        |c| c.nets[0].mac = Some("53:54:00:12:34:56".into()),
        "--net #1 mac=53:54:00:12:34:56: this is a multicast address; clear the lowest bit of the first byte",
    ),
    (
        |c| c.nets[0].tap = "a-very-long-interface".into(),
        "--net #1 tap=a-very-long-interface: an interface name has 1 to 15 letters, digits or signs, without '/', ':' \
         and '%'",
    ),
    (|c| c.nets[1].queues = 3, "--net #2 tap=fd:q0+q1: 2 descriptors for 3 queues; name one a queue"),
    (|c| c.vsock.as_mut().unwrap().cid = 2, "--vsock cid=2: must be from 3 to 4294967294"),
    (
        |c| c.balloon.as_mut().unwrap().size_bytes = 4 << 30,
        "--balloon size=4294967296: must be less than the guest's memory",
    ),
    (|c| c.serial = "tcp".into(), "--serial tcp: use stdio, off, file=PATH, socket=PATH or fd:NAME"),
    (|c| c.console = "stdio".into(), "--console stdio: another option uses it already; give each its own"),
];

#[test]
fn each_rule_refuses_with_one_line() {
    for (change, line) in REFUSALS {
        let mut config = full();
        change(&mut config);
        assert_eq!(Plan::try_from(&config).unwrap_err().to_string(), *line);
    }
}

#[test]
fn a_long_socket_path_is_refused_before_bind_refuses_it() {
    let mut config = full();
    config.vsock.as_mut().unwrap().socket = format!("/{}", "x".repeat(96));
    let line = Plan::try_from(&config).unwrap_err().to_string();
    assert!(line.ends_with("the path of this socket has at most 96 bytes; use a shorter one"), "{line}");
    config.vsock.as_mut().unwrap().socket.pop();
    Plan::try_from(&config).expect("96 bytes leave room for the port");
}

#[test]
fn the_bus_has_room_for_31_devices() {
    let disk = |n: usize| disk(&format!("path=/{n}")).unwrap();
    let mut config =
        MachineConfig { kernel: Some("k".into()), disks: (0..31).map(disk).collect(), ..Default::default() };
    Plan::try_from(&config).expect("31 devices");
    config.rng = true;
    let line = Plan::try_from(&config).unwrap_err().to_string();
    assert_eq!(line, "--disk: 32 devices, but the PCI bus has room for 31; take some out");
}

#[test]
fn json_errors_say_where() {
    let table: [(&[u8], &str); 4] = [
        (b"", "--config: EOF while parsing a value at line 1 column 0"),
        (b"{\"kernle\": \"k\"}", "--config: unknown field `kernle`, expected one of `kernel`"),
        (b"{\"cpus\": {\"count\": -1}}", "--config: invalid value: integer `-1`, expected u32"),
        (b"{\"disks\": [{\"path\": \"a\", \"format\": \"vmdk\"}]}", "--config: unknown variant `vmdk`, expected `raw`"),
    ];
    for (text, start) in table {
        let line = plan_from_json(text).unwrap_err().to_string();
        assert!(line.starts_with(start), "{line}");
    }
}

#[test]
fn sizes() {
    let good = [("0", 0), ("4096", 4096), ("1K", 1024), ("16m", 16 << 20), ("3G", 3 << 30), ("2T", 2 << 40)];
    for (text, bytes) in good {
        assert_eq!(size(text), Ok(bytes), "{text}");
    }
    let bad = [
        ("", ParseError::NotASize),
        ("M", ParseError::NotASize),
        ("-1", ParseError::NotASize),
        ("1.5G", ParseError::SizeSuffix(".5G".into())),
        ("12Q", ParseError::SizeSuffix("Q".into())),
        ("18446744073709551616", ParseError::SizeOverflow),
        ("99999999T", ParseError::SizeOverflow),
    ];
    for (text, error) in bad {
        assert_eq!(size(text), Err(error), "{text}");
    }
}

#[test]
fn options_are_refused_with_one_line() {
    let table = [
        (memory("12Q", &mut MemoryConfig::default()).err(), "--memory 12Q: unknown size suffix 'Q'; use K, M, G or T"),
        (
            memory("", &mut MemoryConfig::default()).err(),
            "--memory: size is missing; give how much memory, such as --memory 2G",
        ),
        (
            memory("1G,hugepages=4M", &mut MemoryConfig::default()).err(),
            "--memory hugepages=4M: unknown variant `4M`, expected one of `none`, `2M`, `1G`",
        ),
        (cpus("two", &mut CpuConfig::default()).err(), "--cpus two: a number is needed, and it must not be enormous"),
        (disk("id=a").err(), "--disk: path is missing; give the image, such as path=disk.img"),
        (
            disk("path=a,cache=no").err(),
            "--disk cache: unknown key; use path, id, readonly, format, direct, queues, iops, bps or serial",
        ),
        (disk("path=a,path=b").err(), "--disk path=a,path=b: 'path' is given twice; keep one"),
        (
            memory("1\n", &mut MemoryConfig::default()).err(),
            "--memory 1\\n: unknown size suffix '\\n'; use K, M, G or T",
        ),
        (disk("path=a,").err(), "--disk path=a,: there is an empty piece; write KEY=VALUE between commas"),
        (disk("path").err(), "--disk path: it needs a value; write path=…"),
        (disk("path=a,readonly=yes").err(), "--disk readonly=yes: use on or off"),
        (disk("path=a,queues=+1").err(), "--disk queues=+1: a number is needed, and it must not be enormous"),
        (
            net("tap=t,vhost=maybe").err(),
            "--net vhost=maybe: unknown variant `maybe`, expected one of `auto`, `on`, `off`",
        ),
        (
            numa("memory=1G,cpus=0,distances=10:x").err(),
            "--numa distances=10:x: distances are numbers from 10 to 255 joined by ':', such as 10:20",
        ),
        (fd_grant("disk").err(), "--fd disk: give NAME=NUM, such as disk=3, and use it as fd:disk"),
        (
            fd_grant("disk=1").err(),
            "--fd disk=1: 0, 1 and 2 are standard input, output and errors; pass it as 3 or higher",
        ),
    ];
    for (error, line) in table {
        assert_eq!(error.map(|e| e.to_string()).as_deref(), Some(line));
    }
}

#[test]
fn a_comma_in_a_value_is_written_twice() {
    assert_eq!(disk("path=/a,,b,readonly,bps=1M").unwrap().path, "/a,b");
}

#[test]
fn given_keys_win_and_others_stay() {
    let mut memory_config = MemoryConfig { prefault: true, hugepages: HugePages::Size1G, ..Default::default() };
    memory("2G,prefault=off", &mut memory_config).unwrap();
    let wanted = MemoryConfig { size_bytes: 2 << 30, hugepages: HugePages::Size1G, ..Default::default() };
    assert_eq!(memory_config, wanted);
}

proptest! {
    #[test]
    fn a_size_is_its_number_times_its_suffix(number in 0_u64..1 << 24, index in 0_usize..5) {
        let suffix = ["", "K", "M", "G", "T"][index];
        prop_assert_eq!(size(&format!("{number}{suffix}")), Ok(number << (10 * index)));
    }

    #[test]
    fn a_mac_prints_as_it_was_read(mut octets: [u8; 6]) {
        octets[0] = (octets[0] & !1) | 2;
        let text = octets.map(|o| format!("{o:02x}")).join(":");
        let mac = MacAddress::try_from(text.as_str()).unwrap();
        prop_assert_eq!(mac.octets(), octets);
        prop_assert_eq!(mac.to_string(), text);
    }

    #[test]
    fn any_path_survives_the_option(path in "[^\0]{1,40}") {
        let option = format!("path={},id=x", path.replace(',', ",,"));
        prop_assert_eq!(disk(&option).map(|disk| disk.path), Ok(path));
    }

    #[test]
    fn no_text_breaks_a_parser_or_its_line(text in "(?s).{0,60}") {
        let errors = [
            disk(&text).err(), net(&text).err(), vsock(&text).err(), numa(&text).err(), balloon(&text).err(),
            fd_grant(&text).err(), cpus(&text, &mut CpuConfig::default()).err(),
            memory(&text, &mut MemoryConfig::default()).err(),
        ];
        for error in errors.into_iter().flatten() {
            prop_assert!(!error.to_string().contains('\n'));
        }
        let _ = (Endpoint::try_from(text.as_str()), Source::try_from(text.as_str()), CpuRange::try_from(text.as_str()));
    }

    #[test]
    fn no_bytes_break_the_way_to_a_plan(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = plan_from_json(&bytes);
    }
}

#[test]
fn the_images_below_one_that_is_passed_are_named_in_order() {
    let plan = |path: &str, format: &str| {
        let text = format!(r#"{{"kernel": "k", "disks": [{{"path": "{path}", "format": "{format}"}}]}}"#);
        plan_from_json(text.as_bytes())
    };
    let disk = plan("fd:top+middle+base", "qcow2").unwrap().disks.remove(0);
    assert_eq!(disk.source.to_string(), "fd:top");
    assert_eq!(disk.below.iter().map(FdName::as_str).collect::<Vec<_>>(), ["middle", "base"]);
    assert_eq!(plan("/a+b.qcow2", "qcow2").unwrap().disks[0].source.to_string(), "/a+b.qcow2");
    for (path, format, reason) in [
        ("fd:top+base", "raw", "only a qcow2 image has images below it"),
        ("fd:top+", "qcow2", "a name has 1 to 63"),
        ("fd:top+top", "qcow2", "another option uses it already"),
    ] {
        let line = plan(path, format).unwrap_err().to_string();
        assert!(line.contains(reason), "{path}: {line}");
    }
}
