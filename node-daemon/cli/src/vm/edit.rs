//! Changes what a VM shall be: by options, or as JSON in an editor. Either way the VM is read first and its etag sent back,
//! so that nobody's change is lost.

use std::io::Write;
use std::process::Command;

use clap::Args;
use prost_types::FieldMask;
use quantix_api::json;
use quantix_api::v1::{DiskSpec, GetVmRequest, NicSpec, UpdateVmRequest, Vm, VmSpec};

use crate::failure::Failure;
use crate::pairs::parse_label;
use crate::session::Session;
use crate::terminal;
use crate::vm::spec::{MachineArgs, parse_disk, parse_nic};

/// Shown with `--help`.
pub const EXAMPLES: &str = "\
Examples:
  qx vm edit demo --cpus 4 --memory 4G
  qx vm edit demo --add-disk volume=data --add-network lan --remove-network net0
  qx vm edit demo --label tier=web --unlabel owner --autostart --restart always
  qx vm edit demo   # opens its spec in $VISUAL or $EDITOR";

/// What `vm edit` takes.
#[derive(Debug, Args)]
pub struct EditArgs {
    /// Name or id
    vm: String,
    /// What it is for
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// Set a label (repeatable)
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse_label)]
    labels: Vec<(String, String)>,
    /// Remove a label (repeatable)
    #[arg(long = "unlabel", value_name = "KEY")]
    unlabels: Vec<String>,
    #[command(flatten)]
    machine: MachineArgs,
    /// Attach a disk: volume=NAME or iso=IMAGE, as for create (repeatable)
    #[arg(long = "add-disk", value_name = "DISK", value_parser = parse_disk, help_heading = "Disks and networks")]
    add_disks: Vec<DiskSpec>,
    /// Detach the disk with this id; the volume stays (repeatable)
    #[arg(long = "remove-disk", value_name = "ID", help_heading = "Disks and networks")]
    remove_disks: Vec<String>,
    /// Add a NIC, as for create (repeatable)
    #[arg(long = "add-network", value_name = "NIC", value_parser = parse_nic, help_heading = "Disks and networks")]
    add_nics: Vec<NicSpec>,
    /// Remove the NIC with this id (repeatable)
    #[arg(long = "remove-network", value_name = "ID", help_heading = "Disks and networks")]
    remove_nics: Vec<String>,
}

/// Changes a VM.
pub async fn run(args: EditArgs, session: &Session) -> Result<(), Failure> {
    let mut client = session.vms().await?;
    let before = client.get_vm(GetVmRequest { vm: args.vm.clone() }).await?.into_inner();
    let mut vm = before.clone();
    let mut paths = change(&mut vm, args)?;
    if paths.is_empty() {
        if !terminal::is_interactive() {
            return Err(Failure::usage("Nothing is to be changed").hint("what can be: qx vm edit --help"));
        }
        vm = in_editor(&before)?;
        paths = different(&before, &vm);
        if paths.is_empty() {
            return session.out.done(&vm, &vm.name, "Nothing is changed.");
        }
    }
    let update_mask = Some(FieldMask { paths: paths.into_iter().map(str::to_owned).collect() });
    let vm = client.update_vm(UpdateVmRequest { vm: Some(vm), update_mask }).await?.into_inner();
    let later = vm.status.as_ref().is_some_and(|status| status.restart_needed);
    let sentence = if later { "is changed; some of it takes effect at its next start." } else { "is changed." };
    session.out.done(&vm, &vm.name, &format!("VM {} {sentence}", vm.name))
}

/// Puts what the options say into the VM; gives the paths of what changed.
fn change(vm: &mut Vm, args: EditArgs) -> Result<Vec<&'static str>, Failure> {
    let mut paths = Vec::new();
    if let Some(description) = args.description {
        vm.description = description;
        paths.push("description");
    }
    if !args.labels.is_empty() || !args.unlabels.is_empty() {
        vm.labels.retain(|key, _| !args.unlabels.contains(key));
        vm.labels.extend(args.labels);
        paths.push("labels");
    }
    let spec = vm.spec.get_or_insert_with(VmSpec::default);
    paths.extend(args.machine.apply(spec));
    if replace("disk", &mut spec.disks, args.add_disks, &args.remove_disks, |disk| &disk.id)? {
        paths.push("spec.disks");
    }
    if replace("NIC", &mut spec.nics, args.add_nics, &args.remove_nics, |nic| &nic.id)? {
        paths.push("spec.nics");
    }
    Ok(paths)
}

/// Takes parts out and puts parts in; whether there was anything to do.
fn replace<T>(
    what: &str,
    parts: &mut Vec<T>,
    add: Vec<T>,
    remove: &[String],
    id: fn(&T) -> &str,
) -> Result<bool, Failure> {
    for gone in remove {
        let Some(place) = parts.iter().position(|part| id(part) == gone) else {
            let there: Vec<&str> = parts.iter().map(id).collect();
            return Err(Failure::usage(format!("There is no {what} '{gone}'; there are: {}", there.join(", "))));
        };
        parts.remove(place);
    }
    let changed = !remove.is_empty() || !add.is_empty();
    parts.extend(add);
    Ok(changed)
}

/// Which of the parts that a person may change are different.
fn different(before: &Vm, after: &Vm) -> Vec<&'static str> {
    let parts = [
        ("description", before.description != after.description),
        ("labels", before.labels != after.labels),
        ("spec", before.spec != after.spec),
    ];
    parts.iter().filter(|(_, changed)| *changed).map(|(path, _)| *path).collect()
}

/// Lets somebody change the VM as JSON, until it can be read or is given up.
fn in_editor(vm: &Vm) -> Result<Vm, Failure> {
    let mut shown = json::to_value(vm);
    let kept: serde_json::Map<String, serde_json::Value> = ["description", "labels", "spec"]
        .into_iter()
        .filter_map(|key| shown.get_mut(key).map(|value| (key.to_owned(), value.take())))
        .collect();
    let mut text = serde_json::to_string_pretty(&kept).expect("a JSON value has a text");
    loop {
        text = edited(&text)?;
        match merged(vm, &text) {
            Ok(vm) => return Ok(vm),
            Err(why) => {
                eprintln!("qx: {why}");
                if !terminal::confirm("Edit it again? [y/N] ")? {
                    return Err(Failure::usage("Nothing is changed: what came from the editor cannot be read"));
                }
            }
        }
    }
}

/// The VM with what an editor made of its parts.
fn merged(vm: &Vm, text: &str) -> Result<Vm, String> {
    let value: serde_json::Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let changed: Vm = json::from_value(value).map_err(|error| error.to_string())?;
    Ok(Vm { description: changed.description, labels: changed.labels, spec: changed.spec, ..vm.clone() })
}

/// A text after somebody had it in an editor.
fn edited(text: &str) -> Result<String, Failure> {
    let broken = |error: std::io::Error| Failure::failed(format!("The editor cannot be run: {error}"));
    let mut file = tempfile::Builder::new().prefix("qx-").suffix(".json").tempfile().map_err(broken)?;
    file.write_all(text.as_bytes()).map_err(broken)?;
    let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let editor = set("VISUAL").or_else(|| set("EDITOR")).unwrap_or_else(|| "vi".to_owned());
    // The variables may hold options, such as `code --wait`; they are split at blanks, as git does it by a shell.
    let mut words = editor.split_whitespace();
    let program = words.next().unwrap_or("vi");
    let status = Command::new(program).args(words).arg(file.path()).status().map_err(broken)?;
    if !status.success() {
        return Err(Failure::failed(format!("The editor {program} ended with {status}; nothing is changed")));
    }
    std::fs::read_to_string(file.path()).map_err(broken)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Noun};
    use crate::vm::VmCommand;
    use clap::Parser;
    use quantix_api::v1::CpuSpec;

    fn args(line: &str) -> EditArgs {
        let cli = Cli::try_parse_from(line.split(' ')).unwrap_or_else(|error| panic!("{error}"));
        let Noun::Vm { command: VmCommand::Edit(args) } = cli.noun else { panic!("{line}") };
        *args
    }

    fn vm() -> Vm {
        let disk = |id: &str| DiskSpec { id: id.into(), ..DiskSpec::default() };
        Vm {
            labels: [("a".to_owned(), "1".to_owned()), ("b".to_owned(), "2".to_owned())].into(),
            spec: Some(VmSpec {
                cpus: Some(CpuSpec { count: 2, weight: 50, ..CpuSpec::default() }),
                disks: vec![disk("disk0"), disk("disk1")],
                ..VmSpec::default()
            }),
            ..Vm::default()
        }
    }

    #[test]
    fn only_what_was_said_changes() {
        let mut vm = vm();
        let line = "qx vm edit demo --cpus 4 --unlabel a --label c=3 --remove-disk disk0 --add-disk volume=new --autostart off";
        let paths = change(&mut vm, args(line)).unwrap();
        assert_eq!(paths, ["labels", "spec.cpus.count", "spec.autostart", "spec.disks"]);
        let spec = vm.spec.unwrap();
        let cpus = spec.cpus.unwrap();
        assert_eq!((cpus.count, cpus.weight), (4, 50));
        assert_eq!(vm.labels.keys().collect::<Vec<_>>(), ["b", "c"]);
        assert_eq!(spec.disks.iter().map(|disk| disk.id.as_str()).collect::<Vec<_>>(), ["disk1", ""]);
        assert!(!spec.autostart.unwrap().enabled);
    }

    #[test]
    fn a_part_that_is_not_there_cannot_be_removed() {
        let failure = change(&mut vm(), args("qx vm edit demo --remove-disk disk7")).unwrap_err();
        assert_eq!(failure.message, "There is no disk 'disk7'; there are: disk0, disk1");
    }

    #[test]
    fn what_an_editor_made_is_taken_and_nothing_else() {
        let before = Vm { etag: "e".into(), id: "i".into(), ..vm() };
        let after = merged(&before, r#"{"description": "new", "labels": {"a": "1", "b": "2"}, "spec": null}"#).unwrap();
        assert_eq!((after.id.as_str(), after.etag.as_str(), after.description.as_str()), ("i", "e", "new"));
        assert_eq!(different(&before, &after), ["description", "spec"]);
        assert!(merged(&before, r#"{"specc": {}}"#).unwrap_err().contains("specc"));
    }
}
