//! `[[trust]]`

use super::fault::quoted;
use super::listener::label;
use super::reader::{Got, Notes, Section};
use crate::rules::device::Alphabet;
use crate::rules::identity::{Field, Naming, Pattern};
use crate::rules::record::{ISSUER, OWN};
use crate::tls::trust::{CrlStale, Settings};

/// A trust group as far as it could be read.
pub(super) struct Group<'n> {
    pub(super) section: Section<'n>,
    pub(super) name: String,
    /// `None`, if anything in it is wrong.
    pub(super) settings: Option<Settings>,
}

/// Reads every `[[trust]]`.
pub(super) fn read<'n>(
    sections: Vec<Section<'n>>,
    alphabet: &Alphabet,
    notes: &Notes,
) -> Vec<Group<'n>> {
    let mut groups: Vec<Group<'n>> = Vec::new();
    for section in sections {
        let before = notes.fault_count();
        let mut group = read_one(section, alphabet);
        if let Some(other) = groups.iter().find(|other| other.name == group.name) {
            let what = format!(
                "{:?} is the name of {} too",
                group.name,
                other.section.name_of("name")
            );
            group
                .section
                .fault("name", what, "give each trust group a name of its own");
        }
        if notes.fault_count() > before {
            group.settings = None;
        }
        groups.push(group);
    }
    groups
}

/// The name of a group; two words stand for vouchers that are no group of CAs.
fn name(text: &str) -> Result<String, (String, String)> {
    if text == ISSUER || text == OWN {
        let what = format!(
            "{} stands for devices that no trust group vouches for",
            quoted(text)
        );
        return Err((what, "give the group another name".into()));
    }
    label(text)
}

fn read_one<'n>(mut section: Section<'n>, alphabet: &Alphabet) -> Group<'n> {
    let name = section.parsed("name", "fleet", name).or("default".into());
    let ca = match section.paths("ca", "devices-ca.pem") {
        Got::Good(paths) if !paths.is_empty() => paths,
        Got::Faulty => Vec::new(),
        Got::Absent | Got::Good(_) => {
            section.fault(
                "ca",
                "is missing",
                "write ca = [\"devices-ca.pem\"], or use --client-ca",
            );
            Vec::new()
        }
    };
    let intermediates = section
        .paths("intermediates", "issuing-ca.pem")
        .or(Vec::new());
    let crl = section.paths("crl", "devices.crl").or(Vec::new());
    let stale = |word: &str| {
        STALE
            .iter()
            .find(|(known, _)| *known == word)
            .map(|(_, stale)| *stale)
    };
    let crl_stale = section
        .word("crl_stale", &STALE.map(|(word, _)| word), stale)
        .or(CrlStale::Refuse);
    let field = section
        .word("device", &Field::WORDS, Field::from_word)
        .or(Field::SubjectCn);
    let example = "^urn:device:(?<device>.+)$";
    let pattern = section.parsed("pattern", example, |text| {
        Pattern::parse(text).map_err(|bad| (bad.to_string(), String::new()))
    });
    section.finish();
    if crl.is_empty() && crl_stale == CrlStale::Use {
        section.warn("crl_stale", "has no effect without crl");
    }
    let naming = Naming {
        field,
        pattern: pattern.good(),
        alphabet: alphabet.clone(),
    };
    let settings = Settings {
        name: name.clone(),
        ca,
        intermediates,
        crl,
        crl_stale,
        naming,
    };
    Group {
        section,
        name,
        settings: Some(settings),
    }
}

/// The words of `trust.crl_stale`.
pub(super) const STALE: [(&str, CrlStale); 2] =
    [("refuse", CrlStale::Refuse), ("use", CrlStale::Use)];
