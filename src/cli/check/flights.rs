//! What a small device must be able to receive at a listener (threats.md T6).

use super::finding::Finding;
use crate::gate::ListenerSettings;
use crate::tls::flight::Flight;

/// The buffers of many small TLS stacks, in bytes: what is longer is lost on them.
const SMALL: usize = 4096;

/// TLS's own longest record (RFC 8446 §5.1).
const LONGEST_RECORD: usize = 16 * 1024;

/// Each record costs a device a header, a tag and a turn.
const MANY_RECORDS: usize = 16;

/// RSA of more bits than that costs both sides much, for nothing that a device's years would need.
const LARGE_RSA: usize = 3072;

pub(super) fn judge(listener: &ListenerSettings, flights: &[Flight]) -> Vec<Finding> {
    let key = format!("listener[{}].tls", listener.name);
    let max_record = listener.tls.as_ref().and_then(|tls| tls.max_record);
    let mut found = Vec::new();
    for flight in flights {
        let Flight { name, version, .. } = flight;
        found.push(measured(&key, flight, max_record));
        if flight.largest_message > SMALL {
            found.push(Finding::warning(
                "tls_flight_large",
                format!("{key}.certificate"),
                format!(
                    "the certificates of {name:?} are one message of {} bytes in TLS {version}, more than the {SMALL} that many small devices have room for, \
                     however short its records are",
                    flight.largest_message
                ),
                "show fewer and smaller ones: ECDSA P-256, one intermediate, no root, few names",
            ));
        }
        if flight.records > MANY_RECORDS {
            found.push(Finding::warning(
                "tls_many_records",
                format!("{key}.max_record"),
                format!(
                    "a handshake with {name:?} in TLS {version} is {} records",
                    flight.records
                ),
                "raise max_record to what the devices have room for: 512 to 4096 bytes, mostly",
            ));
        }
        if let Some(root) = flight.root {
            found.push(Finding::warning(
                "tls_root_included",
                format!("{key}.certificate"),
                format!("the chain of {name:?} ends with its root, {root} bytes that every device is sent and none needs"),
                "take the last certificate out of the file",
            ));
        }
        if flight.rsa_bits > LARGE_RSA {
            found.push(Finding::warning(
                "tls_rsa_large",
                format!("{key}.key"),
                format!("the key of {name:?} is {}: a signature of it costs the gate many times what ECDSA P-256 does, and is larger", flight.key),
                "have the certificate issued for an ECDSA P-256 key, beside this one ([[listener.tls.also]]) while some devices know RSA only",
            ));
        }
    }
    found
}

fn measured(key: &str, flight: &Flight, max_record: Option<usize>) -> Finding {
    let Flight {
        version,
        name,
        key: kind,
        certificates,
        bytes,
        records,
        largest_record,
        largest_message,
        more_by_ml_kem,
        ..
    } = flight;
    let plural = |count: usize, what: &str| match count {
        1 => format!("1 {what}"),
        many => format!("{many} {what}s"),
    };
    let ml_kem = match more_by_ml_kem {
        0 => String::new(),
        more => format!("; {more} more if it offers X25519MLKEM768"),
    };
    let what = format!(
        "a device that speaks TLS {version} must be able to receive {bytes} bytes with {name:?} ({kind}, {}), in {} of up to {largest_record} bytes, of which one \
         message has {largest_message}{ml_kem}; later, records of up to {} bytes",
        plural(*certificates, "certificate"),
        plural(*records, "record"),
        max_record.unwrap_or(LONGEST_RECORD),
    );
    let way_out = if max_record.is_none() && *largest_record > 1024 {
        "for devices with smaller buffers write listener.tls.max_record"
    } else {
        ""
    };
    Finding::note("tls_flight", key, what, way_out)
}
