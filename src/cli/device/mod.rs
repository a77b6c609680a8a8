//! `tidegate device`: key and certificate for a device.

use std::path::PathBuf;

use clap::Args;

use super::Failure;
use super::ca::{Written, days, failure, shell};
use crate::pki::{self, Fault, Order, Validity, folder};
use crate::rules::device::DeviceId;

/// Makes devices.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Makes a device's key and certificate, signed by the CA: ID.key (readable by you alone) and ID.pem
    #[command(after_help = ADD_EXAMPLES)]
    Add(Add),
}

const ADD_EXAMPLES: &str = "\
The certificate names the device twice: as its common name, ID, and as the URI urn:device:ID. The key is written
once and kept nowhere else: put both files on the device, then delete them here.

Examples:
  tidegate device add meter-7 --ca pki --out devices
  tidegate device add meter-7 --ca pki --out devices --days 90";

/// `tidegate device add`
#[derive(Args, Debug)]
pub struct Add {
    /// The device's name: 1 to 128 of A–Z a–z 0–9 . _ -
    #[arg(value_name = "ID", value_parser = device)]
    device: DeviceId,
    /// The CA's folder, as `tidegate ca init` made it
    #[arg(long, value_name = "DIR")]
    ca: PathBuf,
    /// The folder for ID.key and ID.pem; made if it is not there
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// How many days the certificate is good for
    #[arg(long, value_name = "DAYS", default_value_t = pki::DEVICE_DAYS, value_parser = days())]
    days: u32,
}

/// The plain alphabet: what the operator of a gate adds to it is not known here.
fn device(text: &str) -> Result<DeviceId, &'static str> {
    let why = "a device's name is 1 to 128 characters of A–Z a–z 0–9 . _ -";
    text.parse().map_err(|_| why)
}

impl Command {
    /// Does it, and tells what was written and what to type next.
    ///
    /// # Errors
    /// The sentence and exit code 1.
    pub fn run(self) -> Result<(), Failure> {
        let Self::Add(add) = self;
        super::say(&add.run().map_err(|fault| failure(&fault))?);
        Ok(())
    }
}

impl Add {
    fn run(self) -> Result<String, Fault> {
        let authority = folder::open_authority(&self.ca)?;
        let validity = Validity::days(self.days).within(authority.validity());
        let issued = authority.issue(Order::device(&self.device).valid(validity))?;
        let [certificate, key] = folder::save_issued(&self.out, self.device.as_str(), &issued)?;

        let (device, ends) = (&self.device, validity.last_day());
        let serial = hex::encode(issued.serial());
        let written = Written::default()
            .file(
                &certificate,
                &format!("{device}, good until {ends}, serial {serial}"),
            )
            .file(
                &key,
                "its private key, readable by you alone: this is the only copy",
            );
        Ok(format!(
            "{written}\nNext, through the gate, by a name that is in its server certificate:\n  \
             mosquitto_pub -h localhost -p 8883 --cafile {} --cert {} --key {} -t devices/{device}/hello -m world\n",
            shell(&self.ca.join(folder::CERTIFICATE)),
            shell(&certificate),
            shell(&key),
        ))
    }
}

#[cfg(test)]
mod tests {
    use clap::{FromArgMatches, Subcommand};

    use super::*;
    use crate::pki::Authority;

    fn typed(line: &[&str]) -> Result<Command, clap::Error> {
        let command = Command::augment_subcommands(clap::Command::new("device"));
        let matches = command.try_get_matches_from([&["device"], line].concat())?;
        Command::from_arg_matches(&matches)
    }

    #[test]
    fn a_device_gets_its_files_once() -> Result<(), Box<dyn std::error::Error>> {
        let home = tempfile::tempdir()?;
        let folder = home.path().display().to_string();
        folder::save_authority(home.path(), &Authority::new("trial")?)?;
        let line = ["add", "meter-7", "--ca", &folder, "--out", &folder];

        let Command::Add(add) = typed(&line)?;
        let text = add.run()?;
        assert!(
            text.contains("--key ") && text.contains("devices/meter-7/hello"),
            "{text}"
        );
        assert!(
            home.path().join("meter-7.key").exists() && home.path().join("meter-7.pem").exists()
        );

        let Command::Add(again) = typed(&line)?;
        let told = again.run().expect_err("the files are there").to_string();
        assert!(told.contains("meter-7.pem is already there"), "{told}");
        Ok(())
    }

    #[test]
    fn a_certificate_ends_with_its_ca() -> Result<(), Box<dyn std::error::Error>> {
        let home = tempfile::tempdir()?;
        let folder = home.path().display().to_string();
        let short = Order::ca("trial").valid(Validity::days(3));
        folder::save_authority(home.path(), &Authority::root(short)?)?;

        let Command::Add(add) = typed(&["add", "m", "--ca", &folder, "--out", &folder])?;
        let text = add.run()?;
        assert!(text.contains(&Validity::days(3).last_day()), "{text}");
        Ok(())
    }

    #[test]
    fn only_a_device_id_names_a_device() {
        for id in ["", "a/b", "#", "a b", "../ca", "ä"] {
            let line = ["add", id, "--ca", "d", "--out", "d"];
            let told = typed(&line).expect_err(id).to_string();
            assert!(told.contains("A–Z a–z 0–9 . _ -"), "{told}");
            assert!(!told.contains("extra_characters"), "{told}");
        }
    }
}
