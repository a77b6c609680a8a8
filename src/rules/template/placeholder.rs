//! The placeholders: how they are spelt, and which characters their texts may hold.

/// What stands between braces.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Placeholder {
    Device,
    ClientId,
    Username,
    Mode,
    Listener,
    Trust,
    Ip,
    CertCn,
    CertSerial,
    CertFingerprint,
    CertSanUri,
    CertSanDns,
}

impl Placeholder {
    /// Every placeholder, in the order of the documentation.
    pub(super) const ALL: [Self; 12] = [
        Self::Device,
        Self::ClientId,
        Self::Username,
        Self::Mode,
        Self::Listener,
        Self::Trust,
        Self::Ip,
        Self::CertCn,
        Self::CertSerial,
        Self::CertFingerprint,
        Self::CertSanUri,
        Self::CertSanDns,
    ];

    /// The text in a template, braces included.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Device => "{device}",
            Self::ClientId => "{client_id}",
            Self::Username => "{username}",
            Self::Mode => "{mode}",
            Self::Listener => "{listener}",
            Self::Trust => "{trust}",
            Self::Ip => "{ip}",
            Self::CertCn => "{cert.cn}",
            Self::CertSerial => "{cert.serial}",
            Self::CertFingerprint => "{cert.fingerprint}",
            Self::CertSanUri => "{cert.san.uri}",
            Self::CertSanDns => "{cert.san.dns}",
        }
    }

    /// Reads what stands between braces.
    pub(super) fn from_inside(inside: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|placeholder| bare(placeholder.word()) == inside)
    }

    /// The known placeholder that `inside` was most likely meant to be, if one is near.
    pub(super) fn nearest(inside: &str) -> Option<Self> {
        // A long text costs its length squared to compare, and is near to nothing.
        if inside.len() > 64 {
            return None;
        }
        let meant = inside.trim().to_lowercase();
        Self::ALL
            .into_iter()
            .map(|placeholder| {
                (
                    strsim::jaro_winkler(&meant, bare(placeholder.word())),
                    placeholder,
                )
            })
            .filter(|(likeness, _)| *likeness > 0.8)
            .max_by(|(a, _), (b, _)| a.total_cmp(b))
            .map(|(_, placeholder)| placeholder)
    }

    /// Whether its text is the device's or its issuer's to choose.
    pub(super) fn is_free(self) -> bool {
        matches!(
            self,
            Self::ClientId | Self::Username | Self::CertCn | Self::CertSanUri | Self::CertSanDns
        )
    }

    /// Whether its text, in a name, may hold `c`, where `c` is a character that no device id holds.
    ///
    /// Every alphabet holds letters, digits and `-`, so modes and hex hold no such character; client ids and usernames
    /// are held to the alphabet when they are rendered into a name.
    pub(super) fn may_hold(self, c: char) -> bool {
        match self {
            Self::Device
            | Self::ClientId
            | Self::Username
            | Self::Mode
            | Self::CertSerial
            | Self::CertFingerprint => false,
            Self::Ip => c == ':',
            Self::Listener | Self::Trust | Self::CertCn | Self::CertSanUri | Self::CertSanDns => {
                true
            }
        }
    }
}

/// The text between the braces.
fn bare(word: &str) -> &str {
    &word[1..word.len() - 1]
}
