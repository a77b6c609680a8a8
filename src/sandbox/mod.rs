//! The sandbox that the gate builds around itself: what it will never need, it gives up before it takes the first device.
//!
//! Landlock (landlock(7)) where the kernel has it, as far as it has it, and `no_new_privs`. It counts for the thread that enters and for
//! all that it begins later, so it is entered before there are others. Nothing gives back what was given up, neither a reload.
//!
//! Given up are: programs and privileges; every file but those that are named, with the folders in which they may be exchanged, and those of the
//! system that libraries read; writing but in the registry's folder; TCP ports but those of the listeners; signals and abstract sockets of other
//! processes. Not given up is dialling: brokers, issuers and registries may come by reload, and Landlock knows of them no more than ports.

mod reach;

use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, LandlockStatus, NetPort, Ruleset,
    RulesetAttr as _, RulesetCreatedAttr as _, RulesetError, RulesetStatus, Scope, make_bitflags,
    path_beneath_rules,
};
use rustix::fs::{Access, OFlags};
use rustix::io::Errno;

/// What is asked of Landlock: files (1), links between folders (2), truncating (3), TCP (4), devices (5), signals and abstract sockets (6).
const ABI_WANTED: ABI = ABI::V6;

/// `[sandbox]` as the gate obeys it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Settings {
    /// Whether, and how strictly.
    pub mode: Mode,
    /// Further files and folders that may be read: where a reload will name files.
    pub read: Vec<PathBuf>,
}

/// `sandbox.mode`
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Mode {
    /// As much as the kernel has; the log tells how much that is.
    #[default]
    Auto,
    /// All of it, or the gate does not start.
    Required,
    /// None of it.
    Off,
}

/// What a gate needs that its configuration says.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Needs {
    /// Files that are read, at a reload again.
    pub read: Vec<PathBuf>,
    /// Folders in which files are made, written and removed.
    pub write: Vec<PathBuf>,
    /// Folders in which sockets are made and removed.
    pub sockets: Vec<PathBuf>,
    /// TCP ports that are bound; with 0 among them, any may be.
    pub bind: Vec<u16>,
}

/// How far the gate is inside.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Inside {
    mode: Mode,
    /// The version of Landlock that the kernel has; 0: none, or nothing of it counts.
    landlock: i32,
    /// All that was asked for counts.
    whole: bool,
    no_new_privs: bool,
    /// Why it failed, where it should not have.
    fault: Option<String>,
    write: Vec<PathBuf>,
}

/// Enters. To be called while there is one thread, and all that is read once and never again has been read.
///
/// # Errors
/// In [`Mode::Required`], when any of it is not to be had: a sentence with the way out.
pub fn enter(settings: &Settings, needs: &Needs) -> Result<Inside, String> {
    let mut inside = Inside {
        mode: settings.mode,
        landlock: 0,
        whole: false,
        no_new_privs: false,
        fault: None,
        write: needs.write.clone(),
    };
    if settings.mode == Mode::Off {
        return Ok(inside);
    }
    inside.no_new_privs = rustix::thread::set_no_new_privs(true).is_ok();
    match restrict(settings, needs) {
        Ok((version, whole)) => (inside.landlock, inside.whole) = (version, whole),
        Err(fault) => inside.fault = Some(fault.to_string()),
    }
    if settings.mode == Mode::Required && !(inside.whole && inside.no_new_privs) {
        return Err(format!(
            "{}; start it where there is Landlock {} (Linux 6.12, with landlock among lsm=), or write sandbox.mode = \"auto\"",
            inside.sentence(),
            ABI_WANTED as i32,
        ));
    }
    Ok(inside)
}

/// Gives the version that the kernel has, and whether all that was asked for counts.
fn restrict(settings: &Settings, needs: &Needs) -> Result<(i32, bool), RulesetError> {
    let (read, write) = (reading(), writing());
    // The workers bind the port that the system chose for the first of them, and nobody knows it yet.
    let binds = !needs.bind.contains(&0);
    let mut ruleset = Ruleset::default()
        .handle_access(AccessFs::from_all(ABI_WANTED))?
        .scope(Scope::from_all(ABI_WANTED))?;
    if binds {
        ruleset = ruleset.handle_access(AccessNet::BindTcp)?;
    }
    let mut ruleset = ruleset
        .create()?
        // What is not there is passed over.
        .add_rules(path_beneath_rules(reach::system(), read))?
        .add_rules(path_beneath_rules(reach::around(&needs.read), read))?
        .add_rules(path_beneath_rules(&settings.read, read))?
        .add_rules(path_beneath_rules(&needs.write, read | write))?
        .add_rules(path_beneath_rules(&needs.sockets, making_sockets()))?;
    if binds {
        // 0: whatever port the system chooses, to dial from one of broker.source_addresses.
        for port in needs.bind.iter().copied().chain([0]) {
            ruleset = ruleset.add_rule(NetPort::new(port, AccessNet::BindTcp))?;
        }
    }
    let status = ruleset.restrict_self()?;
    let version = match status.landlock {
        LandlockStatus::Available {
            effective_abi,
            kernel_abi,
        } if status.ruleset != RulesetStatus::NotEnforced => {
            kernel_abi.unwrap_or(effective_abi as i32)
        }
        _ => 0,
    };
    Ok((version, status.ruleset == RulesetStatus::FullyEnforced))
}

fn reading() -> BitFlags<AccessFs> {
    make_bitflags!(AccessFs::{ReadFile | ReadDir})
}

/// SQLite makes and removes files beside its own; so does a new token key.
fn writing() -> BitFlags<AccessFs> {
    make_bitflags!(AccessFs::{WriteFile | Truncate | MakeReg | RemoveFile})
}

/// Where the next gate asks, a socket is made; what a gate that died left there is removed first.
fn making_sockets() -> BitFlags<AccessFs> {
    make_bitflags!(AccessFs::{MakeSock | RemoveFile})
}

impl Inside {
    /// Tells the log, in one line.
    pub fn tell(&self) {
        let write: Vec<_> = self
            .write
            .iter()
            .map(|folder| folder.display().to_string())
            .collect();
        let (landlock, no_new_privs) = (self.landlock, self.no_new_privs);
        let (write, why) = (write.join(" "), self.sentence());
        if self.fault.is_some() {
            tracing::warn!(event = "sandbox", why, landlock, no_new_privs, write);
        } else {
            tracing::info!(event = "sandbox", why, landlock, no_new_privs, write);
        }
    }

    fn sentence(&self) -> String {
        let wanted = ABI_WANTED as i32;
        match (&self.fault, self.mode, self.landlock) {
            (_, Mode::Off, _) => "no sandbox: sandbox.mode is \"off\"".into(),
            (Some(fault), ..) => format!("Landlock could not be used: {fault}"),
            (None, _, 0) => "this kernel has no Landlock, or does not use it".into(),
            (None, _, found) if !self.whole => {
                format!(
                    "the sandbox is not whole: this kernel has Landlock {found}, and {wanted} would be whole"
                )
            }
            _ => "the sandbox is whole".into(),
        }
    }

    /// Those of `paths` that are regular files, and that only the sandbox keeps the gate from reading. A new configuration that names one can count after a restart.
    pub fn bars(&self, paths: &[PathBuf]) -> Vec<PathBuf> {
        if self.landlock == 0 {
            return Vec::new();
        }
        paths
            .iter()
            .filter(|path| is_barred(path))
            .cloned()
            .collect()
    }
}

/// access(2) asks the file's mode, opening it asks Landlock, too. Opening a pipe does not wait for somebody who writes to it: nobody may ever do.
fn is_barred(path: &Path) -> bool {
    // Of a device the sandbox is the lesser fault: the gate would not read it anywhere.
    if !path.metadata().is_ok_and(|about| about.is_file()) {
        return false;
    }
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let opened = rustix::fs::open(path, flags, rustix::fs::Mode::empty());
    let refused = matches!(opened, Err(Errno::ACCESS | Errno::PERM));
    refused && rustix::fs::access(path, Access::READ_OK).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inside(mode: Mode, landlock: i32, whole: bool) -> String {
        let inside = Inside {
            mode,
            landlock,
            whole,
            no_new_privs: true,
            fault: None,
            write: Vec::new(),
        };
        inside.sentence()
    }

    #[test]
    fn the_log_says_how_far_the_gate_is_inside() {
        for (mode, landlock, whole, told) in [
            (Mode::Auto, 7, true, "the sandbox is whole"),
            (
                Mode::Auto,
                2,
                false,
                "this kernel has Landlock 2, and 6 would be whole",
            ),
            (Mode::Auto, 0, false, "no Landlock"),
            (Mode::Off, 0, false, "\"off\""),
        ] {
            let said = inside(mode, landlock, whole);
            assert!(said.contains(told), "{said}");
        }
    }

    #[test]
    fn off_gives_nothing_up() {
        let settings = Settings {
            mode: Mode::Off,
            ..Settings::default()
        };
        let inside = enter(&settings, &Needs::default()).expect("nothing is asked for");
        assert_eq!((inside.landlock, inside.no_new_privs), (0, false));
        assert!(std::fs::read_dir("/tmp").is_ok());
    }
}
