//! What a device shows, made or taken: a certificate of our CA, for a key of ours or of the device; or one made elsewhere.

use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{SHA256, digest};
use clap::Args;

use super::super::Failure;
use super::super::ca::{Written, days, failure, shell, there_already};
use super::group;
use crate::pki::index::{self, Entry};
use crate::pki::{self, Certified, Fault, Issued, Order, Request, Validity, folder};
use crate::registry::{self, form::time_text};
use crate::rules::change::{NotTaken, Part, check_name, take_certificate};
use crate::rules::device::DeviceId;
use crate::rules::identity::Certificate;
use crate::rules::record::{Pin, Proof, Valid};
use crate::tls::{files, trust};

/// Where a certificate comes from.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "What it shows")]
pub(super) struct Sources {
    /// Issue a certificate by the CA in this folder, as `tidegate ca init` made it
    #[arg(long, value_name = "DIR", requires = "out")]
    ca: Option<PathBuf>,
    /// The folder for ID.pem, and for ID.key unless --csr is given; made if it is not there
    #[arg(long, value_name = "DIR", requires = "ca")]
    out: Option<PathBuf>,
    /// How many days the certificate is good for [default: 730]
    #[arg(long, value_name = "DAYS", requires = "ca", value_parser = days())]
    days: Option<u32>,
    /// Issue it for the key of this request (PKCS #10, PEM or DER); nothing else that the request asks for is given
    #[arg(long, value_name = "FILE", requires = "ca")]
    csr: Option<PathBuf>,
    /// Take this certificate, and no other (PEM or DER); it may be self-signed, a CA's, of version 1
    #[arg(long, value_name = "CERT")]
    pin: Option<PathBuf>,
    /// Take any certificate with the key of this one
    #[arg(long, value_name = "CERT")]
    pin_key: Option<PathBuf>,
}

/// For whom, and what is known of trust.
pub(super) struct For<'a> {
    pub(super) device: &'a DeviceId,
    /// `None`: there is no registry.
    pub(super) groups: Option<&'a [trust::Settings]>,
    /// `--trust`
    pub(super) trust: Option<&'a str>,
    /// `--until`
    pub(super) until: Option<i64>,
    pub(super) now: i64,
}

/// All that is to be done, checked; nothing is written yet.
#[derive(Default)]
pub(super) struct Prepared {
    /// What is to be registered.
    pub(super) credentials: Vec<(Proof, Valid)>,
    signed: Option<Signed>,
}

struct Signed {
    made: Made,
    ca: PathBuf,
    out: PathBuf,
    name: String,
}

enum Made {
    WithKey(Issued),
    ForKey(Certified),
}

impl Sources {
    pub(super) fn is_empty(&self) -> bool {
        self.ca.is_none() && self.pin.is_none() && self.pin_key.is_none()
    }

    /// Only what needs no registry is asked for.
    pub(super) fn only_issues(&self) -> bool {
        self.ca.is_some() && self.pin.is_none() && self.pin_key.is_none()
    }

    /// What is told where certificate and key of the device are in `--out` already; `None`: they are not.
    pub(super) fn made_already(&self, device: &DeviceId) -> Option<String> {
        let (out, name) = (self.out.as_ref()?, device.to_string());
        folder::has_issued(out, &name).then(|| there_already(out, &format!("{name}.pem")))
    }

    /// Makes or takes what is asked for, and judges it.
    pub(super) fn prepare(&self, whom: &For<'_>) -> Result<Prepared, Failure> {
        let mut prepared = Prepared::default();
        if let (Some(ca), Some(out)) = (&self.ca, &self.out) {
            self.sign(ca, out, whom, &mut prepared)?;
        }
        for (file, part) in [(&self.pin, Part::Certificate), (&self.pin_key, Part::Key)] {
            if let Some(file) = file {
                prepared.credentials.push(pin(file, part, whom)?);
            }
        }
        Ok(prepared)
    }

    fn sign(
        &self,
        ca: &Path,
        out: &Path,
        whom: &For<'_>,
        prepared: &mut Prepared,
    ) -> Result<(), Failure> {
        let pki = |fault: Fault| failure(&fault);
        let authority = folder::open_authority(ca).map_err(pki)?;
        let days = self.days.unwrap_or(pki::DEVICE_DAYS);
        let validity = Validity::days(days).within(authority.validity());
        let order = Order::device(whom.device).valid(validity);
        let made = match &self.csr {
            None => Made::WithKey(authority.issue(order).map_err(pki)?),
            Some(file) => {
                let der =
                    files::request(file).map_err(|fault| Failure::failed(fault.to_string()))?;
                let request = Request::read(&der)
                    .map_err(|bad| Failure::failed(format!("{}: {bad}", file.display())))?;
                Made::ForKey(authority.certify(order, &request).map_err(pki)?)
            }
        };
        let certified = made.certified();
        if let Some(groups) = whom.groups {
            let group = group_of(groups, whom.trust, ca, authority.certificate())?;
            let certificate = read(certified.certificate(), ca)?;
            let group = group.group();
            check_name(&group, &certificate, whom.device)
                .map_err(|fault| Failure::failed(format!("{fault}; {OURS}")))?;
            let end = validity.not_after;
            prepared.credentials.push((
                group.proof(Some(Pin::Certificate(certificate.print))),
                Valid {
                    from: whom.now,
                    until: Some(whom.until.map_or(end, |until| until.min(end))),
                },
            ));
        }
        prepared.signed = Some(Signed {
            made,
            ca: ca.to_owned(),
            out: out.to_owned(),
            name: whom.device.to_string(),
        });
        Ok(())
    }
}

const OURS: &str = "a certificate of `tidegate device` has the common name ID and the URI urn:device:ID: write device = \"subject.cn\", or device = \"san.uri\" and pattern = '^urn:device:(?<device>.+)$'";

/// The group that the CA speaks for: that of `--trust`, or the only one that has it.
fn group_of<'g>(
    groups: &'g [trust::Settings],
    named: Option<&str>,
    ca: &Path,
    certificate: &[u8],
) -> Result<&'g trust::Settings, Failure> {
    let ca = ca.join(folder::CERTIFICATE);
    let has = |group: &trust::Settings| -> Result<bool, Failure> {
        for file in &group.ca {
            let told = |fault: files::FileFault| {
                Failure::failed(format!("trust[{}].ca: {fault}", group.name))
            };
            let anchors = files::certificates(file).map_err(told)?;
            if anchors.iter().any(|anchor| anchor.as_ref() == certificate) {
                return Ok(true);
            }
        }
        Ok(false)
    };
    let own = |group: &str| {
        Failure::failed(format!(
            "{} is not a CA of trust[{group}]; add it to trust[{group}].ca, or name the group that has it by --trust",
            ca.display()
        ))
    };
    if let Some(name) = named {
        let group = group(groups, name)?;
        return if has(group)? {
            Ok(group)
        } else {
            Err(own(name))
        };
    }
    let mut fitting = Vec::new();
    for group in groups {
        if has(group)? {
            fitting.push(group);
        }
    }
    match fitting.as_slice() {
        [group] => Ok(group),
        [] => Err(Failure::failed(format!(
            "{} is not a CA of any trust group, so nobody would take its certificates; write a [[trust]] with ca = [{:?}] into the \
             configuration",
            ca.display(),
            ca.display().to_string()
        ))),
        several => {
            let names: Vec<&str> = several.iter().map(|group| group.name.as_str()).collect();
            Err(Failure::asked_wrongly(format!(
                "{} is a CA of {}; say which by --trust",
                ca.display(),
                names.join(" and of ")
            )))
        }
    }
}

fn read(der: &[u8], file: &Path) -> Result<Certificate, Failure> {
    Certificate::read(der).map_err(|fault| Failure::failed(format!("{}: {fault}", file.display())))
}

/// Takes a certificate, or its key, that was made elsewhere.
fn pin(file: &Path, part: Part, whom: &For<'_>) -> Result<(Proof, Valid), Failure> {
    let der = files::certificate(file).map_err(|fault| Failure::failed(fault.to_string()))?;
    let groups = whom.groups.unwrap_or_default();
    let group = whom.trust.map(|name| group(groups, name)).transpose()?;
    let group = group.map(trust::Settings::group);
    let (device, until, now) = (whom.device, whom.until, whom.now);
    take_certificate(&der, part, group.as_ref(), device, until, now).map_err(|fault| {
        let told = match &fault {
            NotTaken::Unreadable(_) => fault.to_string(),
            NotTaken::Ended(at) => format!(
                "the certificate ended at {}; make a new one, pin its key alone by --pin-key, or say by --until how long it is to count",
                time_text(*at)
            ),
            NotTaken::NotADevices(_) => {
                format!("{fault}; leave --trust out, and it is pinned as it is")
            }
            NotTaken::NotIts(_) => format!(
                "{fault}; register it under that name, or leave --trust out to pin the certificate whatever it says"
            ),
        };
        Failure::failed(format!("{}: {told}", file.display()))
    })
}

impl Made {
    fn certified(&self) -> &Certified {
        match self {
            Self::WithKey(issued) => issued.certified(),
            Self::ForKey(certified) => certified,
        }
    }
}

/// The files of a certificate that was issued.
#[derive(Default)]
pub(super) struct Files {
    pub(super) paths: Vec<PathBuf>,
    /// The SHA-256 of the certificate, in hex.
    print: Option<String>,
    /// A line for each, and what to type next.
    pub(super) words: String,
}

impl Prepared {
    /// The serial of what was issued, in hex.
    pub(super) fn serial(&self) -> Option<String> {
        let signed = self.signed.as_ref()?;
        Some(hex::encode(signed.made.certified().serial()))
    }

    /// Notes what was issued with its CA, and writes its files.
    pub(super) fn write(&self) -> Result<Files, Failure> {
        let Some(Signed {
            made,
            ca,
            out,
            name,
        }) = &self.signed
        else {
            return Ok(Files::default());
        };
        let pki = |fault: Fault| failure(&fault);
        let certified = made.certified();
        // First into the index: whatever is handed out can be revoked by its device's name.
        index::note(ca, &Entry::device(name, certified)).map_err(pki)?;
        let ends = certified.validity().last_day();
        let serial = hex::encode(certified.serial());
        let print = Some(hex::encode(digest(&SHA256, certified.certificate())));
        let what = format!("{name}, good until {ends}, serial {serial}");
        match made {
            Made::ForKey(certified) => {
                let [certificate] = folder::save_certified(out, name, certified).map_err(pki)?;
                let words = Written::default().file(&certificate, &what).to_string();
                Ok(Files {
                    paths: vec![certificate],
                    print,
                    words,
                })
            }
            Made::WithKey(issued) => {
                let [certificate, key] = folder::save_issued(out, name, issued).map_err(pki)?;
                let written = Written::default().file(&certificate, &what).file(
                    &key,
                    "its private key, readable by you alone: this is the only copy",
                );
                let words = format!(
                    "{written}\nNext, through the gate, by a name that is in its server certificate (--cafile: the CA that issued that):\n  \
                     mosquitto_pub -h localhost -p 8883 --cafile {} --cert {} --key {} -t devices/{name}/hello -m world\n",
                    shell(&ca.join(folder::CERTIFICATE)),
                    shell(&certificate),
                    shell(&key),
                );
                Ok(Files {
                    paths: vec![certificate, key],
                    print,
                    words,
                })
            }
        }
    }
}

impl Files {
    /// Takes back what was just written, since the registry did not take it. Where the registry got lost it may have taken it all
    /// the same, and the only copy of the key stays.
    pub(super) fn not_registered(&self, device: &DeviceId, fault: &registry::Fault) -> Failure {
        if self.paths.is_empty() || !matches!(fault, registry::Fault::Away(_)) {
            for path in &self.paths {
                let _ = std::fs::remove_file(path);
            }
            return Failure::failed(fault.to_string());
        }
        let paths: Vec<String> = self.paths.iter().map(|path| shell(path)).collect();
        let print = self.print.as_deref().unwrap_or_default();
        Failure::failed(format!(
            "{fault}; so {} stay for now: ask `tidegate device show {device}` when the registry is back; if it tells of the \
             certificate with SHA-256 {print}, use them, else delete them and begin again",
            paths.join(" and ")
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A commit whose answer got lost may have been made: the key must not be.
    #[test]
    fn files_stay_where_the_registry_may_have_taken_the_device() {
        use registry::Fault::{Away, DeviceExists, Refused, Unusable};
        let home = tempfile::tempdir().expect("a folder");
        let device: DeviceId = "meter-7".parse().expect("a device id");
        let write = || {
            let paths = ["meter-7.pem", "meter-7.key"].map(|name| home.path().join(name));
            for path in &paths {
                std::fs::write(path, "x").expect("written");
            }
            Files {
                paths: paths.to_vec(),
                print: Some("ab12".into()),
                words: String::new(),
            }
        };
        let files = write();
        let told = files
            .not_registered(&device, &Away("lost".into()))
            .to_string();
        assert!(files.paths.iter().all(|path| path.exists()));
        for part in [
            "lost",
            "meter-7.pem and ",
            "meter-7.key stay",
            "`tidegate device show meter-7`",
            "ab12",
            "delete them",
        ] {
            assert!(told.contains(part), "{part} is not in {told}");
        }
        for fault in [
            DeviceExists(device.clone()),
            Refused("no".into()),
            Unusable("no".into()),
        ] {
            let files = write();
            let told = files.not_registered(&device, &fault).to_string();
            assert_eq!(told, fault.to_string());
            assert!(files.paths.iter().all(|path| !path.exists()), "{fault}");
        }
    }
}
