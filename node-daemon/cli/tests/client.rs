//! How `qx` behaves towards people and scripts: output, exit statuses, trust. The node is a stand-in.

mod double;

use std::os::unix::fs::PermissionsExt;

use double::{Answer, Node, Ran, hex, qx, request};
use prost::Message;
use quantix_api::v1::{
    ConsoleInput, ConsoleOutput, CreateVmRequest, Image, ImageKind, ListVmsResponse, LoginResponse, Progress,
    ResourceRef, Role, Task, TaskError, TaskState, User, Vm, VmState, VmStatus, WhoAmIResponse,
};
use rustls::pki_types::PrivatePkcs8KeyDer;
use sha2::{Digest, Sha256};
use tonic::Code;
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};

fn vm(name: &str) -> Vm {
    Vm {
        name: name.into(),
        status: Some(VmStatus { state: VmState::Running.into(), ..VmStatus::default() }),
        ..Vm::default()
    }
}

fn vms() -> (&'static str, Answer) {
    ("ListVms", Answer::one(&ListVmsResponse { vms: vec![vm("a"), vm("b")], next_page_token: String::new() }))
}

fn task(state: TaskState) -> Task {
    let resource = Some(ResourceRef { kind: "vm".into(), id: "i".into(), name: "demo".into() });
    Task { id: "t1".into(), kind: "CreateVm".into(), state: state.into(), resource, ..Task::default() }
}

#[track_caller]
fn ends(ran: &Ran, status: i32) {
    assert_eq!(ran.status, status, "{ran:?}");
}

#[test]
fn each_form_of_a_list() {
    let node = Node::start([vms()]);
    let table = node.qx("vm ls");
    assert!(table.out.starts_with("NAME  STATE"), "{table:?}");
    assert!(!table.out.contains('\u{1b}'), "no colours where there is no terminal: {table:?}");
    assert!(node.qx("vm ls --color always").out.contains("\u{1b}["));
    assert_eq!(node.qx("vm ls -o name").out, "a\nb\n");
    let json: serde_json::Value = serde_json::from_str(&node.qx("vm ls -o json").out).unwrap();
    assert_eq!(json[1]["status"]["state"], "VM_STATE_RUNNING");
}

#[test]
fn an_empty_list_says_so_beside_the_output() {
    let node = Node::start([]);
    let ran = node.qx("vm ls");
    assert_eq!((ran.status, ran.out.as_str(), ran.err.as_str()), (0, "", "There are no VMs.\n"));
    assert_eq!(node.qx("vm ls -o json").out, "[]\n");
}

#[test]
fn refusals_have_their_exit_status_one_line_and_a_hint() {
    let details = ErrorDetails::with_bad_request(vec![FieldViolation::new("spec.cpus.count", "4000 is above 128")]);
    let wrong = tonic::Status::with_error_details(Code::InvalidArgument, "The VM is not valid.", details);
    let node = Node::start([
        ("GetVm", Answer::no(Code::NotFound, "There is no VM 'x'.")),
        ("ListVms", Answer::no(Code::Unauthenticated, "Nobody is logged in.")),
        ("ListUsers", Answer::no(Code::PermissionDenied, "A viewer may not list users.")),
        ("DeleteVm", Answer::no(Code::FailedPrecondition, "VM x runs; stop it first.")),
        ("CreateVm", Answer::Refusal(wrong)),
    ]);
    let missing = node.qx("vm show x");
    ends(&missing, 3);
    assert_eq!(missing.err, "qx: There is no VM 'x'\n");
    let denied = node.qx("vm ls");
    ends(&denied, 4);
    assert_eq!(denied.err, "qx: Nobody is logged in\nhint: log in with: qx login\n");
    ends(&node.qx("user ls"), 4);
    ends(&node.qx("vm delete x"), 1);
    let blamed = node.qx("vm create x --cpus 4000");
    ends(&blamed, 2);
    assert_eq!(blamed.err, "qx: spec.cpus.count (--cpus): 4000 is above 128\n");
    ends(&node.qx("vm create x --cpus many"), 2);
    ends(&qx(node.directory.path(), "--node unix:/nowhere/node.sock vm ls", ""), 5);
    ends(&qx(node.directory.path(), "--node 127.0.0.1:1 vm ls", ""), 5);
}

#[test]
fn a_task_is_followed_to_its_end() {
    let half =
        Task { progress: Some(Progress { done: 1, total: 2, unit: "steps".into() }), ..task(TaskState::Running) };
    let steps = [half, task(TaskState::Succeeded)].iter().map(|task| task.encode_to_vec().into()).collect();
    let node =
        Node::start([("CreateVm", Answer::one(&task(TaskState::Running))), ("WatchTask", Answer::Endless(steps))]);
    let made = node.qx("vm create demo --image debian --request-id r1");
    assert_eq!((made.status, made.out.as_str(), made.err.as_str()), (0, "VM demo is made.\n", ""));
    let sent: CreateVmRequest = request(&node.calls.last("CreateVm"));
    assert_eq!((sent.name.as_str(), sent.request_id.as_str()), ("demo", "r1"));
    assert_eq!(node.qx("vm create demo --image debian -o name").out, "demo\n");
    let json: serde_json::Value = serde_json::from_str(&node.qx("vm create demo --image debian -o json").out).unwrap();
    assert_eq!(json["state"], "TASK_STATE_SUCCEEDED");
}

#[test]
fn a_task_that_nobody_waits_for_gives_its_id() {
    let node = Node::start([("StartVm", Answer::one(&task(TaskState::Running)))]);
    assert_eq!(node.qx("vm start demo --no-wait -o name").out, "t1\n");
    assert_eq!(node.calls.methods(), ["StartVm"]);
}

#[test]
fn a_task_that_fails_fails_the_command() {
    let error = Some(TaskError { code: Code::NotFound as i32, message: "There is no image 'x'.".into() });
    let failed = Task { error, ..task(TaskState::Failed) };
    let node = Node::start([("CreateVm", Answer::one(&failed))]);
    let ran = node.qx("vm create demo --image x");
    ends(&ran, 3);
    assert_eq!(ran.err, "qx: There is no image 'x'\nhint: all of it: qx task show t1\n");
}

#[test]
fn one_vm_that_fails_keeps_none_of_the_others_from_being_done() {
    let node = Node::start([("StartVm", Answer::no(Code::NotFound, "There is no such VM."))]);
    let ran = node.qx("vm start a b c");
    ends(&ran, 3);
    assert_eq!(ran.err, "qx: There is no such VM\n".repeat(3));
    assert_eq!(node.calls.methods(), ["StartVm"; 3]);
}

#[test]
fn an_upload_brings_the_parts_first_and_checks_what_arrived() {
    let node = Node::start([("UploadImage", Answer::Upload { damaged: false })]);
    let disk = vec![7_u8; 3 << 20];
    std::fs::write(node.path("disk"), &disk).unwrap();
    std::fs::write(node.path("kernel"), b"k").unwrap();
    let ran = node.qx("image add debian {dir}/disk --kernel {dir}/kernel --initrd image:other --cmdline quiet -o json");
    ends(&ran, 0);
    let image: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(image["fileSizeBytes"], (3 << 20).to_string());
    let hash = hex(&Sha256::digest(&disk));
    assert_eq!(image["sha256"], hash.as_str());
    assert_eq!(
        image["boot"],
        serde_json::json!({"kernel": "id-of-debian-kernel", "initrd": "other", "cmdline": "quiet"})
    );
    assert_eq!(node.calls.methods(), ["UploadImage", "UploadImage"]);
}

#[test]
fn an_image_that_changed_on_its_way_is_deleted_again() {
    let node = Node::start([("UploadImage", Answer::Upload { damaged: true })]);
    std::fs::write(node.path("disk"), b"disk").unwrap();
    let ran = node.qx("image add debian {dir}/disk");
    ends(&ran, 1);
    assert!(ran.err.contains("was changed on its way"), "{ran:?}");
    assert_eq!(node.calls.methods(), ["UploadImage", "DeleteImage"]);
}

#[test]
fn what_cannot_be_uploaded_is_said_before_anything_is_sent() {
    let node = Node::start([]);
    let missing = node.qx("image add debian {dir}/nothing");
    ends(&missing, 2);
    assert!(missing.err.contains("/nothing: "), "{missing:?}");
    ends(&node.qx("image add debian {dir}"), 2);
    ends(&node.qx("image add k {dir}/x --kind kernel --kernel {dir}/y"), 2);
    assert_eq!(node.calls.methods(), [""; 0]);
}

#[test]
fn a_console_passes_bytes_both_ways() {
    let output = |text: &str| ConsoleOutput { data: text.into(), ..ConsoleOutput::default() }.encode_to_vec().into();
    let node = Node::start([
        ("GetVm", Answer::one(&vm("demo"))),
        ("ConsoleVm", Answer::Messages(vec![output("login: "), output("\u{1b}[1mbold\r\n")])),
    ]);
    let ran = qx(node.directory.path(), &format!("--node {} vm console demo", node.socket()), "root\n");
    ends(&ran, 0);
    assert_eq!(ran.out, "login: \u{1b}[1mbold\r\n");
    let first: ConsoleInput = request(&node.calls.last("ConsoleVm"));
    assert_eq!(first.vm, "demo");
}

#[test]
fn a_reader_that_goes_away_is_no_fault() {
    let many =
        ListVmsResponse { vms: (0..5000).map(|n| vm(&format!("vm{n}"))).collect(), next_page_token: String::new() };
    let node = Node::start([("ListVms", Answer::one(&many))]);
    let script =
        format!("{} --node {} vm ls | head -n 1; echo ${{PIPESTATUS[0]}}", env!("CARGO_BIN_EXE_qx"), node.socket());
    let output = std::process::Command::new("bash").args(["-c", &script]).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).ends_with("\n0\n"), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

/// A node with a certificate of its own, and the certificate's SHA-256.
fn secure_node() -> (Node, String) {
    let made = rcgen::generate_simple_self_signed(["node".to_owned()]).unwrap();
    let hash = hex(&Sha256::digest(made.cert.der()));
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()).into();
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let user = User { name: "admin".into(), role: Role::Admin.into(), ..User::default() };
    let login = LoginResponse { token: "session-token".into(), user: Some(user), ..LoginResponse::default() };
    let me = WhoAmIResponse { name: "admin".into(), role: Role::Admin.into() };
    let answers = [vms(), ("Login", Answer::one(&login)), ("WhoAmI", Answer::one(&me))];
    (Node::start_with(answers, Some(config)), hash)
}

#[test]
fn a_certificate_is_believed_when_its_fingerprint_is_known_and_not_before() {
    let (node, hash) = secure_node();
    let address = node.address.clone().unwrap();
    let home = node.directory.path();
    let unknown = qx(home, &format!("--node {address} vm ls"), "");
    ends(&unknown, 4);
    assert!(unknown.err.contains(&hash) && unknown.err.contains("--fingerprint"), "{unknown:?}");
    let changed = qx(home, &format!("--node {address} --fingerprint {} vm ls", "0".repeat(64)), "");
    ends(&changed, 4);
    assert!(changed.err.contains("HAS CHANGED"), "{changed:?}");
    // Neither was told anything.
    assert_eq!(node.calls.methods(), [""; 0]);
    ends(&qx(home, &format!("--node {address} --fingerprint {hash} vm ls"), ""), 0);
    assert_eq!(node.calls.last("ListVms").authorization.as_deref(), Some("Bearer the-token"));
}

#[test]
fn a_login_is_kept_with_the_certificate_and_a_changed_one_is_refused() {
    let (node, hash) = secure_node();
    let address = node.address.clone().unwrap();
    let home = node.directory.path();
    let login = format!("login {address} --user admin --password-file - --save-as lab --trust-on-first-use");
    let ran = qx(home, &login, "a-long-password\n");
    ends(&ran, 0);
    assert!(ran.out.starts_with(&format!("Logged in to {address} as admin (admin)")), "{ran:?}");
    // Whoever logs in has no token yet, and one from elsewhere is not told.
    assert_eq!(node.calls.last("Login").authorization, None);
    let file = home.join(".config/quantix/contexts.toml");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let kept = std::fs::read_to_string(&file).unwrap();
    assert!(kept.contains(&hash) && kept.contains("session-token"), "{kept}");
    ends(&qx(home, "--context lab whoami", ""), 0);
    let listed = qx(home, "context ls", "");
    assert!(listed.out.contains("lab") && !listed.out.contains("session-token"), "{listed:?}");
    // The same address with another certificate.
    std::fs::write(&file, kept.replace(&hash, &"1".repeat(64))).unwrap();
    let before = node.calls.methods().len();
    let refused = qx(home, "--context lab vm ls", "");
    ends(&refused, 4);
    assert!(refused.err.contains("HAS CHANGED") && refused.err.contains("11:11:11"), "{refused:?}");
    assert_eq!(node.calls.methods().len(), before);
}

#[test]
fn a_list_of_images_names_what_they_boot_with() {
    let boot = quantix_api::v1::ImageBoot { kernel: "k".into(), ..Default::default() };
    let disk = Image { name: "debian".into(), kind: ImageKind::Disk.into(), boot: Some(boot), ..Image::default() };
    let kernel = Image { id: "k".into(), name: "linux".into(), kind: ImageKind::Kernel.into(), ..Image::default() };
    let answer = quantix_api::v1::ListImagesResponse { images: vec![disk, kernel], next_page_token: String::new() };
    let node = Node::start([("ListImages", Answer::one(&answer))]);
    let ran = node.qx("image ls --kind disk");
    assert!(ran.out.contains("linux"), "{ran:?}");
    assert_eq!(ran.out.lines().count(), 2, "{ran:?}");
}
