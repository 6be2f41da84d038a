//! Limits as lines (pure), and groups on this host's own hierarchy (as root).

use std::collections::BTreeSet;
use std::process::{Command, Stdio};

use super::*;

#[test]
fn limits_become_the_kernels_lines() {
    let limits = CgroupLimits {
        cpu_weight: Some(200),
        cpu_quota_percent: Some(150),
        cpus: Some("0-1".to_owned()),
        memory_max_bytes: Some(1 << 30),
        pids_max: Some(64),
        io: vec![
            BlockLimit { device: (8, 0), bytes_per_second: Some(1000), operations_per_second: Some(10) },
            BlockLimit { device: (8, 16), ..BlockLimit::default() },
        ],
    };
    let lines: Vec<_> = limits.settings().into_iter().map(|s| format!("{} {}", s.file, s.value)).collect();
    assert_eq!(
        lines,
        [
            "cpu.weight 200",
            "cpu.max 150000 100000",
            "cpuset.cpus 0-1",
            "memory.max 1073741824",
            "memory.oom.group 1",
            "pids.max 64",
            "io.max 8:0 rbps=1000 wbps=1000 riops=10 wiops=10",
        ]
    );
    assert_eq!(CgroupLimits::default().settings(), []);
    let tiny = CgroupLimits { cpu_quota_percent: Some(1), cpu_weight: Some(50_000), ..CgroupLimits::default() };
    let lines: Vec<_> = tiny.settings().into_iter().map(|s| s.value).collect();
    assert_eq!(lines, ["10000", "1000 100000"]);
}

#[test]
fn the_hierarchy_is_found_among_others() {
    let table = "24 1 0:22 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
        30 24 0:27 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n\
        31 24 0:28 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw\n";
    assert_eq!(mount_point(table), Some(PathBuf::from("/sys/fs/cgroup/unified")));
    assert_eq!(mount_point("24 1 0:22 / / rw - ext4 /dev/vda rw\n"), None);
}

/// A slice of this test's own; `None` where this user may not make one.
fn tree(test: &str) -> Option<(String, CgroupTree)> {
    let name = format!("quantix-test-{}-{test}.slice", std::process::id());
    let tree = CgroupTree::open(&name).ok()?;
    tree.mount.is_some().then_some((name, tree))
}

fn take_down(tree: &CgroupTree) {
    tree.sweep(&BTreeSet::new());
    fs::remove_dir(&tree.slice).expect("the slice is empty");
}

#[test]
fn a_group_is_removed_with_what_is_in_it() {
    let Some((slice, tree)) = tree("remove") else { return };
    let id = Id::new();
    let group = tree.create(&id, &CgroupLimits::default()).expect("a group").expect("a hierarchy");
    assert_eq!(group.name, format!("/{slice}/vm-{id}"));
    let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().expect("cat runs");
    fs::write(group.path.join("cgroup.procs"), child.id().to_string()).expect("it moves");
    std::thread::scope(|scope| {
        // A zombie keeps its group populated no longer, but somebody has to reap it.
        scope.spawn(|| child.wait().expect("it ends"));
        group.remove().expect("it can be removed");
    });
    assert!(!group.path.exists());
    group.remove().expect("once more does no harm");
    take_down(&tree);
}

#[test]
fn left_overs_are_swept_and_others_stay() {
    let Some((_, tree)) = tree("sweep") else { return };
    let (stays, goes) = (Id::new(), Id::new());
    for id in [&stays, &goes] {
        tree.create(id, &CgroupLimits::default()).expect("a group");
    }
    fs::create_dir(tree.slice.join("not-ours")).expect("a stranger");
    assert_eq!(tree.sweep(&BTreeSet::from([stays.clone()])), 1);
    assert!(tree.find(&stays, &CgroupLimits::default()).is_some());
    assert!(tree.find(&goes, &CgroupLimits::default()).is_none());
    assert!(tree.slice.join("not-ours").exists());
    fs::remove_dir(tree.slice.join("not-ours")).expect("it goes");
    take_down(&tree);
}

#[test]
fn a_limit_that_this_host_cannot_set_is_named() {
    let Some((_, mut tree)) = tree("missing") else { return };
    tree.controllers.clear();
    let limits = CgroupLimits { memory_max_bytes: Some(1 << 30), pids_max: Some(8), ..CgroupLimits::default() };
    let group = tree.create(&Id::new(), &limits).expect("a group").expect("a hierarchy");
    assert_eq!(group.missing, ["memory.max", "memory.oom.group", "pids.max"]);
    take_down(&tree);
}
