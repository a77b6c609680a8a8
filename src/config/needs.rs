//! What the sandbox has to leave open for a configuration.

use std::path::PathBuf;

use percent_encoding::percent_decode_str;

use super::registry::FILES;
use super::{Config, Source, examine};
use crate::registry::StoreSettings;
use crate::sandbox::Needs;

/// Every file that the configuration names, also a faulty one, and itself.
pub fn files(source: &Source) -> Vec<PathBuf> {
    let mut files = examine(source).files;
    files.extend(source.path.clone());
    files
}

impl Config {
    /// What the gate needs of the system beyond what every process does, for this configuration and for others of the same `source`.
    pub fn needs(&self, source: &Source) -> Needs {
        let mut needs = Needs {
            read: files(source),
            ..Needs::default()
        };
        needs.read.retain(|path| !self.sandbox.read.contains(path)); // these as they are, without what is around them
        let binds = self.gate.listeners.iter().flat_map(|one| one.bind.iter());
        let admin = self.admin.iter().map(|admin| &admin.bind);
        needs.bind = binds.chain(admin).map(std::net::SocketAddr::port).collect();
        let Some(registry) = &self.gate.registry else {
            return needs;
        };
        needs.read.push(registry.token_key.clone());
        match &registry.directory.store {
            StoreSettings::Sqlite { path } => {
                // SQLite puts its log beside the file itself, wherever a link leads.
                let file = path.canonicalize().unwrap_or_else(|_| path.clone());
                needs.write.extend(file.parent().map(PathBuf::from));
            }
            StoreSettings::Postgres { url, .. } => needs.read.extend(files_in(url)),
        }
        let has_api = self
            .admin
            .as_ref()
            .is_some_and(|admin| admin.token.is_some());
        if has_api && !registry.token_key.exists() {
            // The first token that an operator asks for makes it.
            needs
                .write
                .extend(registry.token_key.parent().map(PathBuf::from));
        }
        needs.write.sort();
        needs.write.dedup();
        needs
    }
}

/// The files that the URL of a PostgreSQL registry names.
fn files_in(url: &str) -> Vec<PathBuf> {
    let query = url.split_once('?').map_or("", |(_, query)| query);
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let files = pairs.filter(|(name, _)| FILES.contains(name));
    files
        .map(|(_, path)| {
            percent_decode_str(path)
                .decode_utf8_lossy()
                .into_owned()
                .into()
        })
        .collect()
}
