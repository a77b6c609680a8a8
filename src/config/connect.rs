//! `[connect]`

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::fault::quoted;
use super::reader::{Got, Section};
use super::secret;
use crate::rules::device::Alphabet;
use crate::rules::policy::{AskedClientId, ConnectSettings, Password};
use crate::rules::secret::Secret;
use crate::rules::template::{Template, Use};

/// `[connect]` as far as it could be read.
pub(super) struct Connect<'n> {
    section: Section<'n>,
    /// `None`, if a template is wrong.
    pub(super) settings: Option<ConnectSettings>,
    pub(super) alphabet: Alphabet,
    pub(super) password_file: Option<PathBuf>,
}

/// Reads `[connect]`.
pub(super) fn read(mut section: Section<'_>) -> Connect<'_> {
    let alphabet = section.parsed("extra_characters", ":", |text| {
        let way_out = "leave it out: a device id with it is refused";
        Alphabet::with_extra(text).map_err(|fault| (fault.to_string(), way_out.to_owned()))
    });
    let alphabet = alphabet.or(Alphabet::default());
    let name = |section: &mut Section<'_>, key| {
        let parsed = section.parsed(key, "{device}", |text| template(text, Use::Name, &alphabet));
        match parsed {
            Got::Absent => template("{device}", Use::Name, &alphabet).ok(),
            got => got.good(),
        }
    };
    let client_id = name(&mut section, "client_id");
    let username = name(&mut section, "username");
    let (password, password_file) = read_password(&mut section);
    let asked = |word: &str| {
        ASKED
            .iter()
            .find(|(known, _)| *known == word)
            .map(|(_, asked)| *asked)
    };
    let asked_client_id = section
        .word("asked_client_id", &ASKED.map(|(word, _)| word), asked)
        .or(AskedClientId::Any);
    let user_properties = read_user_properties(&mut section, &alphabet);
    section.finish();
    let settings = (|| {
        Some(ConnectSettings {
            client_id: client_id?,
            username: username?,
            password,
            asked_client_id,
            user_properties,
        })
    })();
    Connect {
        section,
        settings,
        alphabet,
        password_file,
    }
}

impl Connect<'_> {
    /// Whether the broker is told a secret that the gate has; also where it is written wrongly, which is told already.
    pub(super) fn has_password_file(&self) -> bool {
        self.section.wrote("password_file")
    }

    /// Where several trust groups count, each of them can issue any name: the names that the broker is told have to hold the
    /// group, or a CA of one could make a device of the other (threats.md I3, I7).
    pub(super) fn check_groups(&self, groups: &BTreeSet<&str>) {
        let Some(settings) = self.settings.as_ref().filter(|_| groups.len() > 1) else {
            return;
        };
        let between = [':', '@', '=', '~', '/']
            .into_iter()
            .find(|c| !self.alphabet.holds(*c))
            .unwrap_or('/'); // which no alphabet holds
        let names: Vec<&str> = groups.iter().copied().collect();
        for (key, template) in [
            ("client_id", &settings.client_id),
            ("username", &settings.username),
        ] {
            if template.tells_groups_apart() {
                continue;
            }
            let what = format!(
                "{} could name devices of different trust groups alike: {} count at this gate, and each can issue \
                 any device id",
                quoted(&template.to_string()),
                names.join(", ")
            );
            let way_out = format!(
                "write {key} = \"{{trust}}{between}{{device}}\", or give one group all CAs that speak for one fleet"
            );
            self.section.fault(key, what, way_out);
        }
    }
}

fn template(text: &str, use_: Use, alphabet: &Alphabet) -> Result<Template, (String, String)> {
    Template::parse(text, use_, alphabet).map_err(|fault| (fault.to_string(), String::new()))
}

/// The longest text that an MQTT string or binary field may hold (MQTT 5.0 §1.5.4, §1.5.6).
const LONGEST_FIELD: usize = 65_535;

fn read_password(section: &mut Section<'_>) -> (Password, Option<PathBuf>) {
    // What was written is never told: it is probably a secret (threats.md K2).
    let devices = section.parsed("password", "{password}", |text| match text {
        "" => Ok(false),
        "{password}" => Ok(true),
        _ => Err((
            "is a text of its own, and secrets do not belong here".into(),
            "write the secret into a file and name it by password_file; here stands \"\" or \"{password}\"".into(),
        )),
    });
    let file = section.path("password_file", "broker.secret");
    match (devices, file) {
        (Got::Good(true), Got::Good(_)) => {
            section.fault(
                "password_file",
                "cannot stand beside password = \"{password}\"",
                "choose one of the two",
            );
            (Password::None, None)
        }
        (_, Got::Good(file)) => (
            read_secret(section, &file).map_or(Password::None, Password::Fixed),
            Some(file),
        ),
        (Got::Good(true), _) => (Password::Devices, None),
        _ => (Password::None, None),
    }
}

/// Reads the secret; one line end at its end is not part of it.
fn read_secret(section: &Section<'_>, file: &Path) -> Option<Secret<Vec<u8>>> {
    let key = "password_file";
    let secret = secret::read(section, key, file, LONGEST_FIELD as u64)?;
    if secret.is_empty() || secret.len() > LONGEST_FIELD {
        let what = format!("{} holds {} bytes", file.display(), secret.len());
        section.fault(key, what, "write a secret of 1 to 65535 bytes into it");
        return None;
    }
    secret::warn_of_readers(section, key, file);
    Some(Secret::new(secret))
}

fn read_user_properties(section: &mut Section<'_>, alphabet: &Alphabet) -> Vec<(String, Template)> {
    let mut properties = Vec::new();
    for (name, text) in section
        .pairs("user_properties", "{ \"x-mode\" = \"{mode}\" }")
        .or(Vec::new())
    {
        let key = format!(
            "user_properties.{}",
            if super::reader::is_bare(&name) {
                name.clone()
            } else {
                quoted(&name)
            }
        );
        // MQTT 5.0 §1.5.4: no U+0000, at most 65 535 bytes.
        if name.is_empty() || name.contains('\0') || name.len() > LONGEST_FIELD {
            section.fault(
                &key,
                "is no name of a user property",
                "write 1 to 65535 bytes without NUL",
            );
            continue;
        }
        match template(&text, Use::Free, alphabet) {
            Ok(template) => properties.push((name, template)),
            Err((what, way_out)) => section.fault(&key, what, way_out),
        }
    }
    properties
}

/// The words of `connect.asked_client_id`.
pub(super) const ASKED: [(&str, AskedClientId); 2] = [
    ("any", AskedClientId::Any),
    ("device", AskedClientId::Device),
];
