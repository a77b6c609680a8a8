//! Who else can read or change the files that the configuration names.

use std::collections::BTreeSet;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::finding::Finding;
use crate::config::{Config, Source};
use crate::registry::StoreSettings;
use crate::tls::server::Resumption;

/// A file, and the key that names it.
struct Named {
    key: String,
    path: PathBuf,
    is_secret: bool,
}

/// Every user may write it, or read it.
const OTHERS_WRITE: u32 = 0o002;
const OTHERS_READ: u32 = 0o004;
const GROUP_READS: u32 = 0o040;
/// Only who owns a file may move it in that folder (chmod(1)).
const STICKY: u32 = 0o1000;

pub(super) fn judge(config: &Config, source: &Source) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut folders = BTreeSet::new();
    for file in named(config, source) {
        let Ok(data) = fs::metadata(&file.path) else {
            continue; // that is told as a fault
        };
        found.extend(judge_file(&file, &data));
        let folder = file.path.parent().map(Path::to_owned);
        if let Some(folder) = folder.filter(|folder| folders.insert(folder.clone())) {
            found.extend(judge_folder(&file, &folder));
        }
    }
    if let Some(registry) = &config.gate.registry
        && let StoreSettings::Sqlite { path } = &registry.directory.store
    {
        found.extend(judge_registry(path));
    }
    found
}

fn judge_file(file: &Named, data: &Metadata) -> Option<Finding> {
    let path = file.path.display();
    if data.mode() & OTHERS_WRITE != 0 {
        return Some(Finding::warning(
            "file_writable",
            &file.key,
            format!(
                "{path} can be changed by every user of this host, and the gate takes in what changes"
            ),
            "chmod o-w it",
        ));
    }
    // A group of root's own is no other; those whom everybody could read are told by every check.
    let group = file.is_secret && data.gid() != 0 && data.mode() & GROUP_READS != 0;
    (group && data.mode() & OTHERS_READ == 0).then(|| {
        Finding::note(
            "secret_group_readable",
            &file.key,
            format!("{path} can be read by the group {}", data.gid()),
            "good, if that group is the gate's own; otherwise chmod 600 it",
        )
    })
}

/// Who can write a folder can put another file in the place of any in it.
fn judge_folder(file: &Named, folder: &Path) -> Option<Finding> {
    let folder = if folder.as_os_str().is_empty() {
        Path::new(".")
    } else {
        folder
    };
    let mode = fs::metadata(folder).ok()?.mode();
    if mode & OTHERS_WRITE == 0 || mode & STICKY != 0 {
        return None;
    }
    Some(Finding::warning(
        "folder_writable",
        &file.key,
        format!(
            "every user of this host can exchange the files in {}, such as {}",
            folder.display(),
            file.path.display()
        ),
        "chmod o-w the folder, or keep the files elsewhere",
    ))
}

/// The database, and what SQLite keeps beside it.
fn judge_registry(path: &Path) -> Vec<Finding> {
    let mut found = Vec::new();
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    let owner = fs::metadata(folder.unwrap_or(Path::new("."))).map(|data| data.uid());
    for end in ["", "-wal", "-shm"] {
        let mut file = path.as_os_str().to_owned();
        file.push(end);
        let file = PathBuf::from(file);
        let Ok(data) = fs::metadata(&file) else {
            continue;
        };
        let name = file.display();
        if data.mode() & OTHERS_READ != 0 {
            found.push(Finding::warning(
                "registry_readable",
                "registry.url",
                format!("{name} can be read by every user of this host: who the devices are, and hashes of their tokens"),
                "chmod 600 it",
            ));
        }
        if let Ok(owner) = owner
            && owner != data.uid()
        {
            found.push(Finding::warning(
                "registry_owner",
                "registry.url",
                format!("{name} belongs to user {}, and its folder to user {owner}: a gate that runs as one cannot use what the other made", data.uid()),
                format!("run `tidegate device …` as the gate's user; now: chown {owner} {name}"),
            ));
        }
    }
    found
}

/// Every file that the configuration names, and itself.
fn named(config: &Config, source: &Source) -> Vec<Named> {
    let mut all = Vec::new();
    let mut add = |key: String, path: &Path, is_secret| {
        let path = path.to_owned();
        all.push(Named {
            key,
            path,
            is_secret,
        });
    };
    if let Some(path) = &source.path {
        add("configuration".into(), path, false);
    }
    for (key, path) in config.secret_files() {
        add(key.into(), path, true);
    }
    for listener in &config.gate.listeners {
        let Some(tls) = &listener.tls else { continue };
        let key = format!("listener[{}].tls", listener.name);
        add(format!("{key}.certificate"), &tls.certificate, false);
        add(format!("{key}.key"), &tls.key, true);
        for (nth, also) in tls.also.iter().enumerate() {
            add(
                format!("{key}.also[{nth}].certificate"),
                &also.certificate,
                false,
            );
            add(format!("{key}.also[{nth}].key"), &also.key, true);
        }
        if let Resumption::Tickets {
            secret_file: Some(path),
        } = &tls.resumption
        {
            add(format!("{key}.ticket_secret_file"), path, true);
        }
    }
    for group in &config.gate.trust {
        for (key, paths) in [
            ("ca", &group.ca),
            ("intermediates", &group.intermediates),
            ("crl", &group.crl),
        ] {
            for path in paths {
                add(format!("trust[{}].{key}", group.name), path, false);
            }
        }
    }
    if let Some(tls) = &config.gate.broker.tls {
        add("broker.tls.ca".into(), &tls.ca, false);
        if let Some(identity) = &tls.identity {
            add(
                "broker.tls.certificate".into(),
                &identity.certificate,
                false,
            );
            add("broker.tls.key".into(), &identity.key, true);
        }
    }
    if let Some(registry) = &config.gate.registry {
        add("token.key_file".into(), &registry.token_key, true);
        if let StoreSettings::Postgres {
            password_file: Some(path),
            ..
        } = &registry.directory.store
        {
            add("registry.password_file".into(), path, true);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn set(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("set");
    }

    #[test]
    fn what_others_can_change_or_read_is_told() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("server.key");
        fs::write(&path, "key").expect("written");
        let file = Named {
            key: "listener[devices].tls.key".into(),
            path: path.clone(),
            is_secret: true,
        };
        let told = |mode| {
            set(&path, mode);
            let found = judge_file(&file, &fs::metadata(&path).expect("there"));
            found.map(|found| found.id)
        };
        assert_eq!(told(0o600), None);
        assert_eq!(told(0o602), Some("file_writable"));
        let of_root = fs::metadata(&path).expect("there").gid() == 0;
        let group = (!of_root).then_some("secret_group_readable");
        assert_eq!(told(0o640), group);

        let of_folder = |mode| {
            set(folder.path(), mode);
            judge_folder(&file, folder.path()).map(|found| found.id)
        };
        assert_eq!(of_folder(0o755), None);
        assert_eq!(of_folder(0o1777), None);
        assert_eq!(of_folder(0o777), Some("folder_writable"));
    }

    #[test]
    fn a_registry_that_others_read_or_own_is_told() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("tidegate.db");
        assert_eq!(judge_registry(&path), []);
        fs::write(&path, "").expect("written");
        set(&path, 0o600);
        assert_eq!(judge_registry(&path), []);
        set(&path, 0o644);
        let found = judge_registry(&path);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].id, "registry_readable");
        set(&path, 0o600);
        // Only root can give a file away.
        if std::os::unix::fs::chown(folder.path(), Some(12_345), None).is_ok() {
            let found = judge_registry(&path);
            assert_eq!(found[0].id, "registry_owner");
            assert!(
                found[0].what.contains("its folder to user 12345"),
                "{found:?}"
            );
        }
    }
}
